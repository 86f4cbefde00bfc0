"""When what happens in a search."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dms_jax import checks
from dms_jax.errors import UserError

MOST_STEPS = 2**31 - 1
"""They are counted in int32."""


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
        steps, warmup = checks.whole("steps", self.steps, 1), checks.whole("warmup", self.warmup, 0)
        if warmup >= steps or steps > MOST_STEPS:
            raise UserError(
                f"a search of {steps:,} steps with {warmup:,} of warm-up is not possible; at least one step must "
                f"follow, and at most {MOST_STEPS:,} can be counted"
            )
        checks.number("decay", self.decay, "(0, 1]")
        checks.number("refine", self.refine, "[0, 1)")

    @property
    def active(self) -> int:
        """Steps after the warm-up."""
        return self.steps - self.warmup

    @property
    def decay_steps(self) -> float:
        """S_decay: steps after the warm-up until the target stands at the budget."""
        return self.decay * self.active

    @property
    def refined_from(self) -> int:
        """The step from which depth and heads stand still."""
        return math.ceil(self.steps - self.refine * self.active)
