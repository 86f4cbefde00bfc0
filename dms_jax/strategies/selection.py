"""Strategies that select by sampling: every element by itself, or the number of elements. Gumbel-softmax, tau = 0.1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from dms_jax import topk
from dms_jax.strategies.layout import Layout
from dms_jax.strategies.strategy import Context, Decision, Strategy

TEMPERATURE = 0.1
OPEN = 4.0
"""Start: sigmoid(4) = 0.982, the probability that an element stays or that all do; DMS starts at a mask of 0.982."""


@dataclass(frozen=True)
class MultipleElement(Strategy):
    """Every element is kept or dropped by itself: two logits an element, a hard Gumbel-softmax, straight through.

        m_i = [l_keep + g_keep >= l_drop + g_drop],     dm_i/dl := d softmax((l + g) / tau)_keep / dl

    Importance is not used. Tied groups share their logits, position by position, hence their count. Where fewer than
    must stay would be drawn, the best drawn stay. Without noise (warm-up, pictures) it starts as exactly the supernet;
    with noise 1.8 % of the elements are missing in every step from the first one on, and nothing can be done about it
    but a larger start, from which nothing would be learned.

    Source: "multiple-element selection" of arXiv 2405.07194; Jang, Gu, Poole, "Categorical Reparameterization with
    Gumbel-Softmax", ICLR 2017, arXiv 1611.01144.
    """

    rate: float = 40.0
    title: ClassVar[str] = "multiple-element selection"
    zeros: ClassVar[bool] = True

    def init(self, layout: Layout) -> jax.Array:
        """`[shared, 2]`: logits of keeping and of dropping."""
        return jnp.tile(jnp.array([OPEN / 2, -OPEN / 2], jnp.float32), (len(layout.of_shared), 1))

    def owners(self, layout: Layout) -> np.ndarray:
        return layout.of_shared

    def masks(self, layout: Layout, parameters: jax.Array, context: Context) -> jax.Array:
        noise = _gumbel(parameters.shape, context, layout.of_shared)
        drawn = (parameters + noise)[layout.shared]
        soft = jax.nn.softmax(drawn / TEMPERATURE, axis=-1)[:, 0]
        lead = drawn[:, 0] - drawn[:, 1]
        best = layout.forced(topk.normalize_segments(lead, layout.segments.sizes))
        hard = ((lead >= 0) | best).astype(jnp.float32)
        return _straight_through(hard, soft)

    def decide(self, layout: Layout, parameters: jax.Array, context: Context) -> Decision:
        """The expected numbers of elements, and the most probable ones."""
        lead = np.asarray(parameters[:, 0] - parameters[:, 1], np.float64)[layout.shared]
        kept = 1.0 / (1.0 + np.exp(-lead))
        return Decision(layout.ratios(layout.counts(kept)), kept)


@dataclass(frozen=True)
class SingleNumber(Strategy):
    """One choice a group, the number of elements k: a logit for each, a Gumbel-softmax, triangular masks.

        p = softmax((l + g) / tau) over k = n ... N,     m_i = sum_k p_k [element i is among the k most important]

    n elements must stay. Starts with a probability of 0.982 for k = N and equal ones for all others: without noise
    (warm-up, pictures) that is the supernet, with noise one group in 55 draws any number in every step.

    Source: "single-number selection" of arXiv 2405.07194; Wan et al., "FBNetV2: Differentiable Neural Architecture
    Search for Spatial and Channel Dimensions", CVPR 2020, arXiv 2004.05565, section 3.2; Dong, Yang, "Network Pruning
    via Transformable Architecture Search", NeurIPS 2019, arXiv 1905.09717.
    """

    rate: float = 40.0
    title: ClassVar[str] = "single-number selection"
    zeros: ClassVar[bool] = True

    def init(self, layout: Layout) -> jax.Array:
        """`[ratios, most + 1]`: the logit of every number from 0; beyond N and below n they are never used."""
        size, least = layout.per_ratio(layout.size), layout.per_ratio(layout.least)
        logits = np.zeros((len(size), int(size.max()) + 1), np.float32)
        logits[np.arange(len(size)), size] = OPEN + np.log(np.maximum(size - least, 1))
        return jnp.asarray(logits)

    def owners(self, layout: Layout) -> np.ndarray:
        return layout.first

    def masks(self, layout: Layout, parameters: jax.Array, context: Context) -> jax.Array:
        size, least = layout.per_ratio(layout.size)[:, None], layout.per_ratio(layout.least)[:, None]
        number = np.arange(parameters.shape[1])
        drawn = parameters + _gumbel(parameters.shape, context, layout.first)
        drawn = jnp.where((number >= least) & (number <= size), drawn, -jnp.inf)
        p = jax.nn.softmax(drawn / TEMPERATURE, axis=-1)
        at_least = jnp.clip(jnp.flip(jnp.cumsum(jnp.flip(p, -1), -1), -1), 0.0, 1.0)  # P(number >= k)
        ranks = topk.normalize_segments(context.importance, layout.segments.sizes)
        needed = layout.size[layout.of_element] - layout.below(ranks)  # the smallest number with this element
        soft = at_least[layout.ratio_of_element, needed]
        return jnp.where(layout.untold(context.importance)[layout.of_element], 1.0, soft)


def _gumbel(shape: tuple[int, ...], context: Context, owners: np.ndarray) -> jax.Array:
    """Gumbel noise, 0 where it is quiet; `owners` are the groups along the first axis."""
    if context.key is None:
        return jnp.zeros(shape, jnp.float32)
    noise = jax.random.gumbel(context.key, shape, jnp.float32)
    return jnp.where(jnp.expand_dims(context.quiet[owners], 1), 0.0, noise)


def _straight_through(hard: jax.Array, soft: jax.Array) -> jax.Array:
    """Forward `hard`, exactly; backward `soft`."""
    return jax.lax.stop_gradient(hard) + (soft - jax.lax.stop_gradient(soft))
