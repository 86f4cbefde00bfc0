"""Depthwise convolution: every channel with a kernel of its own."""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dms_jax.elements import is_portable


class DepthwiseConv(nn.Module):
    """A `size` x `size` depthwise convolution without bias, padded as TensorFlow's "SAME", or alike on both sides.

        y[b, h, w, c] = sum over i, j of x[b, stride h + i - pad, stride w + j - pad, c] kernel[i, j, 0, c]

    `__call__(x: [B, H, W, C]) -> [B, ceil(H / stride), ceil(W / stride), C]` in `dtype`; the parameter `kernel` is
    `[size, size, 1, C]` float32.
    """

    size: int
    stride: int = 1
    dtype: Any = jnp.float32
    symmetric: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        init = nn.initializers.variance_scaling(2.0, "fan_in", "normal")  # a channel's fan in and out are both k^2
        kernel = self.param("kernel", init, (self.size, self.size, 1, x.shape[-1]), jnp.float32)
        return depthwise_convolution(x.astype(self.dtype), kernel.astype(self.dtype), self.stride, self.symmetric)


def depthwise_convolution(x: jax.Array, kernel: jax.Array, stride: int, symmetric: bool = False) -> jax.Array:
    """The convolution of `DepthwiseConv`, in the form that is fast where it runs.

    XLA's own is slow on CPU (under 1 GMAC/s, its kernel gradient slower still); there it is a sum of k^2 products.

    Args:
      x: `[B, H, W, C]` float.
      kernel: `[k, k, 1, C]` of the same dtype.
      stride: of both spatial axes, >= 1.
      symmetric: pads k // 2 on every side, as PyTorch's networks do, and not as "SAME"; the same where the stride is 1.

    Returns:
      `[B, ceil(H / stride), ceil(W / stride), C]`, dtype of `x`.
    """
    strides = (stride, stride)
    half = (kernel.shape[0] // 2, kernel.shape[0] // 2)
    pads = (
        (half, half) if symmetric else tuple(jax.lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], strides, "SAME"))
    )
    native = partial(native_convolution, stride=stride, pads=pads)
    if is_portable():
        return native(x, kernel)
    # Differentiated as it stands, the sum would keep k^2 shifted copies of `x`; so it is computed again instead.
    shifted = jax.checkpoint(partial(shifted_products, stride=stride, pads=pads))
    return jax.lax.platform_dependent(x, kernel, cpu=shifted, default=native)


Pads = tuple[tuple[int, int], ...]


def native_convolution(x: jax.Array, kernel: jax.Array, *, stride: int, pads: Pads) -> jax.Array:
    """XLA's grouped convolution with one channel a group; arguments as in `depthwise_convolution`."""
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        pads,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


def shifted_products(x: jax.Array, kernel: jax.Array, *, stride: int, pads: Pads) -> jax.Array:
    """The same as a sum over kernel positions of the shifted input times that position's weights, in float32."""
    x = jax.lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *((low, high, 0) for low, high in pads), (0, 0, 0)))
    batch, height, width, channels = x.shape
    size = kernel.shape[0]
    reach = [(n - size) // stride * stride + 1 for n in (height, width)]  # from first to last position, inclusive
    total = jnp.zeros((), jnp.float32)
    for i in range(size):
        for j in range(size):
            end = (batch, i + reach[0], j + reach[1], channels)
            window = jax.lax.slice(x, (0, i, j, 0), end, (1, stride, stride, 1)).astype(jnp.float32)
            total = total + window * kernel[i, j].astype(jnp.float32).reshape(1, 1, 1, channels)
    return total.astype(x.dtype)
