"""Structures without a search, and Differentiable Model Scaling (DMS) with changes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dms_jax.baselines import knapsack, random, threshold, uniform
from dms_jax.method.dms import DMS
from dms_jax.method.layout import Layout
from dms_jax.method.schedule import Schedule
from dms_jax.method.search import Search
from dms_jax.method.strategy import Context
from dms_jax.space import SearchSpace
from dms_jax.structure import Structure
from experiments.benchmarks.evolution import drawn, evolve, projected
from experiments.benchmarks.tasks import Phases

EVIDENCE_STEPS = 100
"""Batches that the importance of a pretrained network is averaged over. They come on top of the steps of training."""
Ranking = Mapping[str, Any]
"""{group: [N]}, the largest stay."""


@dataclass(frozen=True)
class Asked:
    """What a structure is asked for.

    Attributes:
      macs: the budget.
      seed: of what is drawn.
      blocks: share of them that stays, for rules that leave it open; None: as many as fit.
      draw: of the ratios, for the rule that draws them whatever the seed.
    """

    macs: int
    seed: int
    blocks: float | None = None
    draw: int = 0

    @property
    def budget(self) -> dict[str, int]:
        """As the structures of `dms_jax.baselines` take it."""
        return {"macs": self.macs}


Rule = Callable[[Phases, Any, Asked, int], Structure]
"""`(work, variables of the pretrained supernet, what is asked, first batch that may be looked at) -> structure`."""
Evidence = Callable[[Phases, Any, int], Ranking]
"""`(work, variables, first batch) -> ranking`; its phases are timed."""


def ranked(evidence: Evidence, pick: Callable[[SearchSpace, Ranking, Asked], Structure]) -> Rule:
    """A rule that looks at a ranking of elements alone."""

    def rule(work: Phases, variables: Any, asked: Asked, start: int) -> Structure:
        ranking = evidence(work, variables, start)
        return work.timed("search", lambda: pick(work.task.space, ranking, asked))

    return rule


def magnitudes(work: Phases, variables: Any, start: int) -> Ranking:
    """How large the weights of elements are."""
    return work.task.space.magnitudes(variables)


def taylor(work: Phases, variables: Any, start: int) -> Ranking:
    """The importance of a network's elements, with weights and masks left as they are."""
    task, schedule = work.task, Schedule(EVIDENCE_STEPS, warmup=EVIDENCE_STEPS - 1)
    search = Search(task.space, task.loss(task.model), None, {"macs": 1.0}, schedule)
    return work.run("search", search.step, search.init(variables), EVIDENCE_STEPS, start).importance


def nothing(work: Phases, variables: Any, start: int) -> Ranking:
    """For what is drawn by chance."""
    return {}


def _even(space: SearchSpace, ranking: Ranking, asked: Asked) -> Structure:
    """The same keep ratio in every width and all heads."""
    return uniform(space, ranking, asked.budget, blocks="most" if asked.blocks is None else asked.blocks)


def _evolution(work: Phases, variables: Any, asked: Asked, start: int) -> Structure:
    """The ratios of least loss that evolution finds, elements by importance."""
    return evolve(work, variables, taylor(work, variables, start), asked.budget, start)


RULES: Mapping[str, Rule] = {
    "uniform": ranked(magnitudes, _even),
    "uniform_taylor": ranked(taylor, _even),
    # the same keep ratio everywhere, blocks included
    "uniform_depth": ranked(magnitudes, lambda space, r, asked: uniform(space, r, asked.budget, blocks="same")),
    # one threshold on importance per cost, measured before anything is changed
    "threshold": ranked(taylor, lambda space, r, asked: threshold(space, r, asked.budget)),
    # the most importance that the budget buys, measured likewise
    "knapsack": ranked(taylor, lambda space, r, asked: knapsack(space, r, asked.budget)),
    # keep ratios and elements by chance, moved onto the budget
    "random": ranked(nothing, lambda space, _, asked: random(space, asked.budget, seed=asked.seed)),
    "evolution": _evolution,
    # ratios drawn around the even ones, elements by importance
    "drawn": ranked(taylor, lambda space, r, asked: projected(space, drawn(space, asked.draw), r, asked.budget)),
}


@dataclass(frozen=True)
class VariedDMS(DMS):
    """DMS with another slope of its masks, or with ratios that start at 0.

    Attributes:
      sharpness: lambda, times the usual one.
      start_open: ratios start at a_open; False: at 0, where the weakest mask is one half already.
    """

    sharpness: float = 1.0
    start_open: bool = True

    def init(self, layout: Layout) -> jax.Array:
        opened = super().init(self._sharpened(layout))
        return opened if self.start_open else jnp.zeros_like(opened)

    def masks(self, layout: Layout, parameters: jax.Array, context: Context) -> jax.Array:
        return super().masks(self._sharpened(layout), parameters, context)

    def clip(self, layout: Layout, parameters: jax.Array) -> jax.Array:
        clipped = super().clip(self._sharpened(layout), parameters)
        return clipped if self.start_open else jnp.maximum(clipped, 0.0)

    def _sharpened(self, layout: Layout) -> Layout:
        return dataclasses.replace(layout, sharpness=layout.sharpness * np.float32(self.sharpness))
