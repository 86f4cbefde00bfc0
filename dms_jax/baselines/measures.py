"""Other measures of what an element matters, under the method's name and signature."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from dms_jax.method.importance import Evidence


def snip(e: Evidence) -> jax.Array:
    """|m g| (Lee et al. 2019)."""
    return jnp.abs(e.mask * e.gradient)


def fisher(e: Evidence) -> jax.Array:
    """g^2, the diagonal of the empirical Fisher information of the masks."""
    return jnp.square(e.gradient)


def magnitude(e: Evidence) -> jax.Array:
    """The L1 norm of the element's weights."""
    return e.magnitude


def index(e: Evidence) -> jax.Array:
    """Earlier elements matter more: a fixed order, nothing is learned."""
    return -e.position
