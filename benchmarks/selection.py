"""Structures without a search: the same keep ratio everywhere, one threshold, at random."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from benchmarks.phases import Phases
from benchmarks.task import Task
from dms_jax import projection, strategies
from dms_jax.search import Schedule, Search
from dms_jax.structure import Structure

EVIDENCE_STEPS = 100
"""Batches that the importance of a pretrained network is averaged over. They come on top of the steps of training."""


@dataclass(frozen=True)
class Asked:
    """What a structure is asked for.

    Attributes:
      budget: fraction of the MACs.
      start: the first batch that may be looked at.
      blocks: share of blocks that stay, for rules that thin evenly; None: the rule's own.
    """

    budget: float
    start: int
    blocks: float | None = None


# (work, whose phases are timed, the pretrained supernet, what is asked) -> the structure
Select = Callable[[Phases, Any, Asked], Structure]


def uniform(work: Phases, variables: Any, asked: Asked) -> Structure:
    """The same keep ratio in every width and all heads, as many blocks as fit; the largest magnitudes stay."""
    task = work.task
    return work.timed(
        "search", lambda: strategies.uniform(task.space, _magnitudes(task, variables), _macs(task, asked))
    )


def uniform_taylor(work: Phases, variables: Any, asked: Asked) -> Structure:
    """As `uniform`, but the elements of the most Taylor importance stay."""
    space, importance = work.task.space, _taylor(work, variables, asked.start)
    ranking, macs = {name: np.asarray(c) for name, c in importance.items()}, _macs(work.task, asked)
    return work.timed("search", lambda: strategies.uniform(space, ranking, macs, blocks=_blocks(asked)))


def uniform_depth(work: Phases, variables: Any, asked: Asked) -> Structure:
    """The same keep ratio everywhere, blocks included; the largest magnitudes stay."""
    space, ranking = work.task.space, _magnitudes(work.task, variables)
    return work.timed("search", lambda: strategies.uniform(space, ranking, _macs(work.task, asked), blocks="same"))


def threshold(work: Phases, variables: Any, asked: Asked) -> Structure:
    """One threshold on Taylor importance per cost, measured on the pretrained supernet before anything is changed."""
    importance = _taylor(work, variables, asked.start)
    return work.timed("search", lambda: strategies.threshold(work.task.space, importance, _macs(work.task, asked)))


def random(work: Phases, variables: Any, asked: Asked) -> Structure:
    """Keep ratios and elements drawn by chance, moved onto the budget."""
    task = work.task
    return work.timed("search", lambda: strategies.random(task.space, _macs(task, asked), seed=work.seed))


SELECTIONS: dict[str, Select] = {f.__name__: f for f in (uniform, uniform_taylor, uniform_depth, threshold, random)}


def _blocks(asked: Asked) -> projection.Blocks:
    return "most" if asked.blocks is None else asked.blocks


def _macs(task: Task, asked: Asked) -> dict[str, int]:
    return {"macs": int(asked.budget * task.space.resources()["macs"])}


def _magnitudes(task: Task, variables: Any) -> dict[str, np.ndarray]:
    return {name: np.asarray(m) for name, m in task.space.magnitudes(variables["params"]).items()}


def _taylor(work: Phases, variables: Any, start: int) -> dict[str, jax.Array]:
    """The importance of a network's elements, with weights and masks left as they are."""
    schedule = Schedule(EVIDENCE_STEPS, warmup=EVIDENCE_STEPS - 1)
    search = Search(work.task.space, work.task.loss(work.task.model), None, {"macs": 1.0}, schedule)
    return work.run("search", search.step, search.init(variables), EVIDENCE_STEPS, start).importance
