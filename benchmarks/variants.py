"""DMS with one thing changed, for the ablations."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from dms_jax.strategies import DMS, Context, Layout


@dataclass(frozen=True)
class VariedDMS(DMS):
    """DMS with another slope of its masks, or with ratios that start at 0.

    Attributes:
      sharpness: lambda, times the usual one.
      start_open: ratios start at a_open; False: at 0, where the weakest mask is one half already.
    """

    sharpness: float = 1.0
    start_open: bool = True

    def init(self, layout: Layout) -> jax.Array:
        return super().init(self._sharpened(layout))

    def masks(self, layout: Layout, parameters: jax.Array, context: Context) -> jax.Array:
        return super().masks(self._sharpened(layout), parameters, context)

    def clip(self, layout: Layout, parameters: jax.Array) -> jax.Array:
        return super().clip(self._sharpened(layout), parameters)

    def _sharpened(self, layout: Layout) -> Layout:
        lowest = jnp.where(layout.size == 1, 0.5, 0.0)
        a_open = lowest + (layout.open - lowest) / self.sharpness if self.start_open else jnp.zeros_like(lowest)
        return dataclasses.replace(layout, sharpness=layout.sharpness * self.sharpness, open=a_open)
