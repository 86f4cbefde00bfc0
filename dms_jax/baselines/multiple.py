"""Every element by itself: sampled with a Gumbel-softmax."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from dms_jax.baselines.gumbel import OPEN, TEMPERATURE, noise
from dms_jax.method.layout import Layout
from dms_jax.method.strategy import Context, Decision, Strategy


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
    uses_importance: ClassVar[bool] = False
    zeros: ClassVar[bool] = True

    def init(self, layout: Layout) -> jax.Array:
        """`[shared, 2]`: logits of keeping and of dropping."""
        return jnp.tile(jnp.array([OPEN / 2, -OPEN / 2], jnp.float32), (len(layout.of_shared), 1))

    def owners(self, layout: Layout) -> np.ndarray:
        return layout.of_shared

    def masks(self, layout: Layout, parameters: jax.Array, context: Context) -> jax.Array:
        drawn = parameters + noise(parameters.shape, context, layout.of_shared)
        drawn = drawn[layout.to_shared(layout.position)]
        soft = jax.nn.softmax(drawn / TEMPERATURE, axis=-1)[:, 0]
        lead = drawn[:, 0] - drawn[:, 1]
        best = layout.forced(layout.ranks(lead))
        hard = ((lead >= 0) | best).astype(jnp.float32)
        return _straight_through(hard, soft)

    def decide(self, layout: Layout, parameters: jax.Array, context: Context) -> Decision:
        """The expected numbers of elements, and the most probable ones."""
        lead = np.asarray(parameters[:, 0] - parameters[:, 1], np.float64)
        kept = 1.0 / (1.0 + np.exp(-lead[layout.to_shared(layout.position)]))
        return Decision(layout.ratios(layout.counts(kept)), kept)


def _straight_through(hard: jax.Array, soft: jax.Array) -> jax.Array:
    """Forward `hard`, exactly; backward `soft`."""
    return jax.lax.stop_gradient(hard) + (soft - jax.lax.stop_gradient(soft))
