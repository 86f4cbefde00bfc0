"""When what happens in a search."""

from __future__ import annotations

from dataclasses import dataclass

from dms_jax import checks
from dms_jax.errors import UserError


@dataclass(frozen=True)
class Schedule:
    """When what happens.

    Attributes:
      steps: length of the search.
      warmup: first steps in which the ratios stay open while weights train and importance gathers.
      decay: share of what follows the warm-up after which the target stands at the budget.
      refine: last share of what follows the warm-up in which depth and heads are frozen at their hard masks.

    Raises:
      UserError: numbers outside their ranges.
    """

    steps: int
    warmup: int = 0
    decay: float = 0.8
    refine: float = 0.2

    def __post_init__(self):
        whole = all(hasattr(n, "__index__") and not isinstance(n, bool) for n in (self.steps, self.warmup))
        if not (whole and self.steps >= 1 and 0 <= self.warmup < self.steps):
            raise UserError(
                f"a search of {self.steps!r} steps with {self.warmup!r} of warm-up is not possible; give "
                "whole numbers: at least one step must follow"
            )
        checks.number("decay", self.decay, "(0, 1]")
        checks.number("refine", self.refine, "[0, 1)")

    @property
    def active(self) -> int:
        """Steps after the warm-up."""
        return self.steps - self.warmup
