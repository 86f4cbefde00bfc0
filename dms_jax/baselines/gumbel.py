"""Gumbel-softmax, which strategies select by; it holds no strategy itself."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from dms_jax.method.strategy import Context

TEMPERATURE = 0.1
OPEN = 4.0
"""Start: sigmoid(4) = 0.982, the probability that an element stays or that all do; DMS starts at a mask of 0.982."""


def noise(shape: tuple[int, ...], context: Context, owners: np.ndarray) -> jax.Array:
    """Gumbel noise of a step, 0 where it is quiet; `owners` are the groups along the first axis."""
    if context.key is None:
        return jnp.zeros(shape, jnp.float32)
    drawn = jax.random.gumbel(context.key, shape, jnp.float32)
    return jnp.where(jnp.expand_dims(context.quiet[owners], 1), 0.0, drawn)
