"""Elements that cost the same: the steps of a table, such as widths in whole lanes, and where they end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from dms_jax.method.problem import Counts, Problem, Together


def next_step(problem: Problem, names: Together, k: int, now: np.ndarray) -> int:
    """The largest of the numbers of elements above k that cost the least more than k; the next one where none does."""
    more = problem.allowed[names][problem.allowed[names] > k]
    if not len(more):
        return k
    ends = problem.costs_of(names, k, more[[0, -1]], now)
    if not len(more) > 1 or not np.any(ends[:, -1] > 0) or not problem.stepped:
        return int(more[0])
    costs = np.sum(problem.costs_of(names, k, more, now), axis=0)
    dearer = np.flatnonzero(costs > 0)
    return int(more[np.flatnonzero(costs == costs[dearer[0]])[-1]]) if len(dearer) else int(more[0])


def step_end(problem: Problem, names: Together, k: int, now: np.ndarray) -> int:
    """The largest of the numbers of elements that follow k and cost what k does."""
    more = problem.allowed[names][problem.allowed[names] >= k]
    free = np.all(problem.costs_of(names, k, more, now) == 0, axis=0)
    return int(more[max(np.argmin(free) - 1, 0)]) if not free.all() else int(more[-1])


def settled(problem: Problem, counts: Counts) -> Counts:
    """Counts that lie within a step of a table, moved to the end of the step below: what they cost is free again.

    A step is worth all of its elements or none, which `filled` then decides.
    """
    if not problem.stepped:
        return dict(counts)
    counts = dict(counts)
    for names, k in counts.items():
        allowed, now = problem.allowed[names], problem.variables(counts)
        costs = np.sum(problem.shares(now - problem.added(names, 0, k) + problem.up_to(names, allowed)), axis=0)
        at = costs[np.searchsorted(allowed, k)]
        if costs[-1] == costs[0] or (k == allowed[-1] or costs[np.searchsorted(allowed, k) + 1] > at):
            continue  # in a removed block, or at the end of its step
        below = allowed[(allowed < k) & (costs < at)]
        counts[names] = int(below[-1]) if len(below) else k
    return counts
