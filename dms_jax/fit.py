"""One call: a network, its loss, data and a budget become a smaller network and a report.

Its smallest use: `dms_jax.fit(fn, params, loss=loss, batches=batches, example=x, budget={"macs": 0.5}, steps=1000,
workdir="runs/mine")`; the result has `fn` and `params`.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import optax

from dms_jax import budgets, fit_arguments
from dms_jax.budgets import Cost, Network
from dms_jax.budgets.amounts import Given
from dms_jax.conduct import Experiment, conduct, warm_cosine
from dms_jax.data.stepping import by_step
from dms_jax.errors import UserError
from dms_jax.fitted import Fitted, fitted
from dms_jax.method.gradients import check_parts
from dms_jax.method.importance import Importance
from dms_jax.method.limits import Limits
from dms_jax.method.loss import Loss, outcome
from dms_jax.method.reading import read as read_loss
from dms_jax.method.reading import shape_of
from dms_jax.method.schedule import Schedule
from dms_jax.method.search import Search
from dms_jax.method.strategy import Strategy
from dms_jax.method.weights import of_steps, optimizer_of
from dms_jax.nested import plain
from dms_jax.partition import numbers
from dms_jax.space import SearchSpace
from dms_jax.structure import Structure
from dms_jax.training.evaluation import drawn, possible_batches, quality_of
from dms_jax.training.job import Job
from dms_jax.training.mesh import make_mesh, on_devices, place
from dms_jax.training.pipeline import Finished, Pipeline
from dms_jax.training.plan import Steps
from dms_jax.training.results import Quality
from dms_jax.training.runs import Run
from dms_jax.training.sizes import split
from dms_jax.training.trial import check_sizes

RATE = 1e-3
"""Peak learning rate of the AdamW that trains where no optimizer is given; the search runs at a constant half of it."""


@dataclass(frozen=True, eq=False, repr=False)
class Task:
    """A network and what it learns, as `experiments.fit` takes it from a file.

    Attributes:
      fn: `(params, *inputs) -> outputs`, of inference; or a `SearchSpace`.
      params: any pytree; None: those that the space was made of.
      loss: as `fit` takes it.
      batches: as `fit` takes them.
      evaluate: as `fit` takes it.
      example: as `fit` takes it.
      options: further arguments of `fit` by name (optimizer, trainable, steps, ...); flags that are given go before.
    """

    fn: Callable[..., Any] | SearchSpace
    params: Any
    loss: Loss
    batches: Any
    evaluate: Callable[..., Any] | Quality | None = None
    example: Any = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        of = self.fn if isinstance(self.fn, SearchSpace) else getattr(self.fn, "__name__", type(self.fn).__name__)
        return f"Task({of}, {numbers(self.params)} in params, options: {', '.join(self.options) or 'none'})"


def fit(
    fn: Callable[..., Any] | SearchSpace,
    params: Any = None,
    *,
    loss: Loss,
    batches: Any,
    budget: Mapping[str, Given | Sequence[Given]],
    steps: int,
    workdir: str | os.PathLike[str],
    example: Any = None,
    evaluate: Callable[..., Any] | Quality | None = None,
    optimizer: optax.GradientTransformation | Callable[[int], optax.GradientTransformation] | None = None,
    pretrain: int = 0,
    finetune: int | None = None,
    trial: int = 0,
    together: bool = True,
    teach: Callable[[Any, Any], jax.Array] | None = None,
    compare: bool = True,
    warmup: int = 0,
    retrain: Literal["sliced", "scratch"] = "sliced",
    fresh: Callable[[Structure, jax.Array], Any] | None = None,
    resources: Sequence[Callable[[Network], Cost | None]] = (),
    limits: Limits | None = None,
    importance: Importance | None = None,
    strategy: Strategy | None = None,
    resource_weight: float | None = None,
    accumulate: int = 1,
    calibrate: int = 0,
    average: float | None = None,
    seed: int = 0,
    devices: Sequence[Any] | None = None,
    fsdp: int = 1,
    title: str | None = None,
    data: str = "",
    command: str | None = None,
    latency_batches: Sequence[int] = (1, 64),
    identity: Mapping[str, Any] | None = None,
    **reading: Any,
) -> Fitted:
    """Pretrain if asked, search, shrink, finetune, train two controls, measure, and write it all down.

    Stop it at any time: the same call goes on where it was, and gives the result at once when all is done.

    Args:
      fn: `(params, *inputs) -> outputs`, of inference and pure; or a `SearchSpace` (`SearchSpace.from_nnx(...)`).
      params: of the full network: any pytree; None: those that the space was made of.
      loss: `(params, batch, key)` -> a scalar, or (it, {"state": new values of what is not trained, "metrics": ...}).
      batches: from the number of a step to its batch, the same one whenever asked; or a list of batches, or what gives
        an iterator of them anew (a loader, a generator function), which is gone through again and again.
      budget: {"macs": x, ...}, one or several: fractions of the full network in (0, 1], numbers above 1, or "2MB". One
        resource may have several amounts, {"macs": (0.5, 0.25, 0.1)}: several sizes from one search, nested, of which
        `dms_jax.load(workdir, size=0.25)` loads one; what is returned is the largest.
      steps: of the search.
      workdir: the run directory: new, or of this very job, which then goes on.
      example: one input or a tuple of all, arrays or shapes; MACs are counted for these: batch 1 for MACs per image.
      evaluate: `(fn, params)` -> a number, or (number, standard error); shares in [0, 1] are shown in % where its name
        says accuracy. Or a `Quality`. None: the mean loss of a few training batches.
      optimizer: for all phases; or from a number of steps to that of a phase so long. None: AdamW, warm-up and cosine.
      pretrain, finetune: steps before and after the search; finetune=None: as many as the search has; 0: none.
      trial: finetuning steps after which what was found and the same with a block less are compared by their loss on
        further batches; the better one goes on. 0: no comparison.
      together: several sizes have one set of weights and are finetuned together; False: each by itself.
      teach: `(params, batch)` -> logits of the full network, as in training: the largest of several sizes then teaches
        the others, which learn half from it and half from the loss.
      compare: train the two controls, as long as search and finetuning: the same keep ratio everywhere, and the full
        network.
      warmup: steps at the beginning of the search in which the structure stays as it is.
      retrain: "sliced": finetune what the search left; "scratch": new parameters, by `fresh`.
      fresh: from a structure and a key to new parameters of those sizes.
      resources: as `SearchSpace.with_resources` takes them.
      limits, importance, strategy, resource_weight, accumulate: as `Search` takes them.
      calibrate: batches over which running statistics are estimated anew after training; 0 keeps the running ones.
      average: decay of a moving average of the weights after the search.
      seed: of everything drawn.
      devices, fsdp: where it runs; over how many devices large parameters are cut. A batch is cut over all of them.
      title, data, command: for the report: the network, the data, how to do it again.
      latency_batches: batch sizes that latency is measured at.
      identity: what else makes the job the one it is, as JSON values by name: settings of the batches, of the loss, the
        checkpoint that `params` are of (only their names, shapes and dtypes are compared).
      **reading: of `SearchSpace.from_function`, where `fn` is a function: trainable, also, tie, unroll, include,
        freeze, blocks, paths. The loss is read with it.

    Returns:
      The small network, its parameters, results and report.

    Raises:
      Interrupted: stopped and saved.
      UserError: arguments that do not fit, a budget that cannot be met, another job's directory, a loss of NaN, ...
    """
    outcome(loss)  # which refuses what is no loss
    fit_arguments.check({
        "workdir": workdir, "evaluate": evaluate, "steps": steps, "pretrain": pretrain, "finetune": finetune,
        "trial": trial, "compare": compare, "warmup": warmup, "retrain": retrain, "fresh": fresh,
        "resources": resources, "accumulate": accumulate, "calibrate": calibrate, "average": average, "seed": seed,
        "devices": devices, "fsdp": fsdp, "title": title, "data": data, "command": command,
        "latency_batches": latency_batches, "identity": identity,
    })  # fmt: skip
    # what is written down are Python's numbers
    steps, pretrain, finetune, trial, warmup = map(plain, (steps, pretrain, finetune, trial, warmup))
    accumulate, calibrate, average, seed = map(plain, (accumulate, calibrate, average, seed))
    latency_batches = tuple(map(plain, latency_batches))
    draw = by_step(batches)
    first = draw(0)
    space, params, inputs = _read(fn, params, loss, first, example, reading)
    space = space.with_resources(*resources)
    budget, sizes = split(space, budget, together, loss, teach, None if teach is None else first)
    make, searching = _optimizers(optimizer, steps)
    check_sizes(trial, sizes)
    plan = Steps(pretrain, steps, steps if finetune is None else finetune, compare=compare, trial=trial)
    chosen: dict[str, Any] = {"limits": limits, "importance": importance, "strategy": strategy}
    chosen = {name: value for name, value in chosen.items() if value is not None}
    search = Search(
        space,
        loss,
        searching,
        budget,
        Schedule(steps, warmup),
        resource_weight=resource_weight,
        accumulate=accumulate,
        **chosen,
    )
    mesh, key, title = make_mesh(devices, fsdp=fsdp), jax.random.key(seed), title or space.source.title
    # before a directory is claimed
    jax.tree.map(partial(check_parts, parts=accumulate), on_devices(lambda step: first, mesh)(0))

    def phases(run: Run) -> Finished:
        job = Job(run, loss, on_devices(draw, mesh), mesh, key, accumulate, calibrate)
        how = {"retrain": retrain, "fresh": fresh, "average": average, "trained": True, "sizes": sizes}
        return Pipeline(job, search, plan, make, {"name": title}, inputs, **how).run(place(space.arrays(params), mesh))

    options = {"warmup": warmup, "retrain": retrain, "calibrate": calibrate, "average": average, "seed": seed}
    costs = {name: search.space.costs[name] for name in search.budget if resources or name not in budgets.makers()}
    # of the same job every measurement is another
    own = {n: c.options or c.note if isinstance(c, budgets.Measured) else c.full for n, c in costs.items()}
    options |= {"resources": own} if own else {}
    options |= {**(identity or {}), **({} if sizes is None else sizes.identity)}
    conduct(
        Experiment(
            directory=workdir,
            identity=_identity(search, plan, title, options),
            command=command or f"dms_jax.fit(..., workdir={os.fspath(workdir)!r})",
            subject=title,
            data=data or "the batches that were given",
            pipeline="p",  # "p-" trains the ratios alone
            seed=seed,
            search=search,
            steps=plan,
            quality=quality_of(evaluate, space, loss, draw, key),
            phases=phases,
            latency_batches=possible_batches(space, latency_batches),
        )
    )
    return fitted(Path(workdir), space, loss, draw)


def _read(
    fn: Any, params: Any, loss: Loss, first: Any, example: Any, reading: dict[str, Any]
) -> tuple[SearchSpace, Any, tuple[Any, ...]]:
    """The space, which knows the loss, the parameters, and inputs to check with."""
    batch = jax.tree.map(shape_of, first)
    if isinstance(fn, SearchSpace):
        if reading:
            raise UserError(f"{sorted(reading)[0]}= was for the space; give it to SearchSpace.from_..., not to fit")
        space = read_loss(fn, outcome(loss), batch, parts=1, writes=True)
        params = fn.source.params if params is None else params
        inputs = space.example if example is None else example
    else:
        if params is None or example is None:
            raise UserError("a function needs its parameters and an example input: fit(fn, params, example=x, ...)")
        inputs = example if isinstance(example, tuple) else (example,)
        also = {"loss": (loss, (batch, jax.eval_shape(lambda: jax.random.key(0)))), **(reading.pop("also", None) or {})}
        known = inspect.signature(SearchSpace.from_function).parameters
        if strange := sorted(set(reading) - set(known)):
            raise UserError(f"fit has no argument {strange[0]!r}")
        space = SearchSpace.from_function(fn, params, *inputs, also=also, **reading)
    if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(params)):
        raise UserError("the parameters are shapes; fit trains them, so give arrays")
    return space, params, jax.tree.map(drawn, inputs if isinstance(inputs, tuple) else (inputs,))


def _optimizers(given: Any, steps: int) -> tuple[Callable[[int], optax.GradientTransformation], Any]:
    """From a number of steps to the optimizer of a phase, and that of the search."""
    if given is None:
        return lambda n: optax.adamw(warm_cosine(RATE, n)), optax.adamw(RATE / 2)
    if isinstance(given, optax.GradientTransformation | optax.MultiSteps):
        return lambda n: optimizer_of(given), optimizer_of(given)
    if not callable(given):
        raise UserError(f"optimizer is a {type(given).__name__}; give an optax one, or a function of a number of steps")
    make = of_steps(given)
    return lambda n: optimizer_of(make(n)), optimizer_of(make(steps))


def _identity(search: Search, plan: Steps, title: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """What makes the job the one it is. Of functions it is the name alone."""
    p, space = search.space.parameters, search.space
    rows = [
        [*row[:1], str(row[1].shape), str(row[1].dtype), row[2]]
        for row in zip(p.paths, p.shapes, p.trained, strict=True)
    ]
    return {
        "experiment": "fit",
        "network": title,
        "example": [str(x) for x in jax.tree.leaves(space.example)],
        "parameters": hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16],
        "groups": [list(names) for names in space.counted],
        "budget": dict(search.budget),
        **plan.identity,
        **options,
        **jax.tree.map(plain, search.limits.identity),
        "strategy": repr(search.strategy),
        **({"slack": search.strategy.limit} if search.strategy.limit < math.inf else {}),  # jobs from before have none
        "importance": getattr(search.importance.measure, "__name__", "custom"),
        "importance_decay": plain(search.importance.decay),
        "resource_weight": plain(search.resource_weight),
        "accumulate": search.accumulate,
    }
