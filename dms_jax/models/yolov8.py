"""YOLOv8 for detection (Jocher et al. 2023): a C2f backbone and neck, an anchor-free head of three resolutions.

Made from descriptions of the architecture and its published sizes; `docs/detection.md` lists them. Groups: the stem,
every downsampling convolution, both halves of every C2f, the inner width of every bottleneck, every output that the
neck concatenates, and the inner widths of the head's branches. The bottlenecks of the backbone's C2f are residual, and
so removable; those of the neck follow one another, and each has an output width of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from dms_jax.elements import Elements, Searchable
from dms_jax.errors import UserError

STRIDES = (8, 16, 32)
"""Pixels from one prediction to the next, of the head's three resolutions."""

BINS = 16
"""Distances of 0 to 15 strides, over which the head predicts a distribution for each side of a box."""

_RESOLUTION = 640
"""Pixels of a side, for which the class branch starts: about 5 objects an image."""

_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class Level(NamedTuple):
    """Features of one resolution, `[B, H, W, C]`, and the group of their channels."""

    x: jax.Array
    group: Elements

    def read(self) -> jax.Array:
        """As a layer reads them: masked."""
        return self.group(self.x)


def _joined(levels: Sequence[Level]) -> jax.Array:
    return jnp.concatenate([level.read() for level in levels], axis=-1)


class ConvNorm(nn.Module):
    """Convolution, BatchNorm (eps 1e-3) and SiLU.

    `__call__(x: [B, H, W, C]) -> [B, ceil(H / stride), ceil(W / stride), features]`.
    """

    features: int
    size: int
    stride: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        shape, pad = (self.size, self.size), (self.size // 2, self.size // 2)
        strides = (self.stride, self.stride)
        x = nn.Conv(
            self.features, shape, strides, (pad, pad), use_bias=False, kernel_init=_init, dtype=self.dtype, name="conv"
        )(x)
        norm = nn.BatchNorm(use_running_average=not train, momentum=0.97, epsilon=1e-3, dtype=self.dtype, name="norm")
        return nn.silu(norm(x))


class Bottleneck(Searchable):
    """Two 3x3 convolutions. `__call__(x: [B, H, W, C]) -> [B, H, W, out.size]`, without the skip.

    Attributes:
      features: inner width in the full network.
    """

    features: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, out: Elements, *, train: bool) -> jax.Array:
        mid = self.elements("mid", self.features)
        x = mid(ConvNorm(mid.size, 3, 1, self.dtype, name="conv1")(x, train=train))
        return ConvNorm(out.size, 3, 1, self.dtype, name="conv2")(x, train=train)


class C2f(Searchable):
    """Split in two, bottlenecks on the second half, everything concatenated and mixed.

    `__call__(x: [B, H, W, C]) -> Level of [B, H, W, width]`

    Attributes:
      width: of the output, in the full network; each half has half of it.
      blocks: bottlenecks.
      residual: whether each bottleneck adds to what it reads. One that is gone passes that on.
    """

    width: int
    blocks: int
    residual: bool
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> Level:
        passed, stream = self.elements("passed", self.width // 2), self.elements("stream", self.width // 2)
        halves = ConvNorm(passed.size + stream.size, 1, 1, self.dtype, name="split")(x, train=train)
        left, right = Level(halves[..., : passed.size], passed), Level(halves[..., passed.size :], stream)
        levels = [left, right, *(self._residual if self.residual else self._plain)(right, train)]
        out = self.elements("out", self.width)
        return Level(ConvNorm(out.size, 1, 1, self.dtype, name="merge")(_joined(levels), train=train), out)

    def _residual(self, level: Level, train: bool) -> list[Level]:
        depth, levels = self.elements("depth", self.blocks), []
        for i in range(self.blocks):
            if i in depth.kept:
                y = self._block(i)(level.read(), level.group, train=train)
                level = Level(level.x + depth.gate(i, y.dtype) * y, level.group)
            levels.append(level)
        return levels

    def _plain(self, level: Level, train: bool) -> list[Level]:
        levels = []
        for i in range(self.blocks):
            out = self.elements(f"step{i}", self.width // 2)
            level = Level(self._block(i)(level.read(), out, train=train), out)
            levels.append(level)
        return levels

    def _block(self, number: int) -> Bottleneck:
        return Bottleneck(features=self.width // 2, dtype=self.dtype, name=f"block{number}")


class PyramidPooling(Searchable):
    """Fast spatial pyramid pooling: a 5x5 maximum, once, twice and three times over, concatenated and mixed.

    `__call__(x: [B, H, W, C]) -> Level of [B, H, W, width]`
    """

    width: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> Level:
        mid = self.elements("mid", self.width // 2)
        levels = [Level(ConvNorm(mid.size, 1, 1, self.dtype, name="reduce")(x, train=train), mid)]
        for _ in range(3):
            levels.append(Level(nn.max_pool(levels[-1].x, (5, 5), padding="SAME"), mid))
        out = self.elements("out", self.width)
        return Level(ConvNorm(out.size, 1, 1, self.dtype, name="merge")(_joined(levels), train=train), out)


class Branch(Searchable):
    """Two 3x3 convolutions and a 1x1 one with a bias: boxes or classes of one resolution.

    `__call__(x: [B, H, W, C]) -> [B, H * W, outputs]`
    """

    width: int
    outputs: int
    bias: float
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        for i in (1, 2):
            mid = self.elements(f"mid{i}", self.width)
            x = mid(ConvNorm(mid.size, 3, 1, self.dtype, name=f"conv{i}")(x, train=train))
        bias = nn.initializers.constant(self.bias)
        x = nn.Conv(self.outputs, (1, 1), dtype=self.dtype, kernel_init=_init, bias_init=bias, name="predict")(x)
        return x.reshape(x.shape[0], -1, self.outputs)


class YOLOv8(Searchable):
    """`__call__(images: [B, H, W, 3] float in 0 to 1, train) -> [B, A, 4 * bins + num_classes]` float32.

    H and W are multiples of 32. The A = H W (1/64 + 1/256 + 1/1024) predictions are of strides 8, 16 and 32, each in
    rows; the first 4 * bins numbers are logits of the distances to the left, upper, right and lower side, the others
    logits of the classes. `dms_jax.detection.boxes` makes boxes of them.

    Attributes:
      width_multiplier: scales the channels of every layer, rounded up to multiples of 8.
      block_multiplier: scales the bottlenecks of every C2f, rounded, at least 1.
      widths: channels of the five resolutions, before they are scaled.
      widest: the most of them, before they are scaled.
      blocks: bottlenecks of the backbone's four C2f; those of the neck have as many as the first.
      bins: of the distribution of a distance.
    """

    width_multiplier: float = 1.0
    block_multiplier: float = 1.0
    widths: tuple[int, ...] = (64, 128, 256, 512, 1024)
    widest: int = 1024
    blocks: tuple[int, ...] = (3, 6, 6, 3)
    bins: int = BINS
    num_classes: int = 80
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        self._check()
        if images.shape[1] % STRIDES[-1] or images.shape[2] % STRIDES[-1]:
            raise UserError(
                f"images of {images.shape[1]} x {images.shape[2]} pixels do not fit; give multiples of {STRIDES[-1]}"
            )
        fine, middle, coarse = self._backbone(images.astype(self.dtype), train)
        levels = self._neck(fine, middle, coarse, train)
        return jnp.concatenate(
            [self._predict(level, stride, train) for level, stride in zip(levels, STRIDES, strict=True)], axis=1
        ).astype(jnp.float32)

    def _check(self) -> None:
        """Refuse what no network can be made of.

        Raises:
          UserError: it says what is possible.
        """
        if (len(self.widths), len(self.blocks)) != (5, 4):
            raise UserError(f"widths {self.widths} and blocks {self.blocks} are not possible; give five and four")
        if self.num_classes < 1 or self.bins < 2:
            raise UserError(f"{self.num_classes} classes and {self.bins} bins are not possible; give at least 1 and 2")

    def _width(self, i: int) -> int:
        return math.ceil(min(self.widths[i], self.widest) * self.width_multiplier / 8) * 8

    def _c2f(self, i: int, blocks: int, residual: bool, name: str) -> C2f:
        count = max(round(blocks * self.block_multiplier), 1)
        return C2f(width=self._width(i), blocks=count, residual=residual, dtype=self.dtype, name=name)

    def _halve(self, x: jax.Array, i: int, name: str, train: bool) -> Level:
        group = self.elements(name, self._width(i))
        return Level(ConvNorm(group.size, 3, 2, self.dtype, name=f"{name}_conv")(x, train=train), group)

    def _backbone(self, x: jax.Array, train: bool) -> list[Level]:
        """Features of strides 8, 16 and 32."""
        level, levels = self._halve(x, 0, "stem", train), []
        for i in range(1, 5):
            level = self._halve(level.read(), i, f"down{i}", train)
            level = self._c2f(i, self.blocks[i - 1], True, f"stage{i}")(level.read(), train=train)
            levels.append(level)
        pooled = PyramidPooling(width=self._width(4), dtype=self.dtype, name="pooling")(level.read(), train=train)
        return [*levels[1:3], pooled]

    def _neck(self, fine: Level, middle: Level, coarse: Level, train: bool) -> list[Level]:
        """The three resolutions mixed, from coarse to fine and back."""

        def mixed(i: int, name: str, *levels: Level) -> Level:
            return self._c2f(i, self.blocks[0], False, name)(_joined(levels), train=train)

        upper = mixed(3, "neck1", _doubled(coarse), middle)
        first = mixed(2, "neck2", _doubled(upper), fine)
        second = mixed(3, "neck3", self._halve(first.read(), 2, "neck3_down", train), upper)
        third = mixed(4, "neck4", self._halve(second.read(), 3, "neck4_down", train), coarse)
        return [first, second, third]

    def _predict(self, level: Level, stride: int, train: bool) -> jax.Array:
        finest, x = self._width(2), level.read()
        expected = 5 / self.num_classes / (_RESOLUTION / stride) ** 2
        # (width, outputs, bias)
        sides = (max(16, finest // 4, 4 * self.bins), 4 * self.bins, 1.0)
        classes = (max(finest, min(self.num_classes, 100)), self.num_classes, math.log(expected))
        made = [
            Branch(width=width, outputs=outputs, bias=bias, dtype=self.dtype, name=f"{name}{stride}")
            for name, (width, outputs, bias) in (("box", sides), ("class", classes))
        ]
        return jnp.concatenate([branch(x, train=train) for branch in made], axis=-1)


def _doubled(level: Level) -> Level:
    """Every position four times."""
    x = level.x
    b, h, w, c = x.shape
    spread = jnp.broadcast_to(x[:, :, None, :, None, :], (b, h, 2, w, 2, c))
    return Level(spread.reshape(b, 2 * h, 2 * w, c), level.group)


def _scaled(blocks: float, width: float, widest: int) -> Callable[..., YOLOv8]:
    return partial(YOLOv8, block_multiplier=blocks, width_multiplier=width, widest=widest)


MODELS: dict[str, Callable[..., YOLOv8]] = {
    "yolov8n": _scaled(1 / 3, 0.25, 1024),
    "yolov8s": _scaled(1 / 3, 0.5, 1024),
    "yolov8m": _scaled(2 / 3, 0.75, 768),
    "yolov8l": _scaled(1.0, 1.0, 512),
    "yolov8x": _scaled(1.0, 1.25, 512),
}
