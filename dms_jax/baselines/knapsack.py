"""A knapsack over numbers of elements: the most importance that a budget buys, without a search."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dms_jax.method.correction import corrected
from dms_jax.method.limits import Limits
from dms_jax.method.problem import Counts, Problem
from dms_jax.method.projection import filled, growing, nearest
from dms_jax.method.steps import settled
from dms_jax.space import SearchSpace
from dms_jax.structure import Structure

CELLS = 8192
"""The finest grid of what may be spent."""
STEPS, MORE = 16, 12
"""Budgets from the full network down to the one asked for, and further tries at that one."""


def knapsack(
    space: SearchSpace, importance: Mapping[str, Any], budget: Mapping[str, int], limits: Limits | None = None
) -> Structure:
    """Allocate a budget by dynamic programming on importance and cost tables.

        maximize sum_g V_g(k_g)   subject to   sum_g C_g(k_g) <= budget,      V_g(k): importance of the k best elements

    one k for groups that share a count, from the numbers that the limits allow. Where the cost is a sum over groups,
    C_g is exact, and so is the allocation up to the grid (`allocate`). MACs are no such sum: a layer's are a product of
    its inputs and outputs. There the costs are tables of one group at a time, with all others as they are now, and the
    knapsack is solved again and again, from the full network along 16 budgets that fall by one factor each, then up to
    12 times at the last: a successive linearization, which finds a good allocation and does not prove it the best. Of
    what fits, the most importance is taken; what is left of the budget buys single elements. Of several resources,
    every step counts the scarcest.

    In the manner of Shen et al., "Structural Pruning via Latency-Saliency Knapsack" (HALP), NeurIPS 2022, arXiv
    2110.10811: there, too, elements of a layer are taken in the order of their importance, and costs are tables. Blocks
    are units of their own beside the elements in them, with the importance of their gates.

    Args:
      space: the search space.
      importance: {group: [N]}, as for `threshold`; sums of it are compared across groups.
      budget, limits: as in `uniform`.

    Raises:
      UserError: nothing within the limits is under the budget.
    """
    worth = {name: np.asarray(c) for name, c in importance.items()}

    def predicted(budget: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        problem = Problem.of(space, worth, budget, limits)
        return problem.kept(filled(problem, settled(problem, _allocated(problem))))

    return space.structure(corrected(space, budget, limits, predicted, growing(space, worth, limits)))


def _allocated(problem: Problem) -> Counts:
    """Numbers of elements that fit."""
    values = {names: _values(problem, names) for names in problem.allowed}

    def total(counts: Counts) -> float:
        return sum(float(values[names][np.searchsorted(problem.allowed[names], k)]) for names, k in counts.items())

    counts = {names: int(numbers[-1]) for names, numbers in problem.allowed.items()}
    above = max(float(np.max(problem.shares(problem.variables(counts)))), 1.0)
    targets = [*above ** (1.0 - np.arange(1, STEPS + 1) / STEPS), *[1.0] * MORE]
    best: Counts = {}
    for target in targets:
        following = _step(problem, values, counts, target)
        same, counts = following == counts, following
        if problem.fits(problem.variables(counts)) and (not best or total(counts) > total(best)):
            best = counts
        if same and target == 1.0:
            break
    if best:
        return best
    ratios = {name: 1.0 - k / problem.group(names).size for names, k in counts.items() for name in names}
    return nearest(problem, ratios, 1)


def _values(problem: Problem, names: tuple[str, ...]) -> np.ndarray:
    """V `[numbers]`: the importance of the best elements, as many as allowed, of groups counted together."""
    sums = sum(np.concatenate([[0.0], np.cumsum(problem.worth[name][problem.order[name]])]) for name in names)
    return np.asarray(sums)[problem.allowed[names]]


def _step(problem: Problem, values: Mapping[Any, np.ndarray], counts: Counts, target: float) -> Counts:
    """The best counts at the costs of one group at a time beside these counts."""
    now = problem.variables(counts)
    name = list(problem.budget)[int(np.argmax(problem.shares(now)))]
    cost = problem.space.costs[name]
    here = cost.exact(now)

    def table(names: tuple[str, ...]) -> np.ndarray:
        """`[numbers]`: what the network costs more than now."""
        others = now - problem.added(names, 0, counts[names])
        found = np.asarray(cost.exact(others + problem.up_to(names, problem.allowed[names])) - here)
        return found.astype(np.float64) if found.dtype == object else found  # whole numbers beyond int64

    tables = [table(names) for names in problem.allowed]
    chosen = allocate(tables, [values[names] for names in problem.allowed], target * problem.budget[name] - float(here))
    return {names: int(numbers[i]) for (names, numbers), i in zip(problem.allowed.items(), chosen, strict=True)}


def allocate(costs: Sequence[np.ndarray], values: Sequence[np.ndarray], capacity: float) -> list[int]:
    """One choice of every list: the most value in all that does not cost more than the capacity.

    The multiple-choice knapsack, by dynamic programming over what may be spent: exact where costs are whole multiples
    of some number and the capacity is at most 8192 of these; else costs are rounded up to a grid of 8192. Where nothing
    fits, the cheapest.

    Args:
      costs: `[choices]` each, of any sign.
      values: `[choices]` each.
      capacity: of the sum of the costs.

    Returns:
      The place of the choice in every list.
    """
    over = [cost - np.min(cost) for cost in costs]
    room = capacity - float(sum(np.min(cost) for cost in costs))
    if room < 0:
        return [int(np.argmin(cost)) for cost in costs]
    unit = max(_step_of(over), room / CELLS) or 1.0
    cells = int(room / unit + 1e-9)
    best = np.zeros(cells + 1)  # the most value of the lists so far, by what they may cost
    chosen = []
    for cost, value in zip(over, values, strict=True):
        steps = np.ceil(cost / unit - 1e-9).astype(np.int64)
        found, choice = np.full(cells + 1, -np.inf), np.zeros(cells + 1, np.int64)
        for i in np.flatnonzero(steps <= cells):
            with_it = best[: cells + 1 - steps[i]] + value[i]
            better = np.flatnonzero(with_it > found[steps[i] :]) + steps[i]
            found[better], choice[better] = with_it[better - steps[i]], i
        chosen.append((steps, choice))
        best = found
    picked, left = [], cells
    for steps, choice in reversed(chosen):
        picked.append(int(choice[left]))
        left -= int(steps[picked[-1]])
    return picked[::-1]


def _step_of(costs: Sequence[np.ndarray]) -> float:
    """The largest number that all costs are multiples of; 0 where they are no whole numbers."""
    if not all(np.issubdtype(cost.dtype, np.integer) for cost in costs):
        return 0.0
    return float(math.gcd(*(int(x) for cost in costs for x in cost)))
