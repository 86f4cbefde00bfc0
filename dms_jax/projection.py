"""From pruning ratios to a structure within its budget: never above it, as near below it as one element allows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal, TypeAlias

import numpy as np

from dms_jax.errors import UserError
from dms_jax.groups import Group
from dms_jax.space import SearchSpace


@dataclass(frozen=True)
class Limits:
    """What a structure must respect besides its budget. Keys are glob patterns on group names.

    Args:
      keep: groups to leave alone: all of their elements stay.
      least: the smallest number of elements (a smaller group keeps all).
      multiple: the number of elements is a multiple of this (a smaller group keeps all). Device kernels are often
        fastest at multiples of 8 or more. Depth counts blocks, not the size of a kernel: it takes no part.
    """

    keep: tuple[str, ...] = ()
    least: Mapping[str, int] = field(default_factory=dict)
    multiple: Mapping[str, int] = field(default_factory=dict)

    def counts(self, space: SearchSpace) -> dict[str, np.ndarray]:
        """The numbers of elements every group may have, ascending.

        Raises:
          UserError: a pattern that matches no group, or a number below 1.
        """
        for pattern in (*self.keep, *self.least, *self.multiple):
            if not any(fnmatchcase(name, pattern) for name in space.groups):
                names = ", ".join(list(space.groups)[:6])
                raise UserError(
                    f"pattern {pattern!r} matches no group; the groups are {names}, ... (see space.summary())"
                )
        for what in ("least", "multiple"):
            for pattern, number in getattr(self, what).items():
                if number < 1:
                    raise UserError(
                        f"{what} {number} for {pattern!r} is not possible; give a whole number of at least 1"
                    )
        return {name: self._allowed(group) for name, group in space.groups.items()}

    def _allowed(self, group: Group) -> np.ndarray:
        if any(fnmatchcase(group.name, pattern) for pattern in self.keep):
            return np.array([group.size])
        least = max((n for p, n in self.least.items() if fnmatchcase(group.name, p)), default=group.least)
        multiples = [n for p, n in self.multiple.items() if fnmatchcase(group.name, p) and group.kind != "depth"]
        step = int(np.lcm.reduce(multiples)) if multiples else 1
        if step > group.size:
            return np.array([group.size])
        allowed = np.arange(0, group.size + 1, step)
        allowed = allowed[allowed >= max(least, group.least)]
        return allowed if len(allowed) else np.array([group.size])


def smallest(space: SearchSpace, limits: Limits) -> dict[str, int]:
    """The smallest resources reachable within limits."""
    return space.resources({name: tuple(range(int(allowed[0]))) for name, allowed in limits.counts(space).items()})


def largest(space: SearchSpace, limits: Limits) -> dict[str, int]:
    """The largest resources reachable within limits (multiples may rule the full network out)."""
    return space.resources({name: tuple(range(int(allowed[-1]))) for name, allowed in limits.counts(space).items()})


def project(
    space: SearchSpace,
    ratios: Mapping[str, float],
    ranking: Mapping[str, np.ndarray],
    budget: Mapping[str, int],
    limits: Limits | None = None,
    *,
    hold: bool = True,
) -> dict[str, tuple[int, ...]]:
    """The kept elements nearest to searched ratios that fit a budget.

    All ratios move by one common shift until the budget holds (bisection). Then elements come back while any fits, the
    one with the most importance per cost first. Where that stays more than 1 % under the budget, because a large piece
    (a block, say) went last and no longer fits, the piece is held and the others move on.

    Args:
      space: the search space.
      ratios: pruning ratio of every group.
      ranking: importance `[N]` of every group; the largest stay, ties by index as in the operator.
      budget: {"macs": int, "params": int}, either or both.
      limits: smallest numbers, multiples, groups left alone.
      hold: whether a large piece may be held. False where the ratios come from importances compared across groups: what
        fell was worth less than what would have to make room.

    Returns:
      Kept indices of every group, ascending. No resource exceeds its budget.

    Raises:
      UserError: the smallest structure within the limits is above the budget, or a ratio is not a number.
    """
    problem = _posed(space, ranking, budget, limits)
    lost = [name for name in space.groups if not np.isfinite(ratios[name])]
    if lost:
        raise UserError(f"the pruning ratio of group {lost[0]!r} is {ratios[lost[0]]}: the search diverged")
    return problem.kept(problem.nearest(ratios, ATTEMPTS if hold else 1))


Blocks: TypeAlias = float | Literal["most", "same"]
Together: TypeAlias = tuple[str, ...]  # groups that have one count

NEAR = 0.99  # of the budget
ATTEMPTS = 8


def _posed(
    space: SearchSpace,
    ranking: Mapping[str, np.ndarray],
    budget: Mapping[str, int],
    limits: Limits | None,
) -> _Problem:
    """The problem of a budget that can be met.

    Raises:
      UserError: it cannot.
    """
    limits = limits or Limits()
    least = smallest(space, limits)
    for name, most in budget.items():
        if least[name] > most:
            raise UserError(
                f"no structure has at most {most:,} {name}; the smallest within the limits has {least[name]:,}"
            )
    return _Problem(space, dict(ranking), dict(budget), limits.counts(space))


class _Problem:
    """Counts of kept elements, one for groups counted together; resources of many candidates at once."""

    def __init__(
        self,
        space: SearchSpace,
        importance: dict[str, np.ndarray],
        budget: dict[str, int],
        allowed: dict[str, np.ndarray],
    ):
        self.space, self.budget = space, budget
        self.allowed = {names: _shared(names, allowed) for names in space.counted}
        # best first; a stable ascending sort read backwards, so ties fall as the operator's ranks do (NaN lowest)
        clean = {name: np.where(np.isnan(c), -np.inf, c) for name, c in importance.items()}
        self.order = {name: np.argsort(c, kind="stable")[::-1] for name, c in clean.items()}
        self.importance = {
            name: np.nan_to_num(np.asarray(c, np.float64), nan=0.0, posinf=1e100, neginf=-1e100)
            for name, c in importance.items()
        }
        self.size = len(next(iter(space.costs.values())).sizes)
        self.none = np.zeros(self.size, np.int64)
        self.none[0] = 1

    def elements(self, names: Together, start: int, stop: int) -> np.ndarray:
        """What the elements ranked [start, stop) of some groups add to the variables of the costs."""
        variables = [self.space.element_variables(name)[self.order[name][start:stop]] for name in names]
        added = np.bincount(np.concatenate(variables), minlength=self.size)
        added[0] = 0
        return added

    def variables(self, counts: Mapping[Together, int]) -> np.ndarray:
        return self.none + np.sum([self.elements(names, 0, k) for names, k in counts.items()], axis=0)

    def fits(self, variables: np.ndarray) -> np.ndarray:
        """`[...]` bool for variables `[..., V]`."""
        checks = [self.space.costs[name].exact(variables) <= most for name, most in self.budget.items()]
        return np.logical_and.reduce(checks)

    def kept(self, counts: Mapping[Together, int]) -> dict[str, tuple[int, ...]]:
        """The best elements of every group, as many as counted, ascending."""
        chosen = {name: self.order[name][:k] for names, k in counts.items() for name in names}
        return {name: tuple(sorted(int(i) for i in chosen[name])) for name in self.space.groups}

    def depths(self, share: float | None = None) -> dict[float, dict[Together, int]]:
        """Share of blocks -> numbers of blocks, from all of them to the fewest there may be, or one share alone."""
        deep = {names: allowed for names, allowed in self.allowed.items() if self._group(names).kind == "depth"}
        shares = {k / self._group(names).size for names, allowed in deep.items() for k in allowed.tolist()} or {1.0}
        shares = shares if share is None else {share}
        return {
            share: {
                names: int(allowed[np.argmin(np.abs(allowed - share * self._group(names).size))])
                for names, allowed in deep.items()
            }
            for share in sorted(shares, reverse=True)
        }

    def share_of_widths(self, counts: Mapping[Together, int]) -> float:
        """The mean share of elements kept, over all but depth groups."""
        kept = [k / self._group(names).size for names, k in counts.items() if self._group(names).kind != "depth"]
        return float(np.mean(kept)) if kept else 1.0

    def _group(self, names: Together) -> Group:
        return self.space.groups[names[0]]

    def nearest(
        self, ratios: Mapping[str, float], attempts: int, held: Mapping[Together, int] | None = None
    ) -> dict[Together, int]:
        """Counts that fit, within 1 % of the budget where holding what fell last gets there in so many attempts.

        Counts that are held from the start never fall.
        """
        held = dict(held or {})
        best: dict[Together, int] = {}
        for _ in range(attempts):
            found = self.shifted(ratios, held)
            if found is None:
                break
            fitting, above = found
            counts = self.fill(fitting)
            if not best or self.used(counts) > self.used(best):
                best = counts
            if self.used(best) >= NEAR:
                break
            held |= {names: k for names, k in above.items() if k > fitting[names]}
        return best

    def used(self, counts: Mapping[Together, int]) -> float:
        """The resource nearest its budget, as a share of it."""
        variables = self.variables(counts)
        return max(float(self.space.costs[name].exact(variables)) / most for name, most in self.budget.items())

    def rounded(self, ratios: Mapping[str, float], shift: float, held: Mapping[Together, int]) -> dict[Together, int]:
        """Counts of shifted ratios: k = #{rank / N >= a}, then the nearest allowed number; held ones stay."""
        counts = {}
        for names, allowed in self.allowed.items():
            n, a = self.space.groups[names[0]].size, float(ratios[names[0]]) + shift
            k = (0.5 >= a) * 1.0 if n == 1 else np.clip(n - np.ceil(a * n - 1e-6), 0, n)
            counts[names] = int(allowed[np.argmin(np.abs(allowed - k))])
        return counts | dict(held)

    def shifted(
        self, ratios: Mapping[str, float], held: Mapping[Together, int]
    ) -> tuple[dict[Together, int], dict[Together, int]] | None:
        """Move all ratios by the smallest shift at which the budget holds: the counts there, and just before it.

        None where no shift fits with these counts held.
        """
        low, high = -max(ratios.values()), 1.0 - min(ratios.values())  # at the ends all stay, or the least
        all_, least = (self.rounded(ratios, shift, held) for shift in (low, high))
        if self.fits(self.variables(all_)):
            return all_, all_
        if not self.fits(self.variables(least)):
            return None
        for _ in range(40):
            middle = (low + high) / 2
            if self.fits(self.variables(self.rounded(ratios, middle, held))):
                high = middle
            else:
                low = middle
        return self.rounded(ratios, high, held), self.rounded(ratios, low, held)

    def fill(self, counts: Mapping[Together, int]) -> dict[Together, int]:
        """Take elements back while any fits, by importance per cost.

        What costs nothing lies in removed blocks and comes last: taken first it would only make the blocks dearer.
        """
        all_names, counts = list(counts), dict(counts)
        now = self.variables(counts)
        steps = [self._step(names, counts[names]) for names in all_names]
        while True:
            after = now + np.stack([added for added, _ in steps])
            cost = self.price(after) - self.price(now)
            fitting = np.flatnonzero(self.fits(after) & (cost > 0))
            if not len(fitting):
                return self._free(counts, now)
            gains = np.array([steps[i][1] for i in fitting])
            best = int(fitting[np.argmax(gains / cost[fitting])])
            names, now = all_names[best], after[best]
            counts[names] = self._next(names, counts[names])
            steps[best] = self._step(names, counts[names])

    def price(self, variables: np.ndarray) -> np.ndarray:
        """`[...]` float: the sum of the resources, each as a share of its budget, for variables `[..., V]`."""
        prices = [self.space.costs[name].exact(variables) / most for name, most in self.budget.items()]
        return np.sum(prices, axis=0).astype(np.float64)

    def _free(self, counts: dict[Together, int], now: np.ndarray) -> dict[Together, int]:
        """All elements that cost nothing."""
        most = {names: int(allowed[-1]) for names, allowed in self.allowed.items()}
        free = [
            names
            for names, k in counts.items()
            if self.price(now + self.elements(names, k, most[names])) == self.price(now)
        ]
        return counts | {names: max(most[names], counts[names]) for names in free}

    def _next(self, names: Together, k: int) -> int:
        more = self.allowed[names][self.allowed[names] > k]
        return int(more[0]) if len(more) else k

    def _step(self, names: Together, k: int) -> tuple[np.ndarray, float]:
        """The next elements of a count: what they add to the variables, and their importance."""
        then = self._next(names, k)
        gain = sum(float(np.sum(self.importance[name][self.order[name][k:then]])) for name in names)
        return self.elements(names, k, then), gain


def _shared(names: Together, allowed: Mapping[str, np.ndarray]) -> np.ndarray:
    """The numbers that all groups of a count may have; limits that contradict each other are the user's to mend."""
    common = allowed[names[0]]
    for name in names[1:]:
        common = np.intersect1d(common, allowed[name])
    if not len(common):
        raise UserError(f"the limits leave {names[0]!r} and {names[1]!r}, which share one count, no number in common")
    return common


def uniform(
    space: SearchSpace,
    ranking: Mapping[str, np.ndarray],
    budget: Mapping[str, int],
    limits: Limits | None = None,
    *,
    blocks: Blocks = "most",
) -> dict[str, tuple[int, ...]]:
    """The control: the same keep ratio in every width and head group under the same budget.

    How many blocks stay is settled first, the same share of every stage; the widths have one ratio after that.

    Args:
      space, budget, limits: as in `project`.
      ranking: which elements stay, `[N]` of every group; magnitudes, say.
      blocks: "most", all blocks, or as many as fit; "same", the keep ratio of the widths, as nearly as whole blocks
        allow; or the share that stays, in (0, 1].

    Returns:
      Kept indices of every group, ascending.

    Raises:
      UserError: the smallest structure within the limits, or with that share of blocks, is above the budget; `blocks`
        is none of these.
    """
    if blocks not in ("most", "same") and not (isinstance(blocks, float | int) and 0 < blocks <= 1):
        raise UserError(f'blocks={blocks!r}: give "most", "same", or a share above 0 and at most 1')
    problem, even = _posed(space, ranking, budget, limits), dict.fromkeys(space.groups, 0.5)
    fitting = (
        (abs(problem.share_of_widths(found[0]) - share), held)
        for share, held in problem.depths(None if isinstance(blocks, str) else blocks).items()
        if (found := problem.shifted(even, held)) is not None
    )
    nearest = min(fitting, key=lambda one: one[0], default=None) if blocks == "same" else next(fitting, None)
    if nearest is None:  # of one share alone: the fewest blocks always fit
        raise UserError(f"no structure with a share of {blocks} of its blocks is within the budget; give a smaller one")
    return problem.kept(problem.nearest(even, ATTEMPTS, nearest[1]))
