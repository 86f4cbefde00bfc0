"""Element evaluation (METHOD, Eq. 4): what an element matters, and its moving average.

The importance is a pytree of its own, {group: [N]}, updated outside the gradient step. Here all groups lie end to end:
every array is `[elements]` float32. Other measures are in `dms_jax.baselines`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import jax
import jax.numpy as jnp

from dms_jax import checks
from dms_jax.errors import UserError
from dms_jax.method.segments import Segments


@dataclass(frozen=True)
class Evidence:
    """What one step shows of every element, all `[elements]` float32.

    Attributes:
      mask: m, in (0, 1).
      gradient: g = d L_task / d m of the global-batch mean task loss, summed over every place the mask is used.
      magnitude: the sum of |w| over the weights that go when the element goes.
      position: the element's index in its group.
    """

    mask: jax.Array
    gradient: jax.Array
    magnitude: jax.Array
    position: jax.Array


Measure: TypeAlias = Callable[[Evidence], jax.Array]


def taylor(e: Evidence) -> jax.Array:
    """(m g)^2: the squared first-order change of the loss when the element goes (the paper's choice)."""
    return jnp.square(e.mask * e.gradient)


@dataclass(frozen=True, repr=False)
class Importance:
    """How elements are evaluated: c <- decay c + (1 - decay) measure.

    Attributes:
      measure: from the evidence of a step to a score `[elements]`.
      decay: of the moving average, in [0, 1); 0.99 is the paper's, 0 takes the last step alone.

    Raises:
      UserError: a measure that is no function, or a decay outside its range.
    """

    measure: Measure = taylor
    decay: float = 0.99

    def __post_init__(self):
        if not callable(self.measure):
            raise UserError(f"importance by {self.measure!r} is not possible; give a function of `Evidence`")
        checks.number("decay", self.decay, "[0, 1)", "of the importance")

    def __repr__(self) -> str:
        name = getattr(self.measure, "__name__", type(self.measure).__name__)
        return f"Importance({name}, decay={self.decay})"


taylor_last = Importance(taylor, 0.0)
"""Taylor without the moving average: that of the last step alone."""


def update(
    importance: jax.Array,
    score: jax.Array,
    segments: Segments,
    active: jax.Array,
    *,
    decay: float = 0.99,
    across: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """c <- decay c + (1 - decay) score, where a group's score says something.

    Args:
      importance: c `[elements]`, 0 at the start.
      score: this step's measure `[elements]`.
      segments: the groups.
      active: `[groups]` bool; others keep their importance and are not counted.
      decay: 0 takes the last step alone, 0.99 is the paper's.
      across: importances are compared across groups. Then one element alone has one, too; within its group it says
        nothing, and is left at 0.

    Returns:
      The new importance, and how many active groups of two or more elements kept theirs because their score was not
      finite or all equal (int32).
    """
    several = jnp.array(segments.several)
    equal = segments.all_equal(score) & (several | (not across))
    says_nothing = equal | ~segments.all_finite(score)
    learns = active & ~says_nothing
    new = decay * importance + (1.0 - decay) * score
    skipped = jnp.sum(active & says_nothing & several)
    return jnp.where(learns[segments.of_element], new, importance), skipped.astype(jnp.int32)
