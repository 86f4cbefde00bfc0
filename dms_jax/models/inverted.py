"""The inverted residual (Sandler et al. 2018, arXiv 1801.04381), with or without squeeze-and-excitation.

What MobileNetV2 and EfficientNet are made of: a 1x1 convolution widens, a depthwise one filters, a 1x1 one narrows.
Groups: the expanded width of every block, its squeeze width, every stage's output and removable blocks. The expanded
width's mask acts once, behind the depthwise convolution: what reads it (squeeze and projection) can take it into its
kernel. A block without expansion works on the channels it is given, and so on their group.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dms_jax.elements import Elements, Searchable
from dms_jax.models.depthwise import DepthwiseConv

Activation = Callable[[jax.Array], jax.Array]


def round_channels(channels: float) -> int:
    """The multiple of 8 next to `channels`, at least 8 and not more than 10 % below."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


class ConvNorm(nn.Module):
    """Convolution, BatchNorm and an activation.

    `__call__(x: [B, H, W, C]) -> [B, ceil(H / stride), ceil(W / stride), features]`; `features` None: depthwise.

    Attributes:
      symmetric: padding of size // 2 on every side, as in PyTorch's networks, and not TensorFlow's "SAME".
      epsilon: of BatchNorm.
    """

    features: int | None
    size: int
    stride: int
    act: Activation | None
    dtype: Any
    symmetric: bool = False
    epsilon: float = 1e-3

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        if self.features is None:
            x = DepthwiseConv(self.size, self.stride, self.dtype, self.symmetric, name="conv")(x)
        else:
            shape, strides, half = (self.size, self.size), (self.stride, self.stride), (self.size // 2, self.size // 2)
            pads = (half, half) if self.symmetric else "SAME"
            init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
            conv = nn.Conv(
                self.features, shape, strides, pads, use_bias=False, kernel_init=init, dtype=self.dtype, name="conv"
            )
            x = conv(x)
        norm = nn.BatchNorm(
            use_running_average=not train, momentum=0.99, epsilon=self.epsilon, dtype=self.dtype, name="norm"
        )
        return norm(x) if self.act is None else self.act(norm(x))


class SqueezeExcite(Searchable):
    """The gate of squeeze-and-excitation: sigmoid(W2 act(W1 mean over positions of x)).

    `__call__(x: [B, H, W, C]) -> [B, 1, 1, C]` in (0, 1).
    """

    features: int
    act: Activation
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        mid = self.elements("mid", self.features)
        y = jnp.mean(x, axis=(1, 2), keepdims=True)
        y = mid(self.act(nn.Conv(mid.size, (1, 1), dtype=self.dtype, name="reduce")(y)))
        return nn.sigmoid(nn.Conv(x.shape[-1], (1, 1), dtype=self.dtype, name="expand")(y))


class InvertedResidual(Searchable):
    """One block. `__call__(x: [B, H, W, C]) -> [B, ceil(H / stride), ceil(W / stride), out.size]`, without the skip.

    Attributes:
      expanded: width of the depthwise convolution in the full network; None: that of the input.
      squeeze: inner width of squeeze-and-excitation; None: there is none.
      symmetric, epsilon: of `ConvNorm`.
    """

    expanded: int | None
    squeeze: int | None
    size: int
    stride: int
    act: Activation
    dtype: Any
    symmetric: bool
    epsilon: float

    @nn.compact
    def __call__(self, x: jax.Array, inner: Elements, out: Elements, *, train: bool) -> jax.Array:
        make = partial(ConvNorm, dtype=self.dtype, symmetric=self.symmetric, epsilon=self.epsilon)
        mid = inner
        if self.expanded is not None:
            mid = self.elements("mid", self.expanded)
            x = make(mid.size, 1, 1, self.act, name="expand")(inner(x), train=train)
        x = mid(make(None, self.size, self.stride, self.act, name="depthwise")(x, train=train))
        if self.squeeze is not None:
            x = x * SqueezeExcite(features=self.squeeze, act=self.act, dtype=self.dtype, name="squeeze")(x)
        return make(out.size, 1, 1, None, name="project")(x, train=train)


class Stage(Searchable):
    """Blocks of one resolution. Takes and gives the residual stream with the group of its channels.

    Attributes:
      width: channels of the residual stream in the full network.
      expansion: expanded width of a block as a multiple of its input's; 1: no expansion.
      squeeze_ratio: squeeze width as a fraction of a block's input; 0: no squeeze-and-excitation.
      drop_path: `[blocks]` probability that a block is skipped in training, for each image on its own (stochastic
        depth, Huang et al. 2016, arXiv 1603.09382).
      symmetric, epsilon: of `ConvNorm`.
    """

    blocks: int
    width: int
    expansion: int
    size: int
    stride: int
    squeeze_ratio: float
    drop_path: tuple[float, ...]
    act: Activation
    dtype: Any
    symmetric: bool = False
    epsilon: float = 1e-3

    @nn.compact
    def __call__(self, x: jax.Array, inner: Elements, *, train: bool) -> tuple[jax.Array, Elements]:
        out, first = inner, 0
        if self.stride != 1 or inner.declared != self.width:  # the first block's skip is no identity
            out, first = self.elements("out", self.width), 1
            x = self.block(0, inner.declared)(x, inner, out, train=train)
        if self.blocks > first:
            depth = self.elements("depth", self.blocks - first)
            for i in depth.kept:
                y = self.block(i + first, out.declared)(x, out, out, train=train)
                drop = nn.Dropout(
                    self.drop_path[i + first], (1, 2, 3), deterministic=not train, name=f"drop{i + first}"
                )
                x = x + depth.gate(i, y.dtype) * drop(y)
        return x, out

    def block(self, number: int, inner: int) -> InvertedResidual:
        """Block `number` on an input of `inner` channels in the full network."""
        return InvertedResidual(
            expanded=inner * self.expansion if self.expansion > 1 else None,
            squeeze=max(1, int(inner * self.squeeze_ratio)) if self.squeeze_ratio else None,
            size=self.size,
            stride=self.stride if number == 0 else 1,
            act=self.act,
            dtype=self.dtype,
            symmetric=self.symmetric,
            epsilon=self.epsilon,
            name=f"block{number}",
        )
