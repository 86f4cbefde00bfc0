"""One method on one task with one seed: pretrained supernet -> structure -> the small network, finetuned -> scores.

All methods of a seed start from the same supernet, see the same batches in the same order, take the same number of
steps after pretraining (search and finetuning together), and use one optimizer with one schedule over all of these
steps: a warm-up and a cosine. A search lies inside it, and the optimizer's moments are sliced with the weights.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import jax
import numpy as np
import optax

from dms_jax import baselines
from dms_jax.conduct import warm_cosine
from dms_jax.errors import UserError
from dms_jax.method.limits import Limits
from dms_jax.method.schedule import Schedule
from dms_jax.method.search import Search
from dms_jax.method.strategy import Strategy
from dms_jax.shrink import shrink
from dms_jax.structure import Structure
from dms_jax.training import supervised
from dms_jax.training.interrupt import InterruptFlag
from experiments.benchmarks.baselines import RULES, Asked, VariedDMS
from experiments.benchmarks.store import Cell, Cells, Compute, Say
from experiments.benchmarks.tasks import Phases, Task, Unit

CONTROL = "unpruned"
"""The full network, trained on for as many steps."""
STATISTICS_STEPS = 50
"""Batches that BatchNorm's statistics are measured on where nothing is retrained."""
TRIED = (99, 98)
"""Seeds that choices are made on, none of those that are reported; quick runs take the first alone."""


@dataclass(frozen=True)
class Settings:
    """What a method does. The fields up to `pretrained` always tell cells apart, the others where they are not default.

    Attributes:
      strategy: a name of `dms_jax.baselines`, or of `experiments.benchmarks.baselines`, or "unpruned".
      budget: fraction of the full network's MACs.
      steps: after pretraining, search included; of retraining alone where it starts from new weights.
      search_steps: of them, for strategies that search.
      rate: Adam's mean learning rate on the ratios times the steps after the warm-up.
      retrain: "sliced" goes on with the search's weights, "scratch" with new ones, "none" not at all.
      pretrained: the search starts from the pretrained supernet, not from random weights.
      warmup: first steps of the search in which the ratios stay open.
      importance, importance_decay: how elements are judged.
      decay, refine: of `Schedule`.
      weight: None balances, a number is the paper's plain loss.
      sharpness, start_open: of `VariedDMS`.
      schedule: "joint", one over search and finetuning, or "restart": half the peak all through the search, then a
        new optimizer with a schedule over what remains. The search for a structure to be trained from new weights has
        that constant rate, too.
      ratio_schedule, ratio_together: of the strategy.
      residual: the residual width may shrink, too, on a task that leaves it alone.
      blocks: share of blocks that a rule keeps which thins evenly; None: as many as fit.
      on_target, effects: of the strategy.
      draw: of the ratios that the rule "drawn" draws.
      searches: from the same supernet on other batches, whose ratios and importances are averaged; the first one's
        weights go on. Their steps come on top.
      horizon: steps of finetuning after which a search's network is compared, on validation data, with that of another
        search that leaves depth alone; the better one goes on. 0: no other search. The other's steps come on top.
    """

    strategy: str
    budget: float
    steps: int
    search_steps: int = 0
    rate: float = 0.0
    retrain: str = "sliced"
    pretrained: bool = True
    warmup: int = 0
    importance: str = "taylor"
    importance_decay: float = 0.99
    decay: float = 0.8
    refine: float = 0.2
    weight: float | None = None
    sharpness: float = 1.0
    start_open: bool = True
    schedule: str = "joint"
    ratio_schedule: Literal["cosine", "constant"] = "constant"
    ratio_together: float = 0.0
    residual: bool = False
    blocks: float | None = None
    on_target: bool = False
    effects: bool = False
    draw: int | None = None
    searches: int = 1
    horizon: int = 0

    def cell(self, task: Task, default_options: Mapping[str, Any], seed: int) -> Cell:
        """The cell of these settings; options of the task tell cells apart where they are not the default."""
        fields = {f.name: (f.default, getattr(self, f.name)) for f in dataclasses.fields(self)}
        base = list(fields)[: list(fields).index("pretrained") + 1]
        identity = {name: value for name, (default, value) in fields.items() if name in base or value != default}
        options = {name: value for name, value in task.options.items() if default_options[name] != value}
        settings = {name: value for name, (_, value) in fields.items()}
        label = f"{self.strategy}-{100 * self.budget:g}"
        return Cell(task.name, label, {**identity, "task": options}, {**settings, "task": dict(task.options)}, seed)

    @property
    def joint(self) -> bool:
        """Whether search and finetuning share an optimizer."""
        return self.schedule == "joint" and self.retrain == "sliced"

    @property
    def small(self) -> Settings:
        """The same in a few steps, at a budget that tiny networks can have."""
        few = {name: min(getattr(self, name), most) for name, most in QUICK.items()}
        return replace(self, budget=max(self.budget, 0.5), **few)


QUICK = {"steps": 8, "search_steps": 2, "warmup": 1}


@dataclass(frozen=True, eq=False)
class Contest:
    """Cells of `compete` for one task, and their results.

    Attributes:
      task: what is learned.
      defaults: options of the task that need no mention in a cell's name.
      cells: where they lie.
      compute: whether missing ones are computed.
      quick: everything is as small as can be.
    """

    task: Task
    defaults: Mapping[str, Any]
    cells: Cells
    compute: bool = True
    quick: bool = False

    @property
    def choice(self) -> tuple[str, Unit]:
        """The score that choices look at, of validation data, and its unit."""
        return self.task.choice

    @property
    def tried(self) -> tuple[int, ...]:
        """The seeds that choices are made on."""
        return TRIED[:1] if self.quick else TRIED

    def fill(self, name: str, asked: Iterable[tuple[Settings, int]]) -> None:
        """Compute what is missing, in order; supernets come first.

        Args:
          name: of the benchmark, for the progress bar.
          asked: settings and seeds.

        Raises:
          Interrupted: stopped; finished cells are kept.
        """
        work = [(self.cell(s, i), partial(compete, self.task, self._sized(s), i), s.pretrained) for s, i in asked]
        self.fill_cells(name, work)

    def fill_cells(self, name: str, work: Sequence[tuple[Cell, Compute, bool]]) -> None:
        """The same of any cells: each with what computes it, and whether that starts from the supernet of its seed."""
        if not self.compute:
            return
        self.task.pretrain(cell.seed for cell, _, supernet in work if supernet and self.cells.get(cell) is None)
        self.cells.fill([(cell, compute) for cell, compute, _ in work], name, self.task.data)

    def cell(self, settings: Settings, seed: int) -> Cell:
        """The cell of these settings."""
        return self._sized(settings).cell(self.task, self.defaults, seed)

    def get(self, settings: Settings, seed: int) -> dict[str, Any] | None:
        """A finished cell's results."""
        return self.cells.get(self.cell(settings, seed))

    def finished(self, settings: Settings, seeds: Sequence[int]) -> dict[int, dict[str, Any]]:
        """{seed: results} of the cells that are there and did not fail."""
        found = {seed: self.get(settings, seed) for seed in seeds}
        return {seed: result for seed, result in found.items() if result and "failed" not in result}

    def values(self, settings: Settings, seeds: Sequence[int], what: str = "test") -> dict[int, float]:
        """{seed: score} of them."""
        return {seed: float(result[what]) for seed, result in self.finished(settings, seeds).items()}

    def _sized(self, settings: Settings) -> Settings:
        return settings.small if self.quick else settings


def compete(task: Task, settings: Settings, seed: int, interrupt: InterruptFlag, say: Say) -> dict[str, Any]:
    """Run one method.

    Returns:
      "valid", "test" and whatever else the task's scores hold; "macs" and "params" of the network; "kept", the number
      of elements of every group; "supernet", a checksum of what it started from; "seconds", CPU seconds of every
      part; or "failed", why there are none.

    Raises:
      Interrupted: the flag was up.
    """
    supernet = task.pretrained(seed) if settings.pretrained else task.new(task.model, seed)
    task = task.with_residual() if settings.residual else task
    work = Phases(task, seed, interrupt, say)
    offset = task.pretrain_steps if settings.pretrained else 0
    try:
        found = _find(work, settings, supernet, offset)
        small = task.model if found.structure is None else task.model.clone(structure=found.structure)
        variables = _retrain(work, settings, small, found, offset)
        scores = work.timed("measure", lambda: task.scores(small, variables, seed))
    except UserError as error:  # a search that diverged is a result, too
        return {"failed": str(error)}
    seconds = {name: round(value, 1) for name, value in work.seconds.items()}
    made = {"supernet": checksum(supernet), "seconds": seconds}
    return {**scores, **size_of(task, found.structure), **made}


def checksum(variables: Any) -> str:
    """Of the bits of all variables: two machines that train alike have alike supernets, or say here that they don't."""
    content = hashlib.sha256()
    for leaf in jax.tree.leaves(variables):
        content.update(np.asarray(leaf).tobytes())
    return content.hexdigest()[:12]


@dataclass(frozen=True)
class _Found:
    """A structure (None: the full network), its variables, the optimizer's state if it goes on, and steps taken."""

    structure: Structure | None
    variables: Any
    opt_state: Any = None
    steps: int = 0


def _retrain(work: Phases, settings: Settings, small: Any, found: _Found, offset: int) -> Any:
    """Finetune, or train from new weights, or only measure BatchNorm's statistics; returns the variables."""
    task = work.task
    if settings.retrain == "scratch":
        optimizer = task.optimizer(warm_cosine(task.learning_rate, settings.steps))
        state = supervised.init(task.new(small, work.seed), optimizer)
        return work.train("finetune", small, state, optimizer, settings.steps, 0)  # the same batches for all
    start, left = offset + found.steps, settings.steps - found.steps
    if settings.retrain == "sliced":
        joint = found.opt_state is not None
        optimizer = task.optimizer(warm_cosine(task.learning_rate, settings.steps if joint else left))
        state = supervised.init(found.variables, optimizer)
        state = replace(state, opt_state=found.opt_state) if joint else state
        return work.train("finetune", small, state, optimizer, left, start)
    if "batch_stats" in found.variables:  # for every method alike
        optimizer = optax.set_to_zero()
        state = supervised.init(found.variables, optimizer)
        return work.train("statistics", small, state, optimizer, STATISTICS_STEPS, start)
    return found.variables


def _find(work: Phases, settings: Settings, supernet: Any, offset: int) -> _Found:
    space = work.task.space
    if settings.strategy == CONTROL:
        return _Found(None, supernet)
    if settings.strategy in RULES:
        asked = Asked(int(settings.budget * space.resources()["macs"]), work.seed, settings.blocks, settings.draw)
        structure = RULES[settings.strategy](work, supernet, asked, offset)
        return _Found(structure, shrink(space, supernet, structure))
    found = _searched(work, settings, supernet, offset)
    return _longer(work, settings, supernet, offset, found) if settings.horizon else found


def _searched(work: Phases, settings: Settings, supernet: Any, offset: int, limits: Limits | None = None) -> _Found:
    space, search, steps = work.task.space, search_of(work.task, settings, limits), settings.search_steps
    states = [
        work.run("search", search.step, search.init(supernet), steps, offset + i * steps)
        for i in range(settings.searches)
    ]
    state = states[0]
    if len(states) > 1:
        ratios, importance = jax.tree.map(lambda *x: sum(x) / len(x), *((s.ratios, s.importance) for s in states))
        state = state.replace(ratios=ratios, importance=importance)
    structure = search.structure(state)
    opt_state = shrink(space, state.opt_state, structure) if settings.joint else None
    return _Found(structure, shrink(space, state.params, structure), opt_state, steps)


def _longer(work: Phases, settings: Settings, supernet: Any, offset: int, found: _Found) -> _Found:
    """The better one of what a search found and what it finds with depth left alone, after some steps of finetuning."""
    task = work.task
    depth = Limits(freeze=[name for name, group in task.space.groups.items() if group.rules.gates])
    optimizer = task.optimizer(warm_cosine(task.learning_rate, settings.steps))
    compared: list[tuple[float, _Found]] = []
    for one in (found, _searched(work, settings, supernet, offset, depth)):
        small = task.model.clone(structure=one.structure)
        state = replace(supervised.init(one.variables, optimizer), opt_state=one.opt_state)
        step = supervised.make_step(task.loss(small), optimizer)
        state = work.run("finetune", step, state, settings.horizon, offset + one.steps)
        score = work.timed("measure", lambda n=small, s=state: task.scores(n, s.params, work.seed))[task.choice[0]]
        compared.append((score, _Found(one.structure, state.params, state.opt_state, one.steps + settings.horizon)))
    return min(compared, key=lambda pair: pair[0])[1]


def search_of(task: Task, settings: Settings, limits: Limits | None = None) -> Search:
    """The search of these settings."""
    rate = optax.constant_schedule(task.learning_rate / 2)
    rate = warm_cosine(task.learning_rate, settings.steps) if settings.joint else rate
    return Search(
        task.space,
        task.loss(task.model),
        None if settings.retrain == "none" else task.optimizer(rate),
        {"macs": settings.budget},
        Schedule(settings.search_steps, settings.warmup, settings.decay, settings.refine),
        importance=replace(baselines.importances()[settings.importance], decay=settings.importance_decay),
        strategy=_strategy(settings),
        resource_weight=settings.weight,
        limits=limits or Limits(),
    )


def _strategy(settings: Settings) -> Strategy:
    moved = {"rate": settings.rate, "schedule": settings.ratio_schedule, "together": settings.ratio_together}
    moved |= {"on_target": settings.on_target, "effects": settings.effects}
    if settings.sharpness == 1.0 and settings.start_open:
        return baselines.create(settings.strategy, **moved)
    if settings.strategy != "dms":
        raise ValueError(f"sharpness and start are DMS's; {settings.strategy} has neither")
    return VariedDMS(**moved, sharpness=settings.sharpness, start_open=settings.start_open)


def size_of(task: Task, structure: Structure | None) -> dict[str, Any]:
    """Resources of a structure, and "kept", the elements of every group that are there."""
    space = task.space
    if structure is None:
        return space.resources() | {"kept": {name: group.size for name, group in space.groups.items()}}
    kept = space.kept(structure)
    counts = {name: 0 if name in structure.removed else len(kept[name]) for name in space.groups}
    return space.resources(kept) | {"kept": counts}
