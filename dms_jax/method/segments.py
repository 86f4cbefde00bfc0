"""Groups laid end to end: what is asked of the elements of each."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from dms_jax import topk


@dataclass(frozen=True)
class Segments:
    """Which elements belong together.

    Attributes:
      sizes: N of every group.
    """

    sizes: tuple[int, ...]

    @property
    def of_element(self) -> np.ndarray:
        """`[elements]` int32, the number of each element's group."""
        return topk.of_element(self.sizes)

    @property
    def several(self) -> np.ndarray:
        """`[groups]` bool: two elements or more, so that they can be compared."""
        return np.array(self.sizes) > 1

    def extremes(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The smallest and the largest value of every group, `[groups]` each."""
        of_element, n = self.of_element, len(self.sizes)
        low = jax.ops.segment_min(x, of_element, n, indices_are_sorted=True)
        return low, jax.ops.segment_max(x, of_element, n, indices_are_sorted=True)

    def all_equal(self, x: jax.Array) -> jax.Array:
        """`[groups]` bool: whether all elements of a group have the same value (NaNs are not equal)."""
        low, high = self.extremes(x)
        return low == high

    def all_finite(self, x: jax.Array) -> jax.Array:
        """`[groups]` bool: whether every element of a group is finite."""
        bad = (~jnp.isfinite(x)).astype(jnp.int32)
        return jax.ops.segment_sum(bad, self.of_element, len(self.sizes), indices_are_sorted=True) == 0
