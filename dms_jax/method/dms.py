"""Differentiable Model Scaling (DMS) itself: one pruning ratio a group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np

from dms_jax import topk
from dms_jax.method.layout import Layout
from dms_jax.method.strategy import Context, Decision, Strategy


@dataclass(frozen=True)
class DMS(Strategy):
    """m = sigmoid(lambda (c' - a)), c' = rank / N (Eq. 2 and 3); one ratio a in [a_open, closed] a group.

    Starts at a_open, where the weakest mask is 0.982.

    Source: Liu, Wang, Gao, Chen, "Differentiable Model Scaling using Differentiable Topk", ICML 2024, arXiv 2405.07194.
    """

    schedule: Literal["cosine", "constant"] = "cosine"
    together: float = 0.8
    title: ClassVar[str] = "DMS"
    ratios: ClassVar[bool] = True

    def init(self, layout: Layout) -> jax.Array:
        return jnp.asarray(layout.to_ratios(layout.open))

    def owners(self, layout: Layout) -> np.ndarray:
        return layout.first

    def masks(self, layout: Layout, parameters: jax.Array, context: Context) -> jax.Array:
        c, a, sizes = context.importance, layout.to_groups(parameters), layout.segments.sizes
        soft = topk.soft_mask(c, a, sharpness=layout.sharpness, segments=sizes)
        return jnp.where(layout.to_elements(layout.uninformative(c)), 1.0, soft)

    def clip(self, layout: Layout, parameters: jax.Array) -> jax.Array:
        return jnp.clip(parameters, layout.to_ratios(layout.open), layout.to_ratios(layout.closed))

    def decide(self, layout: Layout, parameters: jax.Array, context: Context) -> Decision:
        """The ratios as they are."""
        return Decision(np.asarray(parameters, np.float64), np.asarray(context.importance))
