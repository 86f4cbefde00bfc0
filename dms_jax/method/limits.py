"""What a structure must respect besides its budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Literal

import numpy as np

from dms_jax import checks
from dms_jax.budgets import Measured
from dms_jax.errors import UserError
from dms_jax.groups import Group
from dms_jax.space import SearchSpace

AUTO = "auto"


@dataclass(frozen=True)
class Limits:
    """What a structure must respect besides its budget. Keys are glob patterns on group names.

    Args:
      freeze: groups to leave alone: all of their elements stay. One pattern, or several.
      min_size: the smallest number of elements (a smaller group keeps all).
      divisible_by: the number of elements is a multiple of this (a smaller group keeps all). Device kernels are often
        fastest at multiples of 8 or more; "auto" is what was measured of this device, where a space has a resource
        that measures it. Depth counts blocks, not the size of a kernel: it takes no part.

    Raises:
      UserError: what is no pattern, or a number that is not whole or below 1.
    """

    freeze: Sequence[str] = ()
    min_size: Mapping[str, int] = field(default_factory=dict)
    divisible_by: Mapping[str, int | Literal["auto"]] = field(default_factory=dict)

    def __post_init__(self):
        object.__setattr__(self, "freeze", checks.patterns("freeze", self.freeze))
        for what in ("min_size", "divisible_by"):
            for pattern, number in checks.by_name(what, getattr(self, what), '{"stage1/*": 8}').items():
                if not (what == "divisible_by" and number == AUTO):
                    checks.whole(what, number, 1, f"for {pattern!r}")

    @property
    def identity(self) -> dict[str, Any]:
        """What of them makes a job the one it is, under the names that the first run directories have."""
        return {"keep": self.freeze, "least": dict(self.min_size), "multiple": dict(self.divisible_by)}

    def counts(self, space: SearchSpace) -> dict[str, np.ndarray]:
        """The numbers of elements every group may have, ascending.

        Raises:
          UserError: a pattern that matches no group, or "auto" in a space that measures nothing of this device.
        """
        for pattern in (*self.freeze, *self.min_size, *self.divisible_by):
            if not any(fnmatchcase(name, pattern) for name in space.groups):
                names = ", ".join(list(space.groups)[:6])
                raise UserError(
                    f"pattern {pattern!r} matches no group; the groups are {names}, ... (see space.summary())"
                )
        given = {pattern: _of_device(space) if n == AUTO else int(n) for pattern, n in self.divisible_by.items()}
        return {name: self._allowed(group, given) for name, group in space.groups.items()}

    def _allowed(self, group: Group, multiple: Mapping[str, int]) -> np.ndarray:
        if any(fnmatchcase(group.name, pattern) for pattern in self.freeze):
            return np.array([group.size])
        least = max((n for p, n in self.min_size.items() if fnmatchcase(group.name, p)), default=group.least)
        counted = group.rules.counts_towards_multiple
        multiples = [n for p, n in multiple.items() if counted and fnmatchcase(group.name, p)]
        step = int(np.lcm.reduce(multiples)) if multiples else 1
        if step > group.size:
            return np.array([group.size])
        allowed = np.arange(0, group.size + 1, step)
        allowed = allowed[allowed >= max(least, group.least)]
        return allowed if len(allowed) else np.array([group.size])


def _of_device(space: SearchSpace) -> int:
    """The largest number of elements up to whose next multiple this device takes equally long, as it was measured."""
    found = [cost.multiple for cost in space.costs.values() if isinstance(cost, Measured) and cost.multiple is not None]
    if not found:
        raise UserError(
            'divisible_by "auto" is what was measured of this device, and nothing was: give a number, or bound its '
            "milliseconds (docs/budgets.md)"
        )
    return max(found)
