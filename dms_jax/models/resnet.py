"""ResNet (He et al. 2015, arXiv 1512.03385), as torchvision has it: stride in the 3x3, explicit padding.

Groups: the stem, the inner widths of every block, the output width of every stage, and the blocks of every stage whose
skip is an identity. Where stage 1 has no projection (basic blocks) its width is the stem's. A mask multiplies the input
of each layer that reads its axis; the residual stream itself runs unmasked.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dms_jax.elements import Elements, Searchable


def _conv(features: int, size: int, stride: int, dtype: Any, name: str) -> nn.Conv:
    pad = (size // 2, size // 2)
    init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
    return nn.Conv(
        features, (size, size), (stride, stride), (pad, pad), use_bias=False, dtype=dtype, kernel_init=init, name=name
    )


def _norm(train: bool, dtype: Any, name: str) -> nn.BatchNorm:
    return nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5, dtype=dtype, name=name)


class BasicBlock(Searchable):
    """Two 3x3 convolutions.

    `__call__(x: [B, H, W, C]) -> [B, H/stride, W/stride, out.size]`, before the skip is added and ReLU taken.
    """

    features: int
    stride: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, out: Elements, *, train: bool) -> jax.Array:
        mid = self.elements("mid", self.features)
        y = _conv(mid.size, 3, self.stride, self.dtype, "conv1")(x)
        y = mid(nn.relu(_norm(train, self.dtype, "norm1")(y)))
        y = _conv(out.size, 3, 1, self.dtype, "conv2")(y)
        return _norm(train, self.dtype, "norm2")(y)


class Bottleneck(Searchable):
    """1x1, 3x3 and 1x1 convolutions.

    `__call__(x: [B, H, W, C]) -> [B, H/stride, W/stride, out.size]`, before the skip is added and ReLU taken.
    """

    features: int
    stride: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, out: Elements, *, train: bool) -> jax.Array:
        inner1 = self.elements("mid1", self.features)
        inner2 = self.elements("mid2", self.features)
        y = _conv(inner1.size, 1, 1, self.dtype, "conv1")(x)
        y = inner1(nn.relu(_norm(train, self.dtype, "norm1")(y)))
        y = _conv(inner2.size, 3, self.stride, self.dtype, "conv2")(y)
        y = inner2(nn.relu(_norm(train, self.dtype, "norm2")(y)))
        y = _conv(out.size, 1, 1, self.dtype, "conv3")(y)
        return _norm(train, self.dtype, "norm3")(y)


class Stage(Searchable):
    """Blocks of one resolution. Takes and gives the residual stream with the group of its channels."""

    block: type[BasicBlock] | type[Bottleneck]
    blocks: int
    features: int
    width: int
    stride: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, inner: Elements, *, train: bool) -> tuple[jax.Array, Elements]:
        make = partial(self.block, features=self.features, dtype=self.dtype)
        first = 0 if self.keeps_shape(inner) else 1
        out = inner
        if first:
            out = self.elements("out", self.width)
            read = inner(x)
            skip = _conv(out.size, 1, self.stride, self.dtype, "shortcut")(read)
            skip = _norm(train, self.dtype, "shortcut_norm")(skip)
            x = nn.relu(skip + make(stride=self.stride, name="block0")(read, out, train=train))
        if self.blocks > first:
            depth = self.elements("depth", self.blocks - first)
            for i in depth.kept:
                y = make(stride=1, name=f"block{i + first}")(out(x), out, train=train)
                x = nn.relu(x + depth.gate(i, y.dtype) * y)
        return x, out

    def keeps_shape(self, inner: Elements) -> bool:
        """Whether the first block's skip is an identity: same resolution and, in the full network, same channels."""
        return self.stride == 1 and inner.declared == self.width


class ResNet(Searchable):
    """`__call__(images: [B, H, W, 3] float, train) -> logits [B, num_classes]` float32."""

    block: type[BasicBlock] | type[Bottleneck]
    blocks: tuple[int, ...]
    widths: tuple[int, ...]
    stem: int
    small_images: bool = False
    num_classes: int = 1000
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        group = self.elements("stem", self.stem)
        x = images.astype(self.dtype)
        x = _conv(group.size, *((3, 1) if self.small_images else (7, 2)), self.dtype, "conv")(x)
        x = nn.relu(_norm(train, self.dtype, "norm")(x))
        if not self.small_images:
            x = nn.max_pool(x, (3, 3), (2, 2), [(1, 1), (1, 1)])  # type: ignore[arg-type]  # pads are allowed
        expansion = 4 if self.block is Bottleneck else 1
        for i, (blocks, features) in enumerate(zip(self.blocks, self.widths, strict=True)):
            stage = Stage(
                block=self.block,
                blocks=blocks,
                features=features,
                width=features * expansion,
                stride=1 if i == 0 else 2,
                dtype=self.dtype,
                name=f"stage{i + 1}",
            )
            x, group = stage(x, group, train=train)
        x = group(jnp.mean(x, axis=(1, 2)))
        return nn.Dense(self.num_classes, dtype=self.dtype, name="classifier")(x).astype(jnp.float32)


def _imagenet(block: type, blocks: tuple[int, ...]) -> Callable[..., ResNet]:
    return partial(ResNet, block=block, blocks=blocks, widths=(64, 128, 256, 512), stem=64)


def _small(blocks: int) -> Callable[..., ResNet]:
    return partial(ResNet, block=BasicBlock, blocks=(blocks,) * 3, widths=(16, 32, 64), stem=16, small_images=True)


MODELS: dict[str, Callable[..., ResNet]] = {
    "resnet18": _imagenet(BasicBlock, (2, 2, 2, 2)),
    "resnet34": _imagenet(BasicBlock, (3, 4, 6, 3)),
    "resnet50": _imagenet(Bottleneck, (3, 4, 6, 3)),
    "resnet101": _imagenet(Bottleneck, (3, 4, 23, 3)),
    "resnet152": _imagenet(Bottleneck, (3, 8, 36, 3)),
    "resnet20": _small(3),
    "resnet32": _small(5),
    "resnet56": _small(9),
}
