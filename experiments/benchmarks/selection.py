"""Structures without a search: the same keep ratio everywhere, one threshold, at random."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from dms_jax import baselines
from dms_jax.baselines.structures import Blocks
from dms_jax.method.schedule import Schedule
from dms_jax.method.search import Search
from dms_jax.space import SearchSpace
from dms_jax.structure import Structure
from experiments.benchmarks.phases import Phases

EVIDENCE_STEPS = 100
"""Batches that the importance of a pretrained network is averaged over. They come on top of the steps of training."""


@dataclass(frozen=True)
class Asked:
    """What a structure is asked for.

    Attributes:
      macs: the budget.
      seed: of what is drawn.
      blocks: how many stay, for rules that leave it open (`baselines.uniform`).
    """

    macs: int
    seed: int
    blocks: Blocks = "most"


Ranking = Mapping[str, Any]
"""{group: [N]}, the largest stay."""


@dataclass(frozen=True)
class Rule:
    """A structure from what is known of a pretrained network.

    Attributes:
      evidence: `(work, variables, first batch) -> ranking`; its phases are timed.
      pick: `(space, ranking, budget, what is asked) -> structure`.
    """

    evidence: Callable[[Phases, Any, int], Ranking]
    pick: Callable[[SearchSpace, Ranking, Mapping[str, int], Asked], Structure]


def select(work: Phases, name: str, variables: Any, asked: Asked, start: int) -> Structure:
    """The structure of a rule.

    Args:
      work: whose task and seed.
      name: of the rule.
      variables: of the pretrained supernet.
      asked: what it has to be like.
      start: the first batch that may be looked at.
    """
    rule = SELECTIONS[name]
    ranking = rule.evidence(work, variables, start)
    return work.timed("search", lambda: rule.pick(work.task.space, ranking, {"macs": asked.macs}, asked))


def _magnitudes(work: Phases, variables: Any, start: int) -> Ranking:
    return work.task.space.magnitudes(variables)


def _taylor(work: Phases, variables: Any, start: int) -> Ranking:
    """The importance of a network's elements, with weights and masks left as they are."""
    task, schedule = work.task, Schedule(EVIDENCE_STEPS, warmup=EVIDENCE_STEPS - 1)
    search = Search(task.space, task.loss(task.model), None, {"macs": 1.0}, schedule)
    return work.run("search", search.step, search.init(variables), EVIDENCE_STEPS, start).importance


def _nothing(work: Phases, variables: Any, start: int) -> Ranking:
    return {}


def _even(space: SearchSpace, ranking: Ranking, budget: Mapping[str, int], asked: Asked) -> Structure:
    """The same keep ratio in every width and all heads."""
    return baselines.uniform(space, ranking, budget, blocks=asked.blocks)


def _even_blocks(space: SearchSpace, ranking: Ranking, budget: Mapping[str, int], asked: Asked) -> Structure:
    """The same keep ratio everywhere, blocks included."""
    return baselines.uniform(space, ranking, budget, blocks="same")


def _threshold(space: SearchSpace, ranking: Ranking, budget: Mapping[str, int], asked: Asked) -> Structure:
    """One threshold on importance per cost, measured before anything is changed."""
    return baselines.threshold(space, ranking, budget)


def _random(space: SearchSpace, ranking: Ranking, budget: Mapping[str, int], asked: Asked) -> Structure:
    """Keep ratios and elements drawn by chance, moved onto the budget."""
    return baselines.random(space, budget, seed=asked.seed)


SELECTIONS = {
    "uniform": Rule(_magnitudes, _even),
    "uniform_taylor": Rule(_taylor, _even),
    "uniform_depth": Rule(_magnitudes, _even_blocks),
    "threshold": Rule(_taylor, _threshold),
    "random": Rule(_nothing, _random),
}
