"""Strategies with one pruning ratio a group: DMS, DMS without normalisation, and the gradient-estimated top-k."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np

from dms_jax import topk
from dms_jax.strategies.layout import Layout
from dms_jax.strategies.strategy import Context, Decision, Strategy


@dataclass(frozen=True)
class DMS(Strategy):
    """m = sigmoid(lambda (c' - a)), c' = rank / N (Eq. 2 and 3); one ratio a in [a_open, closed] a group.

    Starts at a_open, where the weakest mask is 0.982.

    Source: Liu, Wang, Gao, Chen, "Differentiable Model Scaling using Differentiable Topk", ICML 2024, arXiv 2405.07194.
    """

    title: ClassVar[str] = "DMS"
    schedule: ClassVar[Literal["cosine", "constant"]] = "cosine"
    ratios: ClassVar[bool] = True
    together: ClassVar[float] = 0.8

    def init(self, layout: Layout) -> jax.Array:
        return jnp.asarray(layout.per_ratio(layout.open))

    def owners(self, layout: Layout) -> np.ndarray:
        return layout.first

    def normalized(self, layout: Layout, importance: jax.Array) -> jax.Array:
        """c' `[elements]`."""
        return topk.normalize_segments(importance, layout.segments.sizes)

    def masks(self, layout: Layout, parameters: jax.Array, context: Context) -> jax.Array:
        margin = self.normalized(layout, context.importance) - parameters[layout.ratio_of_element]
        soft = jax.nn.sigmoid(layout.sharpness * margin)
        return jnp.where(layout.untold(context.importance)[layout.of_element], 1.0, soft)

    def clip(self, layout: Layout, parameters: jax.Array) -> jax.Array:
        return jnp.clip(parameters, layout.per_ratio(layout.open), layout.per_ratio(layout.closed))

    def decide(self, layout: Layout, parameters: jax.Array, context: Context) -> Decision:
        """The ratios as they are."""
        return Decision(np.asarray(parameters, np.float64), np.asarray(context.importance))


@dataclass(frozen=True)
class RawDMS(DMS):
    """DMS without normalisation: c' = (c - min c) / (max c - min c) of the group instead of its ranks.

    Starts at a_open, as DMS. The same source's ablation: importances are so unevenly spread that a small step of a
    ratio can take nearly all elements. The best element stays whatever the ratio; a larger least number is kept by the
    final projection alone.
    """

    title: ClassVar[str] = "DMS without normalisation"

    def normalized(self, layout: Layout, importance: jax.Array) -> jax.Array:
        low, high = layout.segments.extremes(jax.lax.stop_gradient(importance))
        width = jnp.where(high > low, high - low, 1.0)
        scaled = (jax.lax.stop_gradient(importance) - low[layout.of_element]) / width[layout.of_element]
        return jnp.where(layout.size[layout.of_element] == 1, topk.SINGLE_FRACTION, scaled)

    def decide(self, layout: Layout, parameters: jax.Array, context: Context) -> Decision:
        """The counts of the masks: these ratios are no shares of elements."""
        return Strategy.decide(self, layout, parameters, context)


@dataclass(frozen=True)
class GradientEstimated(Strategy):
    """A hard top-k of the importance; the ratio is given a gradient of one through every mask.

        m = [c' + 1/(2N) >= a]   (k = round((1 - a) N)),     dm_i/da := -1 for every element, straight through

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
        ratio = parameters[layout.ratio_of_element]
        ranks = topk.normalize_segments(context.importance, layout.segments.sizes)
        hard = (ranks + self._half(layout)[layout.of_element] >= ratio).astype(jnp.float32)
        estimated = jax.lax.stop_gradient(hard + ratio) - ratio
        # the forward value is exactly 0 or 1, whatever the rounding of hard + a - a
        estimated = estimated + jax.lax.stop_gradient(hard - estimated)
        return jnp.where(layout.untold(context.importance)[layout.of_element], 1.0, estimated)

    def clip(self, layout: Layout, parameters: jax.Array) -> jax.Array:
        closed = 1.0 - layout.per_ratio(layout.least / layout.size)
        return jnp.clip(parameters, 0.0, jnp.asarray(closed, jnp.float32))

    def decide(self, layout: Layout, parameters: jax.Array, context: Context) -> Decision:
        """The ratios, less half an element: `project` counts #{c' >= a}."""
        ratios = np.asarray(parameters, np.float64) - layout.per_ratio(self._half(layout))
        return Decision(ratios, np.asarray(context.importance))

    @staticmethod
    def _half(layout: Layout) -> Any:
        """1 / (2N), `[groups]`; 0 for one element, whose c' is 1/2 already."""
        return np.where(layout.size == 1, 0.0, 0.5 / layout.size).astype(np.float32)
