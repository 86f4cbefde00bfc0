"""One method on one task with one seed: pretrained supernet -> structure -> the small network, finetuned -> scores.

All methods of a seed start from the same supernet, see the same batches in the same order, take the same number of
steps after pretraining (search and finetuning together), and use one optimizer with one schedule over all of these
steps: a warm-up and a cosine. A search lies inside it, and the optimizer's moments are sliced with the weights.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
import optax

from dms_jax.errors import UserError
from dms_jax.structure import Structure
from dms_jax.training import supervised
from dms_jax.training.interrupt import InterruptFlag
from experiments.benchmarks.command import Options
from experiments.benchmarks.finding import Found, find
from experiments.benchmarks.settings import Made, Settings
from experiments.benchmarks.store import Cell, Cells, Say
from experiments.benchmarks.tasks import Phases, Task, Unit

STATISTICS_STEPS = 50
"""Batches that BatchNorm's statistics are measured on where nothing is retrained."""
TRIED = (99, 98)
"""Seeds that choices are made on, none of those that are reported; quick runs take the first alone."""


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
    offset = task.options.pretrain_steps if settings.pretrained else 0
    try:
        found = find(work, settings, supernet, offset)
        small = task.model if found.structure is None else task.model.clone(structure=found.structure)
        variables = _retrain(work, settings, small, found, offset)
        scores = work.timed("measure", lambda: task.scores(small, variables, seed))
    except UserError as error:  # a search that diverged is a result, too
        return {"failed": str(error)}
    return {**scores, **size_of(task, found.structure), "supernet": checksum(supernet), "seconds": work.spent}


def checksum(variables: Any) -> str:
    """Of the bits of all variables: two machines that train alike have alike supernets, or say here that they don't."""
    content = hashlib.sha256()
    for leaf in jax.tree.leaves(variables):
        content.update(np.asarray(leaf).tobytes())
    return content.hexdigest()[:12]


def _retrain(work: Phases, settings: Settings, small: Any, found: Found, offset: int) -> Any:
    """Finetune, or train from new weights, or only measure BatchNorm's statistics; returns the variables."""
    if settings.retrain == "scratch":
        variables = work.task.new(small, work.seed)
        return work.finetune(small, variables, settings.steps, 0).params  # the same batches for all
    start, left = offset + found.steps, settings.steps - found.steps
    if settings.retrain == "sliced":
        return work.finetune(small, found.variables, left, start, found.opt_state, settings.steps).params
    if "batch_stats" in found.variables:  # for every method alike
        step = supervised.make_step(work.task.loss(small), optax.set_to_zero())
        state = supervised.init(found.variables, optax.set_to_zero())
        return work.run("statistics", step, state, STATISTICS_STEPS, start).params
    return found.variables


def size_of(task: Task, structure: Structure | None) -> dict[str, Any]:
    """Resources of a structure, and "kept", the elements of every group that are there."""
    space = task.space
    if structure is None:
        return space.resources() | {"kept": {name: group.size for name, group in space.groups.items()}}
    kept = space.kept(structure)
    counts = {name: 0 if name in structure.removed else len(kept[name]) for name in space.groups}
    return space.resources(kept) | {"kept": counts}


@dataclass(frozen=True, eq=False)
class Contest:
    """Cells of one task, and their results.

    Attributes:
      task: what is learned.
      options: of the command: where cells lie, whether missing ones are computed and everything is as small as can be.
      compute: makes a cell's results: as `compete`, of other things than `Settings`, too.
    """

    task: Task
    options: Options
    compute: Callable[[Task, Any, int, InterruptFlag, Say], dict[str, Any]] = compete

    @property
    def cells(self) -> Cells:
        """Where they lie."""
        return self.options.cells

    @property
    def choice(self) -> tuple[str, Unit]:
        """The score that choices look at, of validation data, and its unit."""
        return self.task.choice

    @property
    def tried(self) -> tuple[int, ...]:
        """The seeds that choices are made on."""
        return TRIED[:1] if self.options.quick else TRIED

    def fill(self, name: str, asked: Iterable[tuple[Made, int]]) -> None:
        """Compute what is missing, in order; supernets come first.

        Args:
          name: of the benchmark, for the progress bar.
          asked: what cells are made from, and seeds.

        Raises:
          Interrupted: stopped; finished cells are kept.
        """
        if self.cells.compute:
            work = [(self.cell(s, i), self._sized(s), i) for s, i in asked]
            self.task.pretrain(i for cell, s, i in work if s.pretrained and self.cells.get(cell) is None)
            computed = [(cell, partial(self.compute, self.task, s, i)) for cell, s, i in work]
            self.cells.fill(computed, name, self.task.data)

    def cell(self, settings: Made, seed: int) -> Cell:
        """The cell of these settings."""
        return self._sized(settings).cell(self.task, seed)

    def get(self, settings: Made, seed: int) -> dict[str, Any] | None:
        """A finished cell's results."""
        return self.cells.get(self.cell(settings, seed))

    def finished(self, settings: Made, seeds: Sequence[int]) -> dict[int, dict[str, Any]]:
        """{seed: results} of the cells that are there and did not fail."""
        return self.cells.found({seed: self.cell(settings, seed) for seed in seeds})

    def values(self, settings: Made, seeds: Sequence[int], what: str = "test") -> dict[int, float]:
        """{seed: score} of them."""
        return {seed: float(result[what]) for seed, result in self.finished(settings, seeds).items()}

    def _sized(self, settings: Made) -> Made:
        return settings.small if self.options.quick else settings
