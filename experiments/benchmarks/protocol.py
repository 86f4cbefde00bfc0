"""One method on one task with one seed: pretrained supernet -> structure -> the small network, finetuned -> scores.

All methods of a seed start from the same supernet, see the same batches in the same order, take the same number of
steps after pretraining (search and finetuning together), and use one optimizer with one schedule over all of these
steps: a warm-up and a cosine. A search lies inside it, and the optimizer's moments are sliced with the weights.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import numpy as np
import optax

from dms_jax.conduct import warm_cosine
from dms_jax.errors import UserError
from dms_jax.structure import Structure
from dms_jax.training import supervised
from dms_jax.training.interrupt import InterruptFlag
from experiments.benchmarks.finding import Found, find
from experiments.benchmarks.settings import Settings
from experiments.benchmarks.store import Cell, Cells, Compute, Say
from experiments.benchmarks.tasks import Phases, Task, Unit

STATISTICS_STEPS = 50
"""Batches that BatchNorm's statistics are measured on where nothing is retrained."""
TRIED = (99, 98)
"""Seeds that choices are made on, none of those that are reported; quick runs take the first alone."""


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
        found = find(work, settings, supernet, offset)
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


def _retrain(work: Phases, settings: Settings, small: Any, found: Found, offset: int) -> Any:
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


def size_of(task: Task, structure: Structure | None) -> dict[str, Any]:
    """Resources of a structure, and "kept", the elements of every group that are there."""
    space = task.space
    if structure is None:
        return space.resources() | {"kept": {name: group.size for name, group in space.groups.items()}}
    kept = space.kept(structure)
    counts = {name: 0 if name in structure.removed else len(kept[name]) for name in space.groups}
    return space.resources(kept) | {"kept": counts}
