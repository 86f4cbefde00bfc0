"""The projection onto the capped simplex: exactly k, with gradients to k and to the scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from dms_jax.method.layout import Layout
from dms_jax.method.strategy import Context, Decision, Strategy

START = 0.018
"""The ratio a search starts at: all masks are 0.982, as the weakest one of DMS is."""
ITERATIONS = 40


@jax.custom_vjp
def capped_simplex(scores: jax.Array, k: jax.Array) -> jax.Array:
    """Project scores onto {m in [0, 1]^N : sum m = k}.

        m_i = clip(s_i - tau, 0, 1),   tau such that sum m = k       (the nearest point in the Euclidean norm)

    Derivatives by the implicit function theorem, with I = {i : 0 < m_i < 1}:

        dm_i/ds_j = [i in I] ([i = j] - [j in I] / |I|),     dm_i/dk = [i in I] / |I|

    and 0 where I is empty.

    Source: Wang, Lu, "Projection onto the capped simplex", arXiv 1503.01002; used as a differentiable top-k by Amos,
    Koltun, Kolter, "The Limited Multi-Label Projection Layer", arXiv 1906.08707 (there with entropy).

    Args:
      scores: s `[..., N]` float32; -inf is never selected.
      k: `[...]` float32 in [0, number of finite scores].

    Returns:
      `[..., N]` float32 in [0, 1].
    """
    return _project(scores, k)


def _project(scores: jax.Array, k: jax.Array) -> jax.Array:
    k = jnp.expand_dims(k, -1)
    finite = jnp.isfinite(scores)
    low = jnp.min(jnp.where(finite, scores, jnp.inf), axis=-1, keepdims=True) - 1.0  # all are 1
    high = jnp.max(scores, axis=-1, keepdims=True)  # all are 0

    def halve(_: Any, ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = ends
        middle = (low + high) / 2
        above = jnp.sum(jnp.clip(scores - middle, 0.0, 1.0), axis=-1, keepdims=True) >= k
        return jnp.where(above, middle, low), jnp.where(above, high, middle)

    low, high = jax.lax.fori_loop(0, ITERATIONS, halve, (low, high))
    tau = (low + high) / 2
    # bisection finds who is inside; tau itself then follows exactly
    inside, ones = _inside(scores - tau), jnp.sum(scores - tau >= 1.0, axis=-1, keepdims=True, dtype=scores.dtype)
    number = jnp.sum(inside, axis=-1, keepdims=True, dtype=scores.dtype)
    total = jnp.sum(jnp.where(inside, scores, 0.0), axis=-1, keepdims=True)
    exact = jnp.where(number > 0, (total + ones - k) / jnp.maximum(number, 1), tau)
    return jnp.clip(scores - jnp.clip(exact, low, high), 0.0, 1.0)


def _inside(x: jax.Array) -> jax.Array:
    return (x > 0.0) & (x < 1.0)


def _forward(scores: jax.Array, k: jax.Array) -> tuple[jax.Array, jax.Array]:
    masks = _project(scores, k)
    return masks, _inside(masks)


def _backward(inside: jax.Array, cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
    g = jnp.where(inside, cotangent, 0.0)
    mean = jnp.sum(g, axis=-1) / jnp.maximum(jnp.sum(inside, axis=-1, dtype=g.dtype), 1)
    return jnp.where(inside, g - jnp.expand_dims(mean, -1), 0.0), mean


capped_simplex.defvjp(_forward, _backward)


@dataclass(frozen=True)
class CappedSimplex(Strategy):
    """m = projection of learned scores onto {m in [0, 1]^N, sum m = k}, k = N (1 - a); one ratio a a group.

    Importance is not used: the scores, one an element, learn by the gradient. Tied groups share the ratio and hence k;
    each has scores of its own. Starts with equal scores and a = 0.018: every mask is 0.982. An element at exactly 0 or
    1 has no gradient of its own; it moves when k or the scores of others do.
    """

    title: ClassVar[str] = "projection onto the capped simplex"
    uses_importance: ClassVar[bool] = False
    zeros: ClassVar[bool] = True

    def init(self, layout: Layout) -> dict[str, jax.Array]:
        ratio = jnp.full(len(layout.first), START, jnp.float32)
        return self.clip(layout, {"ratio": ratio, "score": jnp.zeros(len(layout.of_element), jnp.float32)})

    def owners(self, layout: Layout) -> dict[str, np.ndarray]:
        return {"ratio": layout.first, "score": layout.of_element}

    def masks(self, layout: Layout, parameters: dict[str, jax.Array], context: Context) -> jax.Array:
        k = layout.size.astype(np.float32) * (1.0 - layout.to_groups(parameters["ratio"]))
        return self.operator(_rows(layout, parameters["score"]), k)[layout.of_element, layout.position]

    def operator(self, scores: jax.Array, k: jax.Array) -> jax.Array:
        """Masks `[groups, most]` with sums k `[groups]`, of scores of the same shape, -inf where a group has ended."""
        return capped_simplex(scores, k)

    def kept(self, layout: Layout, masks: jax.Array) -> jax.Array:
        """The k largest masks, k = sum m rounded: with equal scores all masks are k / N, and m >= 1/2 says nothing."""
        total = jax.ops.segment_sum(masks, layout.of_element, len(layout.size), indices_are_sorted=True)
        dropped = layout.size - jnp.round(total).astype(jnp.int32)
        return (layout.ranks(masks) >= layout.to_elements(dropped)).astype(masks.dtype)

    def clip(self, layout: Layout, parameters: dict[str, jax.Array]) -> dict[str, jax.Array]:
        closed = np.asarray(layout.to_ratios(1.0 - layout.least / layout.size), np.float32)
        return {**parameters, "ratio": jnp.clip(parameters["ratio"], 0.0, closed)}

    def decide(self, layout: Layout, parameters: dict[str, jax.Array], context: Context) -> Decision:
        """k rounded, and the highest scores; what a score is above the lowest of its group counts as its worth."""
        score = np.asarray(parameters["score"], np.float64)
        lowest = np.minimum.reduceat(score, np.cumsum(layout.size) - layout.size)
        counts = layout.to_ratios(layout.size) * (1.0 - np.asarray(parameters["ratio"], np.float64))
        return Decision(layout.ratios(counts), score - layout.to_elements(lowest))


def _rows(layout: Layout, x: jax.Array) -> jax.Array:
    """`[elements]` -> `[groups, most]`: a row a group, filled up with -inf."""
    starts, column = np.cumsum(layout.size) - layout.size, np.arange(layout.size.max())
    at = np.where(column < layout.size[:, None], starts[:, None] + column, len(layout.of_element))
    return jnp.concatenate([x, jnp.full((1,), -jnp.inf, x.dtype)])[at]
