"""Elements that cost the same: the steps of a table, such as widths in whole lanes, and where they end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from dms_jax.method.problem import Counts, Problem, Together


def next_step(problem: Problem, names: Together, k: int, now: np.ndarray) -> int:
    """The largest of the numbers of elements above k that cost the least more than k; the next one where none does.

    That need not be the first that costs more: of a table that asks more for 65 channels than for 72, it is 72.
    """
    more = problem.allowed[names][problem.allowed[names] > k]
    if not len(more):
        return k
    ends = problem.costs_of(names, k, more[[0, -1]], now)
    if not len(more) > 1 or not np.any(ends[:, -1] > 0) or not problem.stepped:
        return int(more[0])
    costs = np.sum(problem.costs_of(names, k, more, now), axis=0)
    dearer = costs[costs > 0]
    return int(more[np.flatnonzero(costs == dearer.min())[-1]]) if len(dearer) else int(more[0])


def step_end(problem: Problem, names: Together, k: int, now: np.ndarray) -> int:
    """The largest of the numbers of elements that follow k and cost what k does."""
    more = problem.allowed[names][problem.allowed[names] >= k]
    free = np.all(problem.costs_of(names, k, more, now) == 0, axis=0)
    return int(more[max(np.argmin(free) - 1, 0)]) if not free.all() else int(more[-1])


def settled(problem: Problem, counts: Counts) -> Counts:
    """Counts that lie within a step of a table, moved to the end of the step below: what they cost is free again.

    A step is worth all of its elements or none, which `filled` then decides. Where more elements cost less, as widths
    that fill whole lanes may, they are taken first. No resource grows.
    """
    if not problem.stepped:
        return dict(counts)
    counts = dict(counts)
    for names, k in counts.items():
        allowed, now = problem.allowed[names], problem.variables(counts)
        shares = problem.shares(now - problem.added(names, 0, k) + problem.up_to(names, allowed))
        costs, at = np.sum(shares, axis=0), int(np.searchsorted(allowed, k))
        cheaper = np.flatnonzero(np.all(shares <= shares[:, [at]], axis=0) & (costs < costs[at]))
        at = max(at, int(cheaper[-1])) if len(cheaper) else at
        counts[names] = int(allowed[at])
        if costs[-1] == costs[0] or at + 1 == len(allowed) or costs[at + 1] > costs[at]:
            continue  # in a removed block, or at the end of its step
        below = np.flatnonzero(np.all(shares <= shares[:, [at]], axis=0) & (costs < costs[at]))
        counts[names] = int(allowed[below[below < at][-1]]) if np.any(below < at) else int(allowed[at])
    return counts
