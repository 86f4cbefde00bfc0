"""Normalisations over a searchable axis: only kept elements count (METHOD, "Where masks act").

With 0/1 masks they are exactly the smaller network's normalisation; plain ones would still divide by the full size.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dms_jax.elements import Elements


class LayerNorm(nn.Module):
    """Layer normalisation over the last axis, mask-aware.

        mean = sum(m x) / sum(m),  var = sum(m (x - mean)^2) / sum(m)
        y = m ((x - mean) / sqrt(var + eps) scale + bias)

    Statistics are float32. `__call__(x: [..., C], elements)` returns `[..., C]` in `dtype` (None: that of `x`);
    parameters `scale` and `bias` are `[C]` float32.
    """

    epsilon: float = 1e-6
    dtype: Any = None
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, elements: Elements | None = None) -> jax.Array:
        size, dtype = x.shape[-1], self.dtype or x.dtype
        scale = self.param("scale", nn.initializers.ones, (size,), jnp.float32)
        x = x.astype(jnp.float32)
        centred = x - _mean(x, elements)
        y = centred * jax.lax.rsqrt(_mean(jnp.square(centred), elements) + self.epsilon) * _row(scale, x.ndim)
        if self.use_bias:
            y = y + _row(self.param("bias", nn.initializers.zeros, (size,), jnp.float32), x.ndim)
        return (y if elements is None else elements(y)).astype(dtype)


class RMSNorm(nn.Module):
    """Root mean square normalisation over the last axis, mask-aware.

        y = m x / sqrt(sum(m x^2) / sum(m) + eps) scale

    Statistics are float32. `__call__(x: [..., C], elements)` returns `[..., C]` in `dtype` (None: that of `x`); the
    parameter `scale` is `[C]` float32.
    """

    epsilon: float = 1e-6
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, elements: Elements | None = None) -> jax.Array:
        dtype = self.dtype or x.dtype
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), jnp.float32)
        x = x.astype(jnp.float32)
        y = x * jax.lax.rsqrt(_mean(jnp.square(x), elements) + self.epsilon) * _row(scale, x.ndim)
        return (y if elements is None else elements(y)).astype(dtype)


def _mean(x: jax.Array, elements: Elements | None) -> jax.Array:
    """Mean over the last axis, of kept elements only, `[..., 1]`."""
    if elements is None or elements.mask is None:
        return jnp.mean(x, axis=-1, keepdims=True)
    mask = _row(elements.mask.astype(jnp.float32), x.ndim)
    return jnp.sum(mask * x, axis=-1, keepdims=True) / jnp.sum(mask)


def _row(x: jax.Array, ndim: int) -> jax.Array:
    return x.reshape((1,) * (ndim - 1) + (-1,))
