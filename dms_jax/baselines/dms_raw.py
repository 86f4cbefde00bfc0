"""Differentiable Model Scaling (DMS) without normalization."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from dms_jax import topk
from dms_jax.method.dms import DMS
from dms_jax.method.layout import Layout
from dms_jax.method.strategy import Context, Decision, Strategy


@dataclass(frozen=True)
class RawDMS(DMS):
    """DMS without normalization: c' = (c - min c) / (max c - min c) of the group instead of its ranks.

    Starts at a_open, as DMS. The same source's ablation: importances are so unevenly spread that a small step of a
    ratio can take nearly all elements. The best element stays whatever the ratio; a larger least number is kept by the
    final projection alone.
    """

    title: ClassVar[str] = "DMS without normalisation"

    def masks(self, layout: Layout, parameters: jax.Array, context: Context) -> jax.Array:
        c = jax.lax.stop_gradient(context.importance)
        low, high = layout.segments.extremes(c)
        width = jnp.where(high > low, high - low, 1.0)
        scaled = (c - layout.to_elements(low)) / layout.to_elements(width)
        scaled = scaled + layout.to_elements(topk.lowest_fraction(layout.size))
        margin = scaled - layout.to_elements(layout.to_groups(parameters))
        soft = jax.nn.sigmoid(layout.to_elements(layout.sharpness) * margin)
        return jnp.where(layout.to_elements(layout.uninformative(context.importance)), 1.0, soft)

    def decide(self, layout: Layout, parameters: jax.Array, context: Context) -> Decision:
        """The counts of the masks: these ratios are no shares of elements."""
        return Strategy.decide(self, layout, parameters, context)
