"""Pretrain, search, shrink, finetune, and two controls: what every experiment does, with its own network and data."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
import optax

from dms_jax.baselines import uniform
from dms_jax.budgets.amounts import Given
from dms_jax.errors import UserError
from dms_jax.family import Family
from dms_jax.method.found import shallower, targets
from dms_jax.method.loss import Loss
from dms_jax.method.search import Search
from dms_jax.method.weights import evaluated
from dms_jax.shrink import shrink
from dms_jax.space import SearchSpace
from dms_jax.structure import Structure
from dms_jax.training import trial
from dms_jax.training.job import Job
from dms_jax.training.mesh import place
from dms_jax.training.plan import FOUND, FULL, LONGER, UNIFORM, Steps
from dms_jax.training.processes import local
from dms_jax.training.sizes import Sizes, finetuned


class Network(NamedTuple):
    """A network of the results.

    Attributes:
      fn: `(params, *inputs) -> outputs`, of inference.
      params: its parameters, the whole tree; leaves that are no arrays are None.
      structure: its sizes; None: the full network.
    """

    fn: Callable[..., Any]
    params: Any
    structure: Structure | None


@dataclass(frozen=True)
class Finished:
    """What the phases left.

    Attributes:
      structure: the one found.
      networks: name -> `Network`; of several sizes, the largest has the name, and the others their size behind it.
      difference: the largest difference between the masked and the shrunk network's outputs, right after the search.
      reached: what the search ended at before its result was projected onto the budget, as `Search.reached` has it.
      importance: {group: [N]} at the end of the search; empty where the strategy asks for none.
      family: the networks of several sizes, where there are; `structure` is the largest one's.
      sizes: how they were asked for.
      trial: how the network that was found and one with a block less did against each other, where that was asked for.
    """

    structure: Structure
    networks: dict[str, Network]
    difference: float
    reached: dict[str, float]
    importance: Mapping[str, np.ndarray] = field(default_factory=dict)
    family: Family | None = None
    sizes: Sizes | None = None
    trial: trial.Outcome | None = None

    def found(self) -> list[Network]:
        """The networks that were found, from the largest to the smallest."""
        return [self.networks[name_of(FOUND, number, size)] for number, size in enumerate(self.labels or (None,))]

    @property
    def labels(self) -> tuple[Given, ...]:
        """The sizes, from the largest to the smallest; empty where there is one alone."""
        return () if self.family is None else self.family.sizes


def name_of(kind: str, number: int, size: Given | None) -> str:
    """Of one of several sizes among the networks of the results; the first is the largest."""
    return kind if number == 0 else f"{kind}, {size}"


@dataclass(frozen=True, eq=False)
class Pipeline:
    """The phases of one experiment.

    Every phase trains a loss of the parameters: `job.loss` for the full network, and for a small one the same function
    at its sizes, `space.shrunk(job.loss, structure)`.

    Attributes:
      job: trains; its loss and batches are those of the pretraining and of the full network's control.
      search: what is searched, under which budget.
      steps: of every phase.
      optimizer: from a number of steps to the optimizer of a phase that long; the search has its own.
      model: {"name", "arguments"} for `dms_jax.models.create`, or {"name"} alone, to be written down.
      example: inputs to check on that masked and shrunk network agree: one array, or a tuple of all of them.
      retrain: start the small network from the weights that the search left, or from new ones. The uniform control
        starts alike: from the pretrained weights, or from new ones.
      taught: from the pretrained parameters to the job that trains the search; None trains it as `job` does. This is
        where a teacher comes in: those parameters, or any other network.
      retaught: likewise, to the job of everything after the search, where batches, loss or teacher are others there;
        None trains finetuning and the uniform control as the search was, and the full network's control as `job` does.
      average: decay of a moving average of the weights in everything after the search, or from a step to it; the
        averaged networks are the results.
      trained: the first parameters are worth something already; the full network is then among the results.
      fresh: from a structure and a key to new parameters of a network of these sizes, for `retrain="scratch"`.
      checked: the same space computing in full precision, to check with; None: the search's own.
      sizes: several sizes instead of one; they come out nested, with controls that are nested, too.
      inference: `(params, *inputs) -> outputs` to measure with, where that is another program than the one that was
        read: with kernels of one device, say; None: the space's.
    """

    job: Job
    search: Search
    steps: Steps
    optimizer: Callable[[int], optax.GradientTransformation]
    model: Mapping[str, Any]
    example: Any
    retrain: Literal["sliced", "scratch"] = "sliced"
    taught: Callable[[Any], Job] | None = None
    trained: bool = False
    retaught: Callable[[Any], Job] | None = None
    average: optax.ScalarOrSchedule | None = None
    fresh: Callable[[Structure, jax.Array], Any] | None = None
    checked: SearchSpace | None = None
    inference: Callable[..., Any] | None = None
    sizes: Sizes | None = None

    def run(self, params: Any) -> Finished:
        """Run all phases, or what is left of them, from the full network's first parameters.

        Raises:
          UserError: the shrunk network does not compute what the masked one does, or there is nothing to begin from.
        """
        if self.retrain == "scratch" and self.fresh is None:
            raise UserError('retrain="scratch" needs `fresh`: (structure, key) -> new parameters of those sizes')
        trial.check_sizes(self.steps.trial, self.sizes)
        search, space = self.search, self.search.space
        pretrained = self._train(self.job, "pretrain", None, space.arrays(params), self.steps.pretrain, None)
        pupil = self.job if self.taught is None else self.taught(pretrained)
        state = pupil.search("search", search, pretrained)
        chosen = state.replace(ratios=local(state.ratios), importance=local(state.importance))  # type: ignore[attr-defined]
        if self.sizes is None:
            structures = [search.structure(chosen, self.model)]
        else:
            structures = search.structures(chosen, list(self.sizes.budgets.values()), self.model)
        if self.steps.trial:
            structures += shallower(search, chosen, structures[0], self.model)
        params = evaluated(state.opt_state, state.params)
        reached, difference = search.reached(chosen), max(self._verified(params, s) for s in structures)
        importance = {n: np.asarray(c) for n, c in chosen.importance.items()} if search.strategy.uses_importance else {}
        starts = [self._start(s, params) for s in structures[: 2 if self.steps.trial else 1]]
        del state, chosen, params  # a supernet with its optimizer's moments
        after = pupil if self.retaught is None else self.retaught(pretrained)
        networks = {FULL: self._network(None, pretrained)} if self.steps.pretrain or self.trained else {}
        outcome = None
        if self.steps.trial:
            outcome = self._tried(after, structures, starts)
            structures, starts = [structures[outcome.chosen]], [starts[outcome.chosen]]
        networks |= self._trained(after, FOUND, "finetune", structures, starts[0], self.steps.finetune)
        if self.steps.compare:
            networks |= self._controls(pretrained, after)
        family = self._family(structures)
        return Finished(structures[0], networks, difference, reached, importance, family, self.sizes, outcome)

    def _tried(self, after: Job, structures: Sequence[Structure], starts: Sequence[Any]) -> trial.Outcome:
        """Which of some networks is better after a few steps of their finetuning."""
        steps = self.steps
        optimizer, batches = self.optimizer(steps.finetune), after.batches_of(steps.finetune)
        job = dataclasses.replace(after, batches=batches, ending=None)
        networks = [(s, *sized(self.search.space, job.loss, s)) for s in structures]
        return trial.run(job, self.search.space, networks, starts, optimizer, steps.trial)

    def _family(self, structures: Sequence[Structure]) -> Family | None:
        if self.sizes is None:
            return None
        return Family(self.search.space, dict(zip(self.sizes.budgets, structures, strict=True)))

    def _trained(
        self, job: Job, kind: str, phase: str, structures: Sequence[Structure], start: Any, steps: int
    ) -> dict[str, Network]:
        """The networks of one kind, of one size or of several, trained from the largest one's parameters."""
        family = self._family(structures)
        if family is None or self.sizes is None:
            params = self._train(job, phase, structures[0], start, steps, self.average)
            return {kind: self._network(structures[0], params)}
        trees = finetuned(job, phase, family, start, self.optimizer, steps, self.sizes, self.average)
        return {
            name_of(kind, number, size): self._network(structure, trees[number])
            for number, (size, structure) in enumerate(family.structures.items())
        }

    def _controls(self, pretrained: Any, after: Job) -> dict[str, Network]:
        search, space, steps = self.search, self.search.space, self.steps.controls
        ranking = {name: np.asarray(m) for name, m in space.magnitudes(pretrained).items()}
        wanted = [search.targets]
        if self.sizes is not None:
            wanted = [targets(search, budget) for budget in self.sizes.budgets.values()]
        even: list[Structure] = []
        for most in wanted:
            even.append(uniform(space, ranking, most, search.limits, within=even[-1] if even else None))
        start = self._start(even[0], pretrained)
        networks = self._trained(after, UNIFORM, "uniform", even, start, steps)
        if steps:
            job = self.job if self.retaught is None else after
            networks[LONGER] = self._network(None, self._train(job, "full", None, pretrained, steps, self.average))
        return networks

    def _verified(self, params: Any, structure: Structure) -> float:
        inputs = self.example if isinstance(self.example, tuple) else (self.example,)
        space = self.checked or self.search.space
        difference = space.verify(params, structure, *inputs)
        if not difference < 1e-2 and not difference < _rounding(space, space.whole(params), inputs):
            raise UserError(f"masked and shrunk network differ by {difference:.2g}: the model reads an axis unmasked")
        return difference

    def _train(self, job: Job, name: str, structure: Structure | None, params: Any, steps: int, average: Any) -> Any:
        if not steps:
            return params
        loss, trained = sized(self.search.space, job.loss, structure)
        return job.train(name, loss, params, self.optimizer(steps), steps, trained=trained, average=average)

    def _network(self, structure: Structure | None, params: Any) -> Network:
        space, fn = self.search.space, self.inference or self.search.space.fn
        fn = _complete(space, fn) if structure is None else space.shrunk(fn, structure)
        return Network(fn, params, structure)

    def _start(self, structure: Structure, full: Any) -> Any:
        """Where a small network's training starts: from slices of the full network's parameters, or anew."""
        if self.retrain == "sliced" or self.fresh is None:
            return shrink(self.search.space, full, structure)
        return place(self.fresh(structure, self.job.phase_key("scratch")), self.job.mesh)


def sized(space: SearchSpace, loss: Loss, structure: Structure | None) -> tuple[Loss, Any]:
    """A loss of the full network at the sizes of a structure, and which leaves are trained there.

    Args:
      space: the full network's.
      loss: `(params, batch, key)`, of its parameters.
      structure: what stays; None: all.

    Returns:
      The loss, of `space.arrays(parameters)`; a tree of booleans like them.
    """
    if structure is None:
        return _complete(space, loss), space.trained
    return space.shrunk(loss, structure), shrink(space, space.trained, structure)


def _rounding(space: SearchSpace, params: Any, inputs: tuple[Any, ...]) -> float:
    """The difference that rounding alone may make: a share of the largest output, more in half precision."""
    outputs = [np.abs(np.asarray(y, np.float64)) for y in jax.tree.leaves(space.fn(params, *inputs))]
    program = str(jax.make_jaxpr(lambda arrays, *x: space.fn(space.whole(arrays), *x))(space.arrays(params), *inputs))
    share = 0.1 if "bf16[" in program or "f16[" in program else 1e-3
    return share * max((float(y.max()) for y in outputs if y.size), default=0.0)


def _complete(space: SearchSpace, fn: Callable[..., Any]) -> Callable[..., Any]:
    """A function of the full network's parameters, given their arrays alone."""
    return lambda params, *args: fn(space.whole(params), *args)
