"""Evolution over structures of a pretrained network, for as many passes as a search of the usual length takes.

As methods that allocate by trial do it, FastNAS and Týr-the-Pruner among them: weights stand still, elements are ranked
once, and what evolves is a pruning ratio for every group, projected onto the budget. A candidate's score is the loss of
the full network under its masks, on training batches that are the same for all. A hundred training steps, forward and
backward, are some three hundred forward passes: 75 candidates of four batches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import numpy as np

from dms_jax.method.loss import outcome
from dms_jax.method.projection import project
from dms_jax.space import SearchSpace
from dms_jax.structure import Structure
from experiments.benchmarks.tasks import Phases

POPULATION, GENERATIONS, PARENTS = 15, 5, 4
BATCHES = 4
STEP = 0.3
"""Standard deviation of what is added to a ratio, in the first generation; it halves with every one."""
EVEN = 0.5
"""The ratio of all groups, before it is moved onto the budget."""
Ratios = np.ndarray
"""A pruning ratio in [0, 1] of every group that is counted by itself."""


def evolve(
    work: Phases, variables: Any, ranking: Mapping[str, Any], budget: Mapping[str, int], start: int
) -> Structure:
    """The best structure that evolution finds.

    Args:
      work: whose task and seed; its phases are timed.
      variables: of the pretrained supernet.
      ranking: {group: [N]}, the largest stay.
      budget: {"macs": int}.
      start: the first batch that may be looked at.
    """
    space, score, draw = work.task.space, _scorer(work, variables, start), np.random.default_rng(work.seed)
    structure = partial(projected, space, ranking=ranking, budget=budget)
    return work.timed("search", lambda: _evolved(len(space.counted), structure, score, draw))


def projected(space: SearchSpace, ratios: Ratios, ranking: Mapping[str, Any], budget: Mapping[str, int]) -> Structure:
    """The structure of these ratios that fits the budget."""
    named = {name: float(x) for names, x in zip(space.counted, ratios, strict=True) for name in names}
    worth = {name: np.asarray(x) for name, x in ranking.items()}
    return space.structure(project(space, named, worth, budget))


def drawn(space: SearchSpace, draw: int) -> Ratios:
    """Ratios by chance around the even ones: near, further and far, in turn."""
    step = STEP * (1 + draw % 3) / 3
    return _changed(np.full(len(space.counted), EVEN), step, np.random.default_rng(draw))


def _evolved(
    count: int,
    structure: Callable[[Ratios], Structure],
    score: Callable[[Structure], float],
    draw: np.random.Generator,
) -> Structure:
    """The best of all generations. The first one is the even structure and changes of it."""
    even = np.full(count, EVEN)
    young, step = [even, *(_changed(even, STEP, draw) for _ in range(POPULATION - 1))], STEP
    known: list[tuple[float, Ratios, Structure]] = []
    for generation in range(GENERATIONS):
        if generation:
            parents, step = [ratios for _, ratios, _ in known[:PARENTS]], step / 2
            young = [_changed(_crossed(parents, draw), step, draw) for _ in range(POPULATION)]
        for ratios in young:
            found = structure(ratios)
            known.append((score(found), ratios, found))
        known.sort(key=lambda one: one[0])
    return known[0][2]


def _crossed(parents: list[Ratios], draw: np.random.Generator) -> Ratios:
    """Every ratio that of one of two parents."""
    one, other = (parents[i] for i in draw.choice(len(parents), 2, replace=False))
    return np.where(draw.random(len(one)) < 0.5, one, other)


def _changed(ratios: Ratios, step: float, draw: np.random.Generator) -> Ratios:
    return np.clip(ratios + step * draw.normal(size=len(ratios)), 0.0, 1.0)


def _scorer(work: Phases, variables: Any, start: int) -> Callable[[Structure], float]:
    """The mean loss over the batches, of the full network under a structure's masks."""
    task, space = work.task, work.task.space
    run, drawn = space.masked(outcome(task.loss(task.model))), task.batches(work.seed)
    batches = [drawn(start + i) for i in range(BATCHES)]
    key = jax.random.fold_in(jax.random.key(work.seed), start)

    def loss(variables: Any, masks: Any, batch: Any) -> jax.Array:
        return run(variables, masks, batch, key)[0]

    masks = space.masks(None)
    program = work.timed("compile", lambda: jax.jit(loss).lower(variables, masks, batches[0]).compile())

    def score(structure: Structure) -> float:
        masks = space.masks(structure)
        return float(np.mean([program(variables, masks, batch) for batch in batches]))

    return score
