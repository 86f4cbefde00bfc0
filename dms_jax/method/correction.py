"""Budgets of what is measured: projected by a prediction, measured, and projected again by what that taught."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from dms_jax.budgets import Measured
from dms_jax.budgets.amounts import words
from dms_jax.errors import UserError
from dms_jax.explanation import exactly
from dms_jax.method import limits
from dms_jax.space import SearchSpace

Kept: TypeAlias = dict[str, tuple[int, ...]]
Project: TypeAlias = Callable[[dict[str, Any]], Kept]

NEAR = 0.95  # of the budget
AIMS = (0.98, 0.98, 0.95, 0.85)  # shares of the budget that corrections aim at, one after another


def smallest(space: SearchSpace, names: Iterable[str], within: limits.Limits) -> dict[str, Any]:
    """The smallest resources reachable within limits; those that are named and can be measured are measured."""
    kept = {name: tuple(range(int(allowed[0]))) for name, allowed in within.counts(space).items()}
    costs = {name: space.costs[name] for name in names}
    truth = {name: cost.measure(kept) for name, cost in costs.items() if isinstance(cost, Measured)}
    return {**space.resources(kept), **truth}


def corrected(
    space: SearchSpace, budget: Mapping[str, Any], within: limits.Limits | None, project: Project
) -> dict[str, tuple[int, ...]]:
    """The candidate whose measured resources are nearest under their budgets.

    A candidate is projected and measured. The budgets that the next one is projected by are those that it would have
    needed, b <- aim predicted / measured budget, at most four times; what was tried before bounds them on both sides.

    Args:
      space: the search space.
      budget: {"memory": number, ...}, what must hold; where nothing of it is measured, `project` is called once.
      within: what the structure must respect.
      project: from budgets to kept elements of every group that keep them as predicted.

    Returns:
      Kept elements; what is measured is at most the budget, and at least 95 % of it where a structure allows that.

    Raises:
      UserError: no candidate keeps the budget; or as `project`.
    """
    costs = {name: cost for name in budget if isinstance(cost := space.costs[name], Measured)}
    if not costs:
        return project(dict(budget))
    least = limits.smallest(space, within or limits.Limits())
    asks = {name: _Ask(budget[name], least[name], budget[name]) for name in costs}
    best, most, tried = None, 0.0, []
    for aim in (*AIMS, None):
        kept = project({**budget, **{name: max(ask.now, ask.least) for name, ask in asks.items()}})
        if kept in tried:
            break
        tried.append(kept)
        predicted, found = space.resources(kept), {name: cost.measure(kept) for name, cost in costs.items()}
        for name, ask in asks.items():
            ask.learn(predicted[name], found[name])
        shares = [found[name] / budget[name] for name in costs]
        if max(shares) <= 1 and (best is None or min(shares) > most):
            best, most = kept, min(shares)
        if aim is None or (max(shares) <= 1 and most >= NEAR):
            break
        for ask in asks.values():
            ask.move(aim)
    if best is None:
        raise _unreached(costs, asks, len(tried))
    return best


@dataclass
class _Ask:
    """What one resource is projected by.

    Attributes:
      budget: what must be measured.
      least: the smallest prediction that there is.
      now: what the next candidate is projected by.
      low, high: predictions that turned out to fit, and not to.
      seen: (predicted, measured), of all candidates.
    """

    budget: Any
    least: Any
    now: Any
    low: float = 0.0
    high: float = float("inf")
    seen: list[tuple[Any, Any]] = field(default_factory=list)

    def learn(self, predicted: Any, found: Any) -> None:
        """Take in what a candidate had."""
        self.seen.append((predicted, found))
        if found > self.budget:
            self.high = min(self.high, predicted)
        else:
            self.low = max(self.low, predicted)

    def move(self, aim: float) -> None:
        """Set what the next candidate is projected by, unless this one was near enough."""
        predicted, found = self.seen[-1]
        if NEAR <= found / self.budget <= 1:
            return
        aim = aim if found > self.budget else 1.0  # an element more is what is missing
        wanted = aim * self.budget * predicted / max(found, 1e-12) if predicted > 0 else self.now
        inside = self.low < wanted < self.high
        wanted = wanted if inside or self.high == float("inf") else (self.low + self.high) / 2
        self.now = max(wanted, self.least)


def _unreached(costs: Mapping[str, Measured], asks: Mapping[str, _Ask], candidates: int) -> UserError:
    """What to say where no candidate fits."""
    missed = {name: ask for name, ask in asks.items() if all(found > ask.budget for _, found in ask.seen)} or asks
    name, ask = next(iter(missed.items()))
    predicted, found = min(ask.seen, key=lambda pair: pair[1])
    return UserError(
        f"none of {candidates} structures has at most {exactly(ask.budget)} {words(name, costs[name].unit)} when "
        f"measured; the nearest has {exactly(found)}, where {exactly(predicted)} were predicted: ask for more"
    )
