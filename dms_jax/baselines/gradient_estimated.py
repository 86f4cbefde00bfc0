"""The gradient-estimated top-k."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from dms_jax.method.layout import Layout
from dms_jax.method.strategy import Context, Decision, Strategy


@dataclass(frozen=True)
class GradientEstimated(Strategy):
    """A hard top-k of the importance; the ratio is given a gradient of one through every mask.

        m = [rank + 1/2 >= a N]   (k = round((1 - a) N)),     dm_i/da := -1 for every element, straight through

    One ratio a in [0, 1 - n/N] a group. Starts at 0: exactly the supernet. "Gradient-estimated top-k" of the DMS
    paper's comparison (arXiv 2405.07194); the estimator is that of Bengio, Leonard, Courville, arXiv 1308.3432.
    """

    title: ClassVar[str] = "gradient-estimated top-k"
    ratios: ClassVar[bool] = True
    zeros: ClassVar[bool] = True

    def init(self, layout: Layout) -> jax.Array:
        return jnp.zeros(len(layout.first), jnp.float32)

    def owners(self, layout: Layout) -> np.ndarray:
        return layout.first

    def masks(self, layout: Layout, parameters: jax.Array, context: Context) -> jax.Array:
        ratio = layout.to_elements(layout.to_groups(parameters))
        size = layout.to_elements(layout.size).astype(np.float32)
        hard = (layout.ranks(context.importance).astype(jnp.float32) + 0.5 >= ratio * size).astype(jnp.float32)
        estimated = jax.lax.stop_gradient(hard + ratio) - ratio
        # the forward value is exactly 0 or 1, whatever the rounding of hard + a - a
        estimated = estimated + jax.lax.stop_gradient(hard - estimated)
        return jnp.where(layout.to_elements(layout.uninformative(context.importance)), 1.0, estimated)

    def clip(self, layout: Layout, parameters: jax.Array) -> jax.Array:
        closed = 1.0 - layout.to_ratios(layout.least / layout.size)
        return jnp.clip(parameters, 0.0, jnp.asarray(closed, jnp.float32))

    def decide(self, layout: Layout, parameters: jax.Array, context: Context) -> Decision:
        """The ratios, less half an element: `project` counts #{c' >= a}."""
        counts = (1.0 - np.asarray(parameters, np.float64)) * layout.to_ratios(layout.size)
        return Decision(layout.ratios(counts), np.asarray(context.importance))
