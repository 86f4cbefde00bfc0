"""Budgets of what is measured: projected by a prediction, measured, and projected again by what that taught."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

from dms_jax.budgets import Measured
from dms_jax.budgets.amounts import Given, words
from dms_jax.errors import UserError
from dms_jax.explanation import exactly
from dms_jax.method import limits, resources
from dms_jax.method.problem import cheapest, fewest, smallest
from dms_jax.space import SearchSpace

Kept: TypeAlias = dict[str, tuple[int, ...]]
Project: TypeAlias = Callable[[dict[str, Any]], Kept]
Grow: TypeAlias = Callable[[Kept, dict[str, Any]], Kept]

NEAR = 0.95  # of the budget
MOST_PROJECTED = 10  # most of these find a candidate again, which is not measured twice
AIMS = (0.98, 0.98, 0.95, 0.85)  # shares of the budget that corrections aim at, one after another
MOST_GROWN = 6


def targets(space: SearchSpace, budget: Mapping[str, Given], within: limits.Limits) -> dict[str, Any]:
    """Budgets in absolute numbers. The smallest structure is measured where it can be: what it has can be reached.

    Raises:
      UserError: as `dms_jax.method.resources.budget`.
    """
    least, kept, hints = smallest(space, within, budget), fewest(space, within), {}
    for name in budget:
        if isinstance(cost := space.costs[name], Measured):
            tried = [kept, *([cheapest(space, within, name)] if cost.stepped else [])]
            least[name] = min(map(cost.measure, tried))  # where they are one structure, it is measured once
            hints[name] = partial(cost.hint, kept)
    return resources.targets(space, budget, least, hints)


def corrected(
    space: SearchSpace, budget: Mapping[str, Any], within: limits.Limits | None, project: Project, grow: Grow
) -> dict[str, tuple[int, ...]]:
    """The candidate whose measured resources are nearest under their budgets.

    A candidate is projected and measured, and the budget of the next one is what would have been right for this one,
    were measured a straight line in predicted; at most four times. What was tried before bounds it on both sides. Where
    that ends more than 5 % below the budget, because what is measured jumps when all sizes move a little, the best one
    grows by the few elements that should fill the rest, half as many whenever that was too much; at most six times.

    Args:
      space: the search space.
      budget: {"memory": number, ...}, what must hold; where nothing of it is measured, `project` is called once.
      within: what the structure must respect.
      project: from budgets to kept elements of every group that keep them as predicted.
      grow: from kept elements and budgets to these and as many more as keep the budgets as predicted.

    Returns:
      Kept elements; what is measured is at most the budget, and at least 95 % of it where a structure allows that.

    Raises:
      UserError: no candidate keeps the budget; or as `project`.
    """
    costs = {name: cost for name in budget if isinstance(cost := space.costs[name], Measured)}
    if not costs:
        return project(dict(budget))
    least = smallest(space, within or limits.Limits(), costs)
    asks = {name: _Ask(budget[name], least[name], budget[name], cost.full, cost.full) for name, cost in costs.items()}
    best, most, tried = None, 0.0, []
    for _ in range(MOST_PROJECTED):
        kept = project({**budget, **{name: max(ask.now, ask.least) for name, ask in asks.items()}})
        if kept not in tried and len(tried) > len(AIMS):
            break
        tried += [kept] if kept not in tried else []
        predicted, found = space.resources(kept), {name: cost.measure(kept) for name, cost in costs.items()}
        for name, ask in asks.items():
            ask.learn(predicted[name], found[name])
        shares = [found[name] / budget[name] for name in costs]
        if max(shares) <= 1 and (best is None or min(shares) > most):
            best, most = kept, min(shares)
        if best is not None and most >= NEAR:
            break
        for ask in asks.values():
            ask.move(AIMS[min(len(tried), len(AIMS)) - 1])
    if best is None:
        raise _unreached(costs, asks, len(tried))
    return best if most >= NEAR else _grown(space, budget, costs, best, grow)


def _grown(
    space: SearchSpace, budget: Mapping[str, Any], costs: Mapping[str, Measured], best: Kept, grow: Grow
) -> Kept:
    """A candidate with more elements, nearer to the budget where one of a few is: small steps teach what they cost."""
    share = 1.0  # of what is left of the budget
    for _ in range(MOST_GROWN):
        predicted, found = space.resources(best), {name: cost.measure(best) for name, cost in costs.items()}
        rest = {name: (AIMS[0] * budget[name] - found[name]) / max(found[name], 1e-12) for name in costs}
        kept = grow(best, {**budget, **{name: predicted[name] * (1 + share * max(x, 0.0)) for name, x in rest.items()}})
        if kept == best:
            break
        larger = {name: cost.measure(kept) for name, cost in costs.items()}
        if all(larger[name] <= budget[name] for name in costs) and _used(larger, budget) > _used(found, budget):
            best, share = kept, 1.0
            if _used(larger, budget) >= NEAR:
                break
        else:
            share /= 2
    return best


def _used(found: Mapping[str, Any], budget: Mapping[str, Any]) -> float:
    """How much of the budget of which most is left."""
    return min(found[name] / budget[name] for name in found)


@dataclass
class _Ask:
    """What one resource is projected by.

    Attributes:
      budget: what must be measured.
      least: the smallest prediction that there is.
      now: what the next candidate is projected by.
      full: the full network's, which is predicted right.
      low, high: what turned out to fit when it was asked, and not to.
      seen: (predicted, measured), of all candidates.
    """

    budget: Any
    least: Any
    now: Any
    full: Any
    high: Any
    low: float = 0.0
    seen: list[tuple[Any, Any]] = field(default_factory=list)

    def learn(self, predicted: Any, found: Any) -> None:
        """Take in what a candidate had."""
        self.seen.append((predicted, found))
        if found > self.budget:
            self.high = min(self.high, predicted)
        else:
            self.low = max(self.low, self.now)

    def move(self, aim: float) -> None:
        """Set what the next candidate is projected by, unless this one was near enough."""
        predicted, found = self.seen[-1]
        if NEAR <= found / self.budget <= 1:
            return
        aim = aim if found > self.budget else 1.0  # an element more is what is missing
        others = [(p, f) for p, f in [(self.full, self.full), *self.seen] if (p - predicted) * (f - found) > 0]
        if others:  # the line through this candidate and the nearest other one
            p, f = min(others, key=lambda other: abs(other[1] - self.budget))
            wanted = predicted + (aim * self.budget - found) * (p - predicted) / (f - found)
        else:
            wanted = aim * self.budget * predicted / max(found, 1e-12)
        self.now = max(wanted if self.low < wanted < self.high else (self.low + self.high) / 2, self.least)


def _unreached(costs: Mapping[str, Measured], asks: Mapping[str, _Ask], candidates: int) -> UserError:
    """What to say where no candidate fits."""
    missed = {name: ask for name, ask in asks.items() if all(found > ask.budget for _, found in ask.seen)} or asks
    name, ask = next(iter(missed.items()))
    predicted, found = min(ask.seen, key=lambda pair: pair[1])
    return UserError(
        f"none of {candidates} structures has at most {exactly(ask.budget)} {words(name, costs[name].unit)} when "
        f"measured; the nearest has {exactly(found)}, where {exactly(predicted)} were predicted: ask for more"
    )
