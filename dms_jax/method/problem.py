"""What numbers of kept elements stand for: which elements, what they cost, and whether that is within a budget."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np

from dms_jax.errors import UserError
from dms_jax.explanation import exactly
from dms_jax.groups import Group
from dms_jax.method.limits import Limits
from dms_jax.space import SearchSpace

SWEEPS = 4
"""Times that all groups look for what costs least."""

Together: TypeAlias = tuple[str, ...]  # groups that have one count
Counts: TypeAlias = dict[Together, int]  # of kept elements


class Problem:
    """What numbers of kept elements stand for: elements, resources, and whether they fit.

    Attributes:
      space, budget: of the problem.
      allowed: the numbers that groups counted together may have, ascending.
      order: `[N]` of every group, its elements from the best one on.
      worth: `[N]` of every group, their importance, finite.
    """

    def __init__(
        self,
        space: SearchSpace,
        ranking: Mapping[str, np.ndarray],
        budget: Mapping[str, float],
        allowed: Mapping[str, np.ndarray],
    ):
        self.space, self.budget = space, budget
        self.allowed = {names: _shared(names, allowed) for names in space.counted}
        # best first; a stable ascending sort read backwards, so ties fall as the operator's ranks do (NaN lowest)
        clean = {name: np.where(np.isnan(c), -np.inf, c) for name, c in ranking.items()}
        self.order = {name: np.argsort(c, kind="stable")[::-1] for name, c in clean.items()}
        self.worth = {
            name: np.nan_to_num(np.asarray(c, np.float64), nan=0.0, posinf=1e100, neginf=-1e100)
            for name, c in ranking.items()
        }

    @staticmethod
    def of(
        space: SearchSpace,
        ranking: Mapping[str, np.ndarray],
        budget: Mapping[str, float],
        limits: Limits | None,
        within: Mapping[str, Sequence[int]] | None = None,
    ) -> Problem:
        """The problem of a budget that can be met, among the elements of a larger network where one is given.

        Raises:
          UserError: it cannot.
        """
        limits = limits or Limits()
        least = smallest(space, limits, budget, budget)
        for name, most in budget.items():
            if least[name] > most:
                raise UserError(
                    f"no structure has at most {exactly(most)} {name}; the smallest within the limits has "
                    f"{exactly(least[name])}"
                )
        problem = Problem(space, ranking, budget, limits.counts(space))
        return problem if within is None else problem.inside(within)

    def inside(self, larger: Mapping[str, Sequence[int]]) -> Problem:
        """The same among the elements of a larger network: those come first, and no more than it has are allowed."""
        inner = copy.copy(self)
        inner.order = {
            n: order[np.argsort(~np.isin(order, larger[n]), kind="stable")] for n, order in self.order.items()
        }
        most = {names: min(len(larger[name]) for name in names) for names in self.allowed}
        inner.allowed = {names: numbers[numbers <= most[names]] for names, numbers in self.allowed.items()}
        if (none := next((names[0] for names, left in inner.allowed.items() if not len(left)), None)) is not None:
            raise UserError(f"the larger network keeps {len(larger[none])} of {none!r}, fewer than the limits allow")
        return inner

    def holding(self, counts: Counts) -> Problem:
        """The same with these numbers of elements, and no others."""
        held = copy.copy(self)
        held.allowed = self.allowed | {names: np.array([k]) for names, k in counts.items()}
        return held

    def group(self, names: Together) -> Group:
        """The first of groups counted together; they are alike."""
        return self.space.groups[names[0]]

    def added(self, names: Together, start: int, stop: int) -> np.ndarray:
        """What the elements ranked [start, stop) add to the variables of the costs, `[V]`."""
        variables = [self.space.element_variables(name)[self.order[name][start:stop]] for name in names]
        added = np.bincount(np.concatenate(variables), minlength=len(self.space.variable_sizes))
        added[0] = 0
        return added

    def variables(self, counts: Counts) -> np.ndarray:
        """What the costs are evaluated at, `[V]`."""
        total = np.sum([self.added(names, 0, k) for names, k in counts.items()], axis=0)
        total[0] = 1
        return total

    @cached_property
    def stepped(self) -> bool:
        """Whether more elements of a block that is there may cost the same."""
        return any(self.space.costs[name].stepped for name in self.budget)

    def up_to(self, names: Together, numbers: np.ndarray) -> np.ndarray:
        """What so many elements add to the variables, `[numbers, V]`."""
        return np.stack([self.added(names, 0, int(n)) for n in numbers])

    def costs_of(self, names: Together, k: int, numbers: np.ndarray, now: np.ndarray) -> np.ndarray:
        """`[resources, numbers]`: how much more a network costs with these numbers of elements instead of k."""
        more = np.stack([self.added(names, k, int(n)) for n in numbers])
        return self.shares(now + more) - self.shares(now)[:, None]

    def shares(self, variables: np.ndarray) -> np.ndarray:
        """`[resources, ...]` float64: each resource as a share of its budget, for variables `[..., V]`."""
        found = [self.space.costs[name].exact(variables) / most for name, most in self.budget.items()]
        return np.stack(found).astype(np.float64)

    def fits(self, variables: np.ndarray) -> np.ndarray:
        """`[...]` bool for variables `[..., V]`, in exact integers."""
        checks = [self.space.costs[name].exact(variables) <= most for name, most in self.budget.items()]
        return np.logical_and.reduce(checks)

    def cheapest(self) -> Counts:
        """The numbers that come nearest to the budget or are furthest below it, as one group after another finds them.

        The fewest, where no table asks less for more elements. A group after another takes what costs least beside the
        others, which finds the least of what is a sum over groups.
        """
        counts = {names: int(numbers[0]) for names, numbers in self.allowed.items()}
        for _ in range(SWEEPS if self.stepped else 0):
            before = dict(counts)
            for names, numbers in self.allowed.items():
                rest = self.variables(counts) - self.added(names, 0, counts[names])
                shares = self.shares(rest + self.up_to(names, numbers))
                largest, total = np.max(shares, axis=0), np.sum(shares, axis=0)
                at = int(np.searchsorted(numbers, counts[names]))
                best = int(np.lexsort((total, largest))[0])
                if (largest[best], total[best]) < (largest[at], total[at]):
                    counts[names] = int(numbers[best])
            if counts == before:
                break
        return counts

    def kept(self, counts: Counts) -> dict[str, tuple[int, ...]]:
        """The best elements of every group, as many as counted, ascending."""
        chosen = {name: self.order[name][:k] for names, k in counts.items() for name in names}
        return {name: tuple(sorted(int(i) for i in chosen[name])) for name in self.space.groups}


def smallest(
    space: SearchSpace, limits: Limits, names: Iterable[str], enough: Mapping[str, float] = MappingProxyType({})
) -> dict[str, Any]:
    """The smallest values of some resources that are reached within limits, each by itself.

    Those of the fewest elements; of a table, which may ask less for more, the least that is found (`Problem.cheapest`).

    Args:
      space, limits: of the structures.
      names: of the resources.
      enough: values of some of them that are low enough: no lower one is looked for.
    """
    found = space.resources(fewest(space, limits))
    for name in names:
        if space.costs[name].stepped and found[name] > enough.get(name, 0):
            found[name] = space.resources(cheapest(space, limits, name))[name]
    return {name: found[name] for name in names}


def fewest(space: SearchSpace, limits: Limits) -> dict[str, tuple[int, ...]]:
    """The first elements of every group, as few as there may be."""
    return {name: tuple(range(int(numbers[0]))) for name, numbers in limits.counts(space).items()}


def cheapest(space: SearchSpace, limits: Limits, name: str) -> dict[str, tuple[int, ...]]:
    """The first elements of every group, as many as have the least of one resource; the fewest but for tables."""
    first = {group: -np.arange(found.size, dtype=float) for group, found in space.groups.items()}
    problem = Problem(space, first, {name: space.costs[name].full}, limits.counts(space))
    return problem.kept(problem.cheapest())


def _shared(names: Together, allowed: Mapping[str, np.ndarray]) -> np.ndarray:
    """The numbers that all groups of a count may have; limits that contradict each other are the user's to mend."""
    common = allowed[names[0]]
    for name in names[1:]:
        common = np.intersect1d(common, allowed[name])
    if not len(common):
        raise UserError(f"the limits leave {names[0]!r} and {names[1]!r}, which share one count, no number in common")
    return common
