"""Every element by itself: a deterministic gate that hardens while the search goes on."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dms_jax.method.layout import Layout
from dms_jax.method.strategy import Context, Decision, Strategy

LOW, HIGH = -0.1, 1.1
"""What the sigmoid is stretched to, before it is cut at 0 and 1."""
STEEPNESS = np.float32(np.log(-HIGH / LOW))
"""C: s is 0 at z = 0 and 1 at z = 2 mu."""
WIDTHS = (0.5, 0.05)
"""mu at the first step that counts, and at the last."""


@dataclass(frozen=True)
class SoftL0(Strategy):
    """A deterministic stand-in for the l0 norm, one z an element, annealed from a ramp to a step.

        m = s(z) = clip(sigmoid(C (z - mu) / mu) (high - low) + low, 0, 1),      C = log 11, low = -0.1, high = 1.1
        mu_t = 0.5 - 0.45 sqrt(t / T)

    so that s(0) = 0 and s(2 mu) = 1; the cut passes gradients straight through. z starts at 1, where m is exactly 1.
    The gate of a group that is frozen keeps its mu. Importance is not used; tied groups share z, position by position;
    the best gates, as many as must stay, are 1.

    In the source the weights stay as they are: there a unit is scaled by ReLU(z), without an upper end, s counts units
    alone, and the scales are multiplied into the weights in the end. Here weights are trained along, which is where
    scales belong, and what is exported has none: s is the mask, too, as in the source's own "deterministic hard
    concrete". Nor is there a loss that pushes s to 0 or 1: mu does. The multiplier is the one of all strategies.

    Source: Huang, Zhang, Zhang, Zhou, Zhu, Chen, "Deterministic Differentiable Structured Pruning for Large Language
    Models" (DDP), arXiv 2603.08065, Eq. 12-14.
    """

    title: ClassVar[str] = "deterministic soft l0 gates"
    uses_importance: ClassVar[bool] = False
    zeros: ClassVar[bool] = True

    def init(self, layout: Layout) -> dict[str, jax.Array]:
        """`[shared]` z, and `[groups]` mu."""
        ones = jnp.ones(len(layout.of_shared), jnp.float32)
        return {"score": ones, "width": jnp.full(len(layout.size), WIDTHS[0], jnp.float32)}

    def owners(self, layout: Layout) -> dict[str, np.ndarray]:
        return {"score": layout.of_shared, "width": np.arange(len(layout.size))}

    def masks(self, layout: Layout, parameters: dict[str, jax.Array], context: Context) -> jax.Array:
        z = parameters["score"][layout.to_shared(layout.position)]
        gate = soft_gate(z, layout.to_elements(jax.lax.stop_gradient(parameters["width"])))
        return jnp.where(layout.forced(layout.ranks(z)), 1.0, gate)

    def optimizer(self, layout: Layout, steps: int) -> optax.GradientTransformation:
        """Adam for z; mu follows its schedule whatever its gradient."""
        parts: dict[Hashable, optax.GradientTransformation]
        parts = {"score": super().optimizer(layout, steps), "width": _annealed(steps)}
        return optax.partition(parts, {"score": "score", "width": "width"})

    def decide(self, layout: Layout, parameters: dict[str, jax.Array], context: Context) -> Decision:
        """As many as the masks keep, and the largest z; what z is above the lowest of its group counts as its worth."""
        z = np.asarray(parameters["score"], np.float64)[layout.to_shared(layout.position)]
        lowest = np.minimum.reduceat(z, np.cumsum(layout.size) - layout.size)
        counts = layout.counts(self.kept(layout, self.masks(layout, parameters, context)))
        return Decision(layout.ratios(counts), z - layout.to_elements(lowest))


def soft_gate(z: jax.Array, width: jax.Array) -> jax.Array:
    """s(z) at the width mu, in [0, 1]: the gradient is that of the stretched sigmoid, beyond its ends, too."""
    stretched = jax.nn.sigmoid(STEEPNESS * (z - width) / width) * (HIGH - LOW) + LOW
    return stretched + jax.lax.stop_gradient(jnp.clip(stretched, 0.0, 1.0) - stretched)


def _annealed(steps: int) -> optax.GradientTransformation:
    """What sets mu to its next value."""

    def init(params: Any) -> optax.ScaleByScheduleState:
        return optax.ScaleByScheduleState(count=jnp.zeros((), jnp.int32))

    def update(updates, state, params=None):
        done = state.count + 1
        width = WIDTHS[0] - (WIDTHS[0] - WIDTHS[1]) * jnp.sqrt(jnp.minimum(done / steps, 1.0))
        return jax.tree.map(lambda old: (width - old).astype(old.dtype), params), state._replace(count=done)

    return optax.GradientTransformation(init, update)
