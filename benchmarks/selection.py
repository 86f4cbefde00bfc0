"""Structures without a search: the same keep ratio everywhere, one threshold, at random."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from benchmarks.phases import Phases
from benchmarks.task import Task
from dms_jax import strategies
from dms_jax.search import Schedule, Search
from dms_jax.structure import Structure

EVIDENCE_STEPS = 100
"""Batches that the importance of a pretrained network is averaged over. They come on top of the steps of training."""

# (work, whose phases are timed, the pretrained supernet, fraction of the MACs, first batch) -> the structure
Select = Callable[[Phases, Any, float, int], Structure]


def uniform(work: Phases, variables: Any, budget: float, start: int) -> Structure:
    """The same keep ratio in every width and all heads, as many blocks as fit; the largest magnitudes stay."""
    task = work.task
    return work.timed(
        "search", lambda: strategies.uniform(task.space, _magnitudes(task, variables), _macs(task, budget))
    )


def uniform_taylor(work: Phases, variables: Any, budget: float, start: int) -> Structure:
    """As `uniform`, but the elements of the most Taylor importance stay."""
    ranking = {name: np.asarray(c) for name, c in _taylor(work, variables, start).items()}
    return work.timed("search", lambda: strategies.uniform(work.task.space, ranking, _macs(work.task, budget)))


def uniform_depth(work: Phases, variables: Any, budget: float, start: int) -> Structure:
    """The same keep ratio everywhere, blocks included; the largest magnitudes stay."""
    space, ranking = work.task.space, _magnitudes(work.task, variables)
    return work.timed("search", lambda: strategies.uniform(space, ranking, _macs(work.task, budget), blocks=True))


def threshold(work: Phases, variables: Any, budget: float, start: int) -> Structure:
    """One threshold on Taylor importance per cost, measured on the pretrained supernet before anything is changed."""
    importance = _taylor(work, variables, start)
    return work.timed("search", lambda: strategies.threshold(work.task.space, importance, _macs(work.task, budget)))


def random(work: Phases, variables: Any, budget: float, start: int) -> Structure:
    """Keep ratios and elements drawn by chance, moved onto the budget."""
    task = work.task
    return work.timed("search", lambda: strategies.random(task.space, _macs(task, budget), seed=work.seed))


SELECTIONS: dict[str, Select] = {f.__name__: f for f in (uniform, uniform_taylor, uniform_depth, threshold, random)}


def _macs(task: Task, budget: float) -> dict[str, int]:
    return {"macs": int(budget * task.space.resources()["macs"])}


def _magnitudes(task: Task, variables: Any) -> dict[str, np.ndarray]:
    return {name: np.asarray(m) for name, m in task.space.magnitudes(variables["params"]).items()}


def _taylor(work: Phases, variables: Any, start: int) -> dict[str, jax.Array]:
    """The importance of a network's elements, with weights and masks left as they are."""
    schedule = Schedule(EVIDENCE_STEPS, warmup=EVIDENCE_STEPS - 1)
    search = Search(work.task.space, work.task.loss(work.task.model), None, {"macs": 1.0}, schedule)
    return work.run("search", search.step, search.init(variables), EVIDENCE_STEPS, start).importance
