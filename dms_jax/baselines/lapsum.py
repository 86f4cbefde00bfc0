"""A soft top-k from a sum of Laplace distributions: exactly k, smooth, with gradients to k and to the scores."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import jax
import jax.numpy as jnp

from dms_jax.baselines.capped_simplex import CappedSimplex

WIDTH = 0.25
"""Of the distributions: a mask goes from 0.02 to 0.98 over scores that are 1.6 apart."""
FAR = 87.0
"""Widths beyond all scores: exp(-87) is about the smallest float32."""

APART = 60.0
"""Widths between two neighbors beyond which more make no difference: both are far from the threshold, or one is."""


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def lapsum(scores: jax.Array, k: jax.Array, width: float = WIDTH) -> jax.Array:
    """The k largest scores, softly, each by the distribution function of a Laplace distribution.

        m_i = F((s_i - b) / width),     F(x) = exp(x) / 2 for x <= 0, else 1 - exp(-x) / 2,     b such that sum m = k

    Between two neighbors of the sorted scores the sum is a quadratic in exp(b / width), with sums of exponentials below
    and above that two passes give: b is exact, in O(N log N). Derivatives by the implicit function theorem, with the
    density f_i = exp(-|s_i - b| / width) / (2 width):

        dm_i/ds_j = f_i ([i = j] - f_j / sum f),     dm_i/dk = f_i / sum f

    Source: Struski, Bednarczyk, Podolak, Tabor, "LapSum - One Method to Differentiate Them All: Ranking, Sorting and
    Top-k Selection", ICML 2025, arXiv 2503.06242.

    Args:
      scores: s `[..., N]` float32; -inf is never selected.
      k: `[...]` float32 in [0, number of finite scores].
      width: of the distributions, in the unit of the scores; towards 0 the top-k is hard.

    Returns:
      `[..., N]` float32 in [0, 1].
    """
    return _forward(scores, k, width)[0]


def _forward(scores: jax.Array, k: jax.Array, width: float) -> tuple[jax.Array, jax.Array]:
    x = scores / width - jnp.expand_dims(_threshold(scores / width, k), -1)
    tail = 0.5 * jnp.exp(-jnp.abs(x))
    return jnp.where(x > 0, 1.0 - tail, tail), x


def _backward(width: float, x: jax.Array, cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
    # f / sum f, also where every f is too small for a float
    shares = jax.nn.softmax(-jnp.abs(x), axis=-1)
    mean = jnp.sum(shares * cotangent, axis=-1, keepdims=True)
    density = 0.5 * jnp.exp(-jnp.abs(x)) / width
    return density * (cotangent - mean), jnp.squeeze(mean, -1)


lapsum.defvjp(_forward, _backward)


def _threshold(scores: jax.Array, k: jax.Array) -> jax.Array:
    """b `[...]` at width 1, within FAR of the scores."""
    s, k = jnp.sort(scores, axis=-1), jnp.expand_dims(k, -1)
    size, finite = s.shape[-1], jnp.isfinite(s)
    one = finite.astype(s.dtype)
    decay = jnp.exp(jnp.where(finite[..., :-1], s[..., :-1] - s[..., 1:], -jnp.inf))
    none = jnp.zeros_like(s[..., :1])
    below = _sums(jnp.concatenate([none, decay], -1), one, reverse=False)  # sum over i <= j of exp(s_i - s_j)
    above = _sums(jnp.concatenate([decay, none], -1), one, reverse=True)  # sum over i >= j of exp(s_j - s_i)
    after = jnp.broadcast_to(jnp.arange(size - 1, -1, -1, dtype=s.dtype), s.shape)
    at_scores = jnp.where(finite, after + 0.5 * (below - above + 1.0), jnp.inf)  # sum m for b = s_j: falls
    upper = jnp.sum(at_scores > k, axis=-1, keepdims=True)  # b lies between the scores `upper` - 1 and `upper`

    def at(x: jax.Array, index: jax.Array) -> jax.Array:
        return jnp.take_along_axis(x, jnp.clip(index, 0, size - 1), axis=-1)

    low, high = at(s, upper - 1), at(s, upper)
    a, b = jnp.where(upper > 0, at(below, upper - 1), 0.0), jnp.where(upper < size, at(above, upper), 0.0)
    both = (a > 0) & (b > 0)
    more = (size - upper).astype(s.dtype) - k  # exp(low - high) b y^2 - 2 more y - a = 0 for y = exp(threshold - low)
    root = jnp.sqrt(
        jnp.square(more) + jnp.where(both, a * b * jnp.exp(-jnp.where(both, jnp.minimum(high - low, APART), 0.0)), 0.0)
    )
    from_high = (more > 0) | (a == 0)  # of two ways to write the root, the one that cancels nothing
    found = jnp.where(from_high, high + jnp.log((root + more) / b), low + jnp.log(a / (root - more)))
    least, most = jnp.min(jnp.where(finite, s, jnp.inf), -1, keepdims=True), s[..., -1:]
    return jnp.squeeze(jnp.clip(found, least - FAR, most + FAR), -1)


def _sums(decay: jax.Array, one: jax.Array, *, reverse: bool) -> jax.Array:
    """y_j = one_j + decay_j y_(j-1) along the last axis, from either end."""

    def then(first: tuple[jax.Array, jax.Array], second: tuple[jax.Array, jax.Array]):
        return first[0] * second[0], second[0] * first[1] + second[1]

    return jax.lax.associative_scan(then, (decay, one), reverse=reverse, axis=one.ndim - 1)[1]


@dataclass(frozen=True)
class LapSum(CappedSimplex):
    """m = `lapsum` of learned scores, sum m = k = N (1 - a); one ratio a a group.

    All else is as with `CappedSimplex`: importance is not used, tied groups share the ratio, every mask starts at
    0.982. No mask is exactly 0 or 1, so that every element has a gradient of its own.
    """

    title: ClassVar[str] = "LapSum"
    zeros: ClassVar[bool] = False

    def operator(self, scores: jax.Array, k: jax.Array) -> jax.Array:
        return lapsum(scores, k)
