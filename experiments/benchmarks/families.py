"""Several sizes of one network in one cell: searched once, or sliced evenly; trained together, or each by itself.

Everything else is as `experiments.benchmarks.protocol` has it: the supernet, the batches and their order, one optimizer
with one schedule over search and finetuning, its moments sliced with the weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dms_jax import baselines
from dms_jax.errors import UserError
from dms_jax.family import Family
from dms_jax.shrink import shrink
from dms_jax.structure import Structure
from dms_jax.training import supervised
from dms_jax.training.distillation import Distillation
from dms_jax.training.interrupt import InterruptFlag
from dms_jax.training.joint import Lessons, joint_loss, of_weights
from experiments.benchmarks.finding import search_of
from experiments.benchmarks.protocol import checksum, size_of
from experiments.benchmarks.settings import Made, Settings
from experiments.benchmarks.store import Cell, Say
from experiments.benchmarks.tasks import Phases, Task


@dataclass(frozen=True)
class Nested(Made):
    """How several sizes are made, in one cell.

    Attributes:
      search: how DMS searches; with the strategy "uniform" the same keep ratio everywhere, by magnitude.
      sizes: fractions of the MACs, from the largest.
      together: one set of weights, trained together; else each size is trained by itself from its slices.
      taught: the largest teaches the others, half of what they learn.
      aim: the place of the size that is searched for, of `sizes`; the smallest, as `dms_jax.fit` does it, is -1.
    """

    search: Settings
    sizes: tuple[float, ...]
    together: bool
    taught: bool = False
    aim: int = -1

    @property
    def small(self) -> Nested:
        """The same in a few steps, at sizes that tiny networks can have."""
        return replace(self, search=self.search.small, sizes=small_sizes(len(self.sizes)))

    def cell(self, task: Task, seed: int) -> Cell:
        """The cell of these settings, in a file of its own a task."""
        own = {"sizes": list(self.sizes), "together": self.together, "taught": self.taught}
        search = replace(self.search, budget=self.sizes[self.aim]).cell(task, seed)
        how = "taught" if self.taught else "together" if self.together else "apart"
        label = f"{self.search.strategy}-{how}"
        return Cell(f"{task.name}_sizes", label, {**search.identity, **own}, {**search.settings, **own}, seed)


def small_sizes(number: int) -> tuple[float, ...]:
    """Sizes of a quick run."""
    return tuple(round(x, 2) for x in np.linspace(0.9, 0.5, number))


def train(task: Task, settings: Nested, seed: int, interrupt: InterruptFlag, say: Say) -> dict[str, Any]:
    """All sizes of one family.

    Returns:
      As `protocol.compete`, with a list in place of every number of one network, from the largest size.

    Raises:
      Interrupted: the flag was up.
    """
    supernet, work = task.pretrained(seed), Phases(task, seed, interrupt, say)
    try:
        begun = _begin(work, settings, supernet)
        trees = (_together if settings.together else _apart)(work, settings, begun)
        networks = [task.model.clone(structure=structure) for structure in begun.structures]
        scores = work.timed("measure", lambda: [task.scores(n, v, seed) for n, v in zip(networks, trees, strict=True)])
    except UserError as error:  # a search that diverged is a result, too
        return {"failed": str(error)}
    each = [{**one, **size_of(task, s)} for one, s in zip(scores, begun.structures, strict=True)]
    listed = {name: [one[name] for one in each] for name in each[0]}
    return {**listed, "supernet": checksum(supernet), "seconds": work.spent}


@dataclass(frozen=True)
class _Begun:
    """Nested structures from the largest; variables and optimizer's state of the full network, and steps taken."""

    structures: Sequence[Structure]
    variables: Any
    opt_state: Any
    steps: int


def _begin(work: Phases, settings: Nested, supernet: Any) -> _Begun:
    task, budgets = work.task, [{"macs": size} for size in settings.sizes]
    space = task.space
    if settings.search.strategy == "uniform":
        ranking = {name: np.asarray(x) for name, x in space.magnitudes(supernet).items()}
        found: list[Structure] = []
        for size in settings.sizes:
            most = {"macs": int(size * space.resources()["macs"])}
            found.append(baselines.uniform(space, ranking, most, within=found[-1] if found else None))
        return _Begun(found, supernet, None, 0)
    steps = settings.search.search_steps
    search = search_of(task, replace(settings.search, budget=settings.sizes[settings.aim]))
    state = work.run("search", search.step, search.init(supernet), steps, task.options.pretrain_steps)
    return _Begun(search.structures(state, budgets), state.params, state.opt_state, steps)


def _together(work: Phases, settings: Nested, begun: _Begun) -> list[Any]:
    """The variables of every size, from one training of all."""
    task, steps = work.task, settings.search.steps
    family = Family(task.space, dict(zip(settings.sizes, begun.structures, strict=True)))
    loss, lessons = task.loss(task.model), None
    if settings.taught:
        if task.answers is None:
            raise ValueError(f"nobody teaches on {task.name}: it has no answers")
        lessons = Lessons.mixed(task.answers(task.model), loss, Distillation())
    params, optimizer = family.init(begun.variables), of_weights(task.over(steps))
    trained = family.trained(params)
    state = supervised.init(params, optimizer, trained=trained)
    if begun.opt_state is not None:
        state = replace(state, opt_state=shrink(task.space, begun.opt_state, family.largest))
    step = supervised.make_step(joint_loss(family, loss, lessons), optimizer, trained=trained)
    state = work.run("finetune", step, state, steps - begun.steps, task.options.pretrain_steps + begun.steps)
    return [family.params(state.params, size) for size in settings.sizes]


def _apart(work: Phases, settings: Nested, begun: _Begun) -> list[Any]:
    """The variables of every size, from a training each."""
    task, steps, trees = work.task, settings.search.steps, []
    for structure in begun.structures:
        small, start = task.model.clone(structure=structure), task.options.pretrain_steps + begun.steps
        variables = shrink(task.space, begun.variables, structure)
        opt_state = None if begun.opt_state is None else shrink(task.space, begun.opt_state, structure)
        trees.append(work.finetune(small, variables, steps - begun.steps, start, opt_state, steps).params)
    return trees
