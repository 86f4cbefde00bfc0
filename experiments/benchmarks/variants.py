"""DMS with one thing changed, for the ablations."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from dms_jax.method.dms import DMS
from dms_jax.method.layout import Layout
from dms_jax.method.strategy import Context


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
        opened = super().init(self._sharpened(layout))
        return opened if self.start_open else jnp.zeros_like(opened)

    def masks(self, layout: Layout, parameters: jax.Array, context: Context) -> jax.Array:
        return super().masks(self._sharpened(layout), parameters, context)

    def clip(self, layout: Layout, parameters: jax.Array) -> jax.Array:
        clipped = super().clip(self._sharpened(layout), parameters)
        return clipped if self.start_open else jnp.maximum(clipped, 0.0)

    def _sharpened(self, layout: Layout) -> Layout:
        return dataclasses.replace(layout, sharpness=layout.sharpness * np.float32(self.sharpness))
