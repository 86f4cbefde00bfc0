"""The number of elements: sampled with a Gumbel-softmax."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from dms_jax.baselines.gumbel import OPEN, TEMPERATURE, noise
from dms_jax.method.layout import Layout
from dms_jax.method.strategy import Context, Strategy


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
        size, least = layout.to_ratios(layout.size), layout.to_ratios(layout.least)
        logits = np.zeros((len(size), int(size.max()) + 1), np.float32)
        logits[np.arange(len(size)), size] = OPEN + np.log(np.maximum(size - least, 1))
        return jnp.asarray(logits)

    def owners(self, layout: Layout) -> np.ndarray:
        return layout.first

    def masks(self, layout: Layout, parameters: jax.Array, context: Context) -> jax.Array:
        size, least = layout.to_ratios(layout.size)[:, None], layout.to_ratios(layout.least)[:, None]
        number = np.arange(parameters.shape[1])
        drawn = parameters + noise(parameters.shape, context, layout.first)
        drawn = jnp.where((number >= least) & (number <= size), drawn, -jnp.inf)
        p = jax.nn.softmax(drawn / TEMPERATURE, axis=-1)
        at_least = jnp.clip(jnp.flip(jnp.cumsum(jnp.flip(p, -1), -1), -1), 0.0, 1.0)  # P(number >= k)
        # the smallest number with this element
        needed = layout.to_elements(layout.size) - layout.ranks(context.importance)
        soft = at_least[layout.to_elements(layout.ratio), needed]
        return jnp.where(layout.to_elements(layout.uninformative(context.importance)), 1.0, soft)
