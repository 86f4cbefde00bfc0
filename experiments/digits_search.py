"""Search, shrink and retrain a small ResNet on scikit-learn's digits: the whole method on real data in minutes.

    python -m experiments.digits_search --macs=0.04

pretrains a ResNet-20 on 1,437 real 8 x 8 images of handwritten digits, searches widths and depth under 4 % of its MACs,
shrinks it, finetunes it, and trains two controls for the same number of steps: the same keep ratio everywhere, and the
full network. It writes a run directory with `report.html`. Stop it at any time; the same command goes on.
"""

from __future__ import annotations

import dataclasses
import math
import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

import dms_jax
from dms_jax import models, projection
from dms_jax.data import digits
from dms_jax.data.batching import batches
from dms_jax.errors import Interrupted, UserError, exit_on_user_error
from dms_jax.importance import MEASURES
from dms_jax.projection import Limits
from dms_jax.report import write_report
from dms_jax.report.quantities import RESOURCES
from dms_jax.search import Schedule, Search, SearchState
from dms_jax.space import SearchSpace
from dms_jax.structure import Structure
from dms_jax.training import latency, make_mesh, replicate, runs, shard_batch, supervised
from dms_jax.training.job import Job
from dms_jax.training.machine import machine

EXAMPLE = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
COMMAND = "python -m experiments.digits_search"


def _amount(default: str) -> Any:
    return tyro.conf.arg(metavar="FRACTION|NUMBER", help_behavior_hint=f"(default: {default})")


@dataclass(frozen=True)
class Config:
    """Search, shrink and retrain a small ResNet on scikit-learn's digits."""

    macs: Annotated[float | None, _amount("0.04, or none where --params is given")] = None
    """Budget of MACs: a fraction of the full network's (0.04), or a number above 1 (2e6)."""
    params: Annotated[float | None, _amount("none")] = None
    """Budget of parameters, likewise; with --macs both hold."""
    pipeline: Literal["p", "np", "p-"] = "p"
    """p: pretrain, search, finetune. np: search from random weights, retrain. p-: pretrain, search structure alone."""
    model: str = "resnet20"
    """Any ResNet of the zoo; resnet20, resnet32 and resnet56 are made for small images."""
    steps: int = 400
    """Steps of the search."""
    pretrain_steps: int = 500
    """Steps of the full network before the search (pipelines p and p-)."""
    finetune_steps: int = 600
    """Steps of the small network after the search (pipelines p and np)."""
    retrain: Literal["sliced", "scratch"] = "sliced"
    """Where the small network starts from: the weights the search left, or new ones."""
    batch: int = 64
    """Images a step, over all devices."""
    learning_rate: float = 0.1
    """Peak of SGD's cosine schedule (Nesterov momentum 0.9); the search runs at a constant fifth of it."""
    importance: Literal["taylor", "snip", "fisher", "magnitude", "index"] = "taylor"
    """What an element is judged by."""
    weight: Annotated[float | None, tyro.conf.arg(metavar="NUMBER", help_behavior_hint="(default: balance)")] = None
    """Fixed weight of the resource loss, as in the paper, instead of balancing it against the task's loss."""
    keep: tuple[str, ...] = ()
    """Groups of elements to leave alone, by glob patterns on their names: --keep "stage3/*" stem."""
    least: dict[str, int] = field(default_factory=dict)
    """Smallest number of elements of the groups that match, in pairs: --least "stage3/*" 8."""
    multiple: dict[str, int] = field(default_factory=dict)
    """Groups that match get a multiple of a number of elements, in pairs: --multiple "*" 8."""
    seed: int = 0
    """Of weights, batches and everything drawn."""
    workdir: str = "runs/digits"
    """The run directory: new, or that of this job, which then goes on."""

    @property
    def budget(self) -> dict[str, float]:
        """The budgets asked for."""
        asked = {"macs": self.macs, "params": self.params}
        return {name: value for name, value in asked.items() if value is not None} or {"macs": 0.04}

    @property
    def identity(self) -> dict[str, Any]:
        """What makes the job the one it is, defaults filled in."""
        given = {name: value for name, value in dataclasses.asdict(self).items() if name != "workdir"}
        return {"experiment": "digits_search", **given, "macs": None, "params": None, **self.budget}

    @property
    def phases(self) -> dict[str, int]:
        """Phase -> its steps. The controls get as many steps after pretraining as search and finetuning together."""
        before = 0 if self.pipeline == "np" else self.pretrain_steps
        after = 0 if self.pipeline == "p-" else self.finetune_steps
        controls = self.steps + after if after else 0
        return {"pretrain": before, "search": self.steps, "finetune": after, "uniform": controls, "full": controls}

    def check(self) -> None:
        """Refuse what no run can be made of, before anything is computed."""
        for name in ("steps", "pretrain_steps", "finetune_steps", "batch"):
            if getattr(self, name) < 1:
                flag = name.replace("_", "-")
                raise UserError(f"--{flag} {getattr(self, name)} is not possible; give a whole number of at least 1")
        if not 0 < self.learning_rate < math.inf:
            raise UserError(f"--learning-rate {self.learning_rate} is not possible; give a number above 0, such as 0.1")
        if self.pipeline == "p-" and self.retrain == "scratch":
            raise UserError("--retrain scratch needs a retraining, and pipeline p- has none; take p or np")
        if self.weight is not None and not 0 <= self.weight < math.inf:
            raise UserError(f"--weight {self.weight} is not possible; give a number of at least 0, or leave it out")
        if self.seed < 0:
            raise UserError(f"--seed {self.seed} is not possible; give a whole number of at least 0")
        if self.batch % len(jax.devices()):
            raise UserError(f"--batch {self.batch} cannot be cut over {len(jax.devices())} devices; take a multiple")


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    given = sys.argv[1:] if arguments is None else arguments
    config = tyro.cli(Config, args=given, prog=COMMAND, description=__doc__)
    search_digits(config, command=shlex.join([*COMMAND.split(), *given]))


def search_digits(config: Config, command: str) -> None:
    """Run the job, or what is left of it."""
    config.check()
    search = _search(config)
    with runs.Run(config.workdir, config.identity) as run:
        if run.results is not None:
            there = run.directory / "report.html"
            print(f"finished already: {there if there.exists() else _report(run.directory)}")
            return
        console = Console(stderr=True)
        plan = ", ".join(f"{name} {steps}" for name, steps in config.phases.items() if steps)
        line = f"{config.model} -> {run.directory}, steps: {plan}"
        console.print(line, highlight=False, markup=False, soft_wrap=True)
        try:
            finished = _phases(config, run, search)
        except Interrupted as stop:
            raise Interrupted(stop.step, f"{stop}; the same command goes on: {command}") from None
        console.print("measuring accuracy and latency", highlight=False)
        results = _measure(config, finished, search, command)
        run.finish(finished.structure, finished.networks[FOUND][1], results)
        _print_table(results)
        for line in results["warnings"]:
            print(f"warning: {line}")
        print(f"report: {_report(run.directory)}")


def _search(config: Config) -> Search:
    model = models.create(config.model, num_classes=digits.CLASSES)
    warmup = config.steps // 2 if config.pipeline == "np" else 0
    return Search(
        SearchSpace.from_model(model, EXAMPLE),
        supervised.classification_loss(model),
        None if config.pipeline == "p-" else sgd(optax.constant_schedule(config.learning_rate / 5)),
        config.budget,
        Schedule(config.steps, warmup),
        limits=Limits(config.keep, config.least, config.multiple),
        measure=MEASURES[config.importance],
        weight=config.weight,
    )


def _report(directory: Path) -> Path:
    try:
        return write_report(directory)
    except (OSError, ValueError) as error:
        raise UserError(f"no report: {error}") from error


FULL, FOUND, UNIFORM, LONGER = "full network", "found by DMS", "same ratio everywhere", "full network, trained on"


@dataclass(frozen=True)
class Finished:
    """What the phases left: networks with their variables and the steps they were trained for."""

    structure: Structure
    networks: dict[str, tuple[Any, Any]]
    steps: dict[str, int]
    difference: float
    seconds: dict[str, float]


def _phases(config: Config, run: runs.Run, search: Search) -> Finished:
    data, space, model = digits.load(), search.space, search.space.model
    mesh = make_mesh()
    draw = batches(data.train, config.batch, config.seed)
    key = jax.random.key(config.seed)
    job = Job(run, supervised.classification_loss, lambda step: shard_batch(draw(step), mesh), mesh, key)
    variables = replicate(jax.jit(model.init)(key, jnp.zeros(EXAMPLE.shape)), mesh)
    steps = config.phases

    def train(name: str, network: Any, start: Any) -> Any:
        if not steps[name]:
            return start
        return job.train(name, network, start, sgd(warm_cosine(config.learning_rate, steps[name])), steps[name])

    pretrained = train("pretrain", model, variables)
    state: SearchState = job.search("search", search, pretrained)
    arguments = {"name": config.model, "arguments": {"num_classes": digits.CLASSES}}
    structure = search.structure(state, arguments)
    difference = dms_jax.verify(space, state.variables, structure, data.test["image"][:64])
    small = model.clone(structure=structure)
    sliced = dms_jax.shrink(space, state.variables, structure)
    if config.retrain == "scratch":
        sliced = replicate(jax.jit(small.init)(job.phase_key("scratch"), jnp.zeros(EXAMPLE.shape)), mesh)
    found = train("finetune", small, sliced)

    ranking = {name: np.asarray(m) for name, m in space.magnitudes(pretrained["params"]).items()}
    even = Structure(projection.uniform(space, ranking, search.targets, search.limits))
    uniform = model.clone(structure=even)
    networks = {FULL: (model, pretrained)} if steps["pretrain"] else {}
    networks |= {
        FOUND: (small, found),
        UNIFORM: (uniform, train("uniform", uniform, dms_jax.shrink(space, pretrained, even))),
    }
    if steps["full"]:
        networks[LONGER] = (model, train("full", model, pretrained))
    before = steps["pretrain"]
    trained = {
        FULL: before,
        FOUND: before + steps["search"] + steps["finetune"],
        UNIFORM: before + steps["uniform"],
        LONGER: before + steps["full"],
    }
    return Finished(structure, networks, trained, difference, run.seconds)


def _measure(config: Config, finished: Finished, search: Search, command: str) -> dict[str, Any]:
    data = digits.load()
    test = data.test
    milliseconds = latency.rows(finished.networks, EXAMPLE, (1, 64))
    rows = []
    for name, (network, variables) in finished.networks.items():
        result = supervised.accuracy(network, variables, [test])
        rows.append(
            {
                "name": name,
                **search.space.resources(network.structure),
                "accuracy": result.value,
                "stderr": result.stderr,
                "latency_ms": milliseconds[name],
                "steps": finished.steps[name],
                "note": "",
            }
        )
    full = search.space.resources()
    budget = {n: {"asked": config.budget[n], "target": t, "full": full[n]} for n, t in search.targets.items()}
    before = milliseconds.get(FULL) or milliseconds[LONGER]
    found = next(row for row in rows if row["name"] == FOUND)
    shares = " and ".join(f"{100 * t / full[n]:.3g} % of the {RESOURCES[n]}" for n, t in search.targets.items())
    return {
        "title": f"{config.model} on scikit-learn's digits, {shares}",
        "data": f"scikit-learn digits, real handwriting at 8 x 8 pixels: {len(data.train['label'])} training images, "
        f"{len(test['label'])} test images",
        "command": command,
        "machine": machine(),
        "seed": config.seed,
        "budget": budget,
        "pipeline": config.pipeline,
        "verify": {"max_abs_difference": finished.difference},
        "rows": rows,
        "warnings": latency.latency_warnings(before, milliseconds[FOUND], (full["macs"], found["macs"])),
        "seconds": finished.seconds,
    }


def sgd(schedule: optax.Schedule) -> optax.GradientTransformation:
    """SGD with Nesterov momentum 0.9 and weight decay 5e-4 on kernels."""

    def kernels(params: Any) -> Any:
        return jax.tree.map(lambda leaf: leaf.ndim > 1, params)

    return optax.chain(optax.add_decayed_weights(5e-4, mask=kernels), optax.sgd(schedule, momentum=0.9, nesterov=True))


def warm_cosine(peak: float, steps: int) -> optax.Schedule:
    """Up to `peak` in a tenth of the steps, then a cosine down to 0."""
    return optax.warmup_cosine_decay_schedule(0.0, peak, max(steps // 10, 1), max(steps, 2))


def _print_table(results: dict[str, Any]) -> None:
    table = Table(title=results["title"], box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("network", no_wrap=True)
    for head in ("MACs", "params", "accuracy", "ms x1", "ms x64", "steps"):
        table.add_column(head, justify="right", no_wrap=True)
    for row in results["rows"]:
        times = (f"{row['latency_ms'][batch]:.2f}" for batch in ("1", "64"))
        accuracy = f"{100 * row['accuracy']:.1f}\u00b1{100 * row['stderr']:.1f}%"
        table.add_row(row["name"], f"{row['macs']:,}", f"{row['params']:,}", accuracy, *times, f"{row['steps']:,}")
    console = Console()
    needed = Measurement.get(console, console.options.update(max_width=1000), table).maximum
    console.width = max(console.width, needed)  # a number cut short is worse than a line that wraps
    console.print(table)


if __name__ == "__main__":
    exit_on_user_error(main)()
