"""Element evaluation (METHOD, Eq. 4): what an element matters, and its moving average.

The importance is a pytree of its own, {group: [N]}, updated outside the gradient step. Here all groups lie end to end:
every array is `[elements]` float32. A new measure is a function of `Evidence`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np


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


def snip(e: Evidence) -> jax.Array:
    """|m g| (Lee et al. 2019)."""
    return jnp.abs(e.mask * e.gradient)


def fisher(e: Evidence) -> jax.Array:
    """g^2, the diagonal of the empirical Fisher information of the masks."""
    return jnp.square(e.gradient)


def magnitude(e: Evidence) -> jax.Array:
    """The L1 norm of the element's weights."""
    return e.magnitude


def index(e: Evidence) -> jax.Array:
    """Earlier elements matter more: a fixed order, nothing is learned."""
    return -e.position


MEASURES: dict[str, Measure] = {f.__name__: f for f in (taylor, snip, fisher, magnitude, index)}


class Evaluation(NamedTuple):
    """A measure, and the decay of its moving average."""

    measure: Measure
    decay: float = 0.99


EVALUATIONS: dict[str, Evaluation] = {
    **{name: Evaluation(measure) for name, measure in MEASURES.items()},
    "taylor_last": Evaluation(taylor, 0.0),
}
"""The names of `--importance`; "taylor_last" is Taylor without the moving average: that of the last step alone."""


@dataclass(frozen=True)
class Segments:
    """Groups laid end to end: which elements belong together.

    Attributes:
      sizes: N of every group.
    """

    sizes: tuple[int, ...]

    @property
    def of_element(self) -> np.ndarray:
        """`[elements]` int32, the number of each element's group."""
        # made here, not in the program: XLA would fold a sum over all elements while it compiles, for many seconds
        return np.repeat(np.arange(len(self.sizes), dtype=np.int32), self.sizes)

    def all_equal(self, x: jax.Array) -> jax.Array:
        """`[groups]` bool: whether all elements of a group have the same value (NaNs are not equal)."""
        low, high = self.extremes(x)
        return low == high

    def extremes(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The smallest and the largest value of every group, `[groups]` each."""
        of_element, n = self.of_element, len(self.sizes)
        low = jax.ops.segment_min(x, of_element, n, indices_are_sorted=True)
        return low, jax.ops.segment_max(x, of_element, n, indices_are_sorted=True)

    def all_finite(self, x: jax.Array) -> jax.Array:
        """`[groups]` bool: whether every element of a group is finite."""
        bad = (~jnp.isfinite(x)).astype(jnp.int32)
        return jax.ops.segment_sum(bad, self.of_element, len(self.sizes), indices_are_sorted=True) == 0


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
    several = jnp.array(segments.sizes) > 1
    equal = segments.all_equal(score) & (several | (not across))
    says_nothing = equal | ~segments.all_finite(score)
    learns = active & ~says_nothing
    new = decay * importance + (1.0 - decay) * score
    skipped = jnp.sum(active & says_nothing & several)
    return jnp.where(learns[segments.of_element], new, importance), skipped.astype(jnp.int32)
