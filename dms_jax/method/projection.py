"""From pruning ratios to a structure within its budget: never above it, as near below it as one element allows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from dms_jax import topk
from dms_jax.errors import UserError
from dms_jax.explanation import exactly
from dms_jax.method.correction import Grow, Kept, corrected
from dms_jax.method.limits import Limits
from dms_jax.method.problem import Counts, Problem, Together
from dms_jax.method.steps import next_step, settled, step_end
from dms_jax.space import SearchSpace

NEAR = 0.99  # of the budget
ATTEMPTS = 8


def project(
    space: SearchSpace,
    ratios: Mapping[str, float],
    ranking: Mapping[str, np.ndarray],
    budget: Mapping[str, float],
    limits: Limits | None = None,
    *,
    hold: bool = True,
    within: Mapping[str, Sequence[int]] | None = None,
) -> dict[str, tuple[int, ...]]:
    """The kept elements nearest to searched ratios that fit a budget.

    All ratios move by one common shift until the budget holds (bisection). Then elements come back while any fits, the
    one with the most importance per cost first. Where that stays more than 1 % under the budget, because a large piece
    (a block, say) went last and no longer fits, the piece is held and the others move on.

    Where a budget is on what can be measured, the result is measured, and projected again by a corrected budget (see
    `dms_jax.method.correction`).

    Args:
      space: the search space.
      ratios: pruning ratio of every group.
      ranking: importance `[N]` of every group; the largest stay, ties by index as in the operator.
      budget: {"macs": number, ...}, of one or several resources.
      limits: smallest numbers, multiples, groups left alone.
      hold: whether a large piece may be held. False where the ratios come from importances compared across groups: what
        fell was worth less than what would have to make room.
      within: kept elements of a larger network, whose elements alone may be kept, and no more of any group: with the
        same ranking, of every group the best of those.

    Returns:
      Kept indices of every group, ascending. No resource exceeds its budget.

    Raises:
      UserError: the smallest structure within the limits is above the budget, or a ratio is not a number.
    """
    lost = [name for name in space.groups if not np.isfinite(ratios[name])]
    if lost:
        raise UserError(f"the pruning ratio of group {lost[0]!r} is {ratios[lost[0]]}: the search diverged")

    def predicted(budget: Mapping[str, float]) -> dict[str, tuple[int, ...]]:
        problem = Problem.of(space, ranking, budget, limits, within)
        return problem.kept(nearest(problem, ratios, ATTEMPTS if hold else 1))

    return corrected(space, budget, limits, predicted, growing(space, ranking, limits, within))


def growing(
    space: SearchSpace,
    ranking: Mapping[str, np.ndarray],
    limits: Limits | None,
    within: Mapping[str, Sequence[int]] | None = None,
    *,
    blocks: bool = True,
) -> Grow:
    """Kept elements and a budget -> these and more, the ones of most importance per cost first, while any fits.

    The arguments are those that the kept elements were projected by; `blocks`: whether more of them may stay, too.
    """

    def grow(kept: Kept, budget: Mapping[str, float]) -> Kept:
        problem = Problem.of(space, ranking, budget, limits, within)
        counts = {names: len(kept[names[0]]) for names in problem.allowed}
        if not blocks:
            problem = problem.holding({names: k for names, k in counts.items() if problem.group(names).rules.gates})
        return problem.kept(filled(problem, counts))

    return grow


def nearest(problem: Problem, ratios: Mapping[str, float], attempts: int) -> Counts:
    """Counts that fit, within 1 % of the budget where holding what fell last gets there in so many attempts.

    Raises:
      UserError: none were found: least in number, the best elements may cost more than others do.
    """
    held, best, most = Counts(), Counts(), 0.0
    for _ in range(attempts):
        found = shifted(problem, ratios, held)
        if found is None:
            break
        fitting, above = found
        counts = filled(problem, settled(problem, fitting))
        used = float(np.max(problem.shares(problem.variables(counts))))
        if not best or used > most:
            best, most = counts, used
        if most >= NEAR:
            break
        held |= {names: k for names, k in above.items() if k > fitting[names]}
    if best:
        return best
    cheapest = problem.cheapest()  # the fewest elements are too dear where more of them cost less
    if not problem.fits(problem.variables(cheapest)):
        most = " and ".join(f"{exactly(most)} {name}" for name, most in problem.budget.items())
        raise UserError(f"the fewest elements within the limits, the best ones, are above {most}; ask for more")
    return filled(problem, cheapest)


def shifted(
    problem: Problem, ratios: Mapping[str, float], held: Mapping[Together, int]
) -> tuple[Counts, Counts] | None:
    """Move all ratios by the smallest shift at which the budget holds: the counts there, and just before it.

    None where no shift fits with these counts held.
    """

    def counts(shift: float) -> Counts:
        """k = #{c' >= a}, then the nearest allowed number; held ones stay."""
        at = {names: topk.count_at(ratios[names[0]] + shift, problem.group(names).size) for names in problem.allowed}
        nearest = {names: int(n[np.argmin(np.abs(n - at[names]))]) for names, n in problem.allowed.items()}
        return nearest | dict(held)

    def fits(shift: float) -> bool:
        return bool(problem.fits(problem.variables(counts(shift))))

    low, high = -max(ratios.values()), 1.0 - min(ratios.values())  # at the ends all stay, or the least
    if fits(low):
        return counts(low), counts(low)
    if not fits(high):
        return None
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return counts(high), counts(low)


def filled(problem: Problem, counts: Counts) -> Counts:
    """Take elements back while any fits, by importance per cost.

    Of numbers that cost the same, as on the steps of a table, the largest is taken. What costs nothing whatever its
    number lies in removed blocks and comes last: taken first it would only make the blocks dearer.
    """

    def following(names: Together, k: int) -> tuple[int, np.ndarray, float]:
        """The next number that costs more, what its elements add to the variables, and their importance."""
        then = next_step(problem, names, k, now)
        gain = sum(float(np.sum(problem.worth[name][problem.order[name][k:then]])) for name in names)
        return then, problem.added(names, k, then), gain

    counts = dict(counts)
    names, now = list(counts), problem.variables(counts)
    steps = [following(each, counts[each]) for each in names]
    while True:
        after = now + np.stack([added for _, added, _ in steps])
        cost = np.sum(problem.shares(after), axis=0) - np.sum(problem.shares(now), axis=0)
        more = np.array([then > counts[each] for each, (then, _, _) in zip(names, steps, strict=True)])
        fitting = np.flatnonzero(problem.fits(after) & (cost > 0) & more)
        if not len(fitting):
            break
        gains = np.array([steps[i][2] for i in fitting])
        best = int(fitting[np.argmax(gains / cost[fitting])])
        counts[names[best]], now = steps[best][0], after[best]
        steps[best] = following(names[best], counts[names[best]])
    for each in sorted(names, key=lambda each: not problem.group(each).rules.gates):  # blocks while they are narrow
        k, most = counts[each], int(problem.allowed[each][-1])
        free = np.array_equal(problem.shares(now + problem.added(each, k, most)), problem.shares(now))
        then = most if free else step_end(problem, each, k, now) if problem.stepped else k
        counts[each], now = then, now + problem.added(each, k, then)  # what is free beside one need not be beside both
    return counts
