"""Every element by itself: a stochastic gate that is exactly 0 or 1 most of the time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from dms_jax.baselines.gumbel import OPEN, noise
from dms_jax.method.layout import Layout
from dms_jax.method.strategy import Context, Decision, Strategy

BETA = 2 / 3
"""Temperature of the concrete distribution."""
LOW, HIGH = -0.1, 1.1
"""What it is stretched to, before it is cut at 0 and 1."""
SHIFT = BETA * np.float32(np.log(-LOW / HIGH))
"""P(m > 0) = sigmoid(l - SHIFT)."""


@dataclass(frozen=True)
class HardConcrete(Strategy):
    """Hard-concrete gates, one logit l an element; the budget sees the probability that a gate is not 0.

        s = sigmoid((log u - log(1 - u) + l) / beta),   u ~ U(0, 1)
        m = clip(s (high - low) + low, 0, 1)                  beta = 2/3, low = -0.1, high = 1.1
        P(m > 0) = sigmoid(l - beta log(-low / high))

    Without noise (warm-up, pictures, frozen groups) m = clip(sigmoid(l) (high - low) + low, 0, 1), as at test time in
    the source. The task's gradient passes a gate that is drawn between 0 and 1; the resources' passes the probability,
    in closed form, so that no gate is out of reach. The multiplier on the budget is the one of all strategies, in place
    of the Lagrangian that the method has in structured pruning. Importance is not used. Tied groups share their logits,
    position by position. The best gates, as many as must stay, are 1. Starts at l = 4: a gate is exactly 1 in 92 % of
    the draws, and 0 in less than 1 %.

    Source: Louizos, Welling, Kingma, "Learning Sparse Neural Networks through L0 Regularization", ICLR 2018, arXiv
    1712.01312; as structured pruning under a Lagrangian, Wang, Wohlwend, Lei, "Structured Pruning of Large Language
    Models", EMNLP 2020, arXiv 1910.04732.
    """

    rate: float = 40.0
    title: ClassVar[str] = "hard-concrete l0 gates"
    uses_importance: ClassVar[bool] = False
    zeros: ClassVar[bool] = True

    def init(self, layout: Layout) -> jax.Array:
        """`[shared]` logits."""
        return jnp.full(len(layout.of_shared), OPEN, jnp.float32)

    def owners(self, layout: Layout) -> np.ndarray:
        return layout.of_shared

    def masks(self, layout: Layout, parameters: jax.Array, context: Context) -> jax.Array:
        if context.key is None:
            drawn = soft = parameters
        else:  # the difference of two Gumbel variables is logistic
            pair = noise((len(parameters), 2), context, layout.of_shared)
            drawn = parameters + pair[:, 0] - pair[:, 1]
            soft = jnp.where(context.quiet[layout.of_shared], parameters, drawn / BETA)
        gate = jnp.clip(jax.nn.sigmoid(soft) * (HIGH - LOW) + LOW, 0.0, 1.0)
        place = layout.to_shared(layout.position)
        return jnp.where(layout.forced(layout.ranks(drawn[place])), 1.0, gate[place])

    def retention(self, layout: Layout, parameters: jax.Array, context: Context) -> jax.Array:
        """P(m > 0)."""
        return jax.nn.sigmoid(parameters - SHIFT)[layout.to_shared(layout.position)]

    def kept(self, layout: Layout, masks: jax.Array) -> jax.Array:
        """Gates that are not 0: their expected number is the sum of the probabilities."""
        return (masks > 0).astype(masks.dtype)

    def decide(self, layout: Layout, parameters: jax.Array, context: Context) -> Decision:
        """The expected numbers of elements, and the most probable ones."""
        kept = np.asarray(self.retention(layout, parameters, context), np.float64)
        return Decision(layout.ratios(layout.counts(kept)), kept)
