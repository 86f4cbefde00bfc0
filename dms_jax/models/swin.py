"""Swin transformers (Liu et al. 2021, arXiv 2103.14030): attention inside windows that shift from block to block.

Groups: in every block the heads and the hidden width of the MLP; attention and MLP of a block are one removable block.
The relative position bias goes with the heads. A kept block keeps its shift when others are removed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dms_jax.elements import Searchable
from dms_jax.errors import UserError
from dms_jax.layers import LayerNorm

_INIT = nn.initializers.truncated_normal(0.02)
_norm = partial(LayerNorm, epsilon=1e-5)


def window_partition(x: jax.Array, window: int) -> jax.Array:
    """`[B, H, W, C] -> [B, windows, window^2, C]`, row by row."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // window, window, width // window, window, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, -1, window * window, channels)


def window_merge(x: jax.Array, height: int, width: int) -> jax.Array:
    """The inverse of `window_partition`: `[B, windows, window^2, C] -> [B, height, width, C]`."""
    batch, _, area, channels = x.shape
    window = round(area**0.5)
    x = x.reshape(batch, height // window, width // window, window, window, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, height, width, channels)


def relative_positions(window: int) -> np.ndarray:
    """`[window^2, window^2]` int: which row of the bias table holds the offset between two positions of a window."""
    at = np.stack(np.meshgrid(np.arange(window), np.arange(window), indexing="ij")).reshape(2, -1)
    offset = at[:, :, None] - at[:, None, :] + window - 1
    return offset[0] * (2 * window - 1) + offset[1]


def shift_mask(size: int, window: int, shift: int) -> np.ndarray:
    """`[windows, window^2, window^2]` float32: -100 between positions that the shift has brought together."""
    region = (np.arange(size) >= size - window).astype(int) + (np.arange(size) >= size - shift)
    label = 3 * region[:, None] + region[None, :]
    rows = label.reshape(size // window, window, size // window, window).transpose(0, 2, 1, 3).reshape(-1, window**2)
    return np.where(rows[:, None, :] == rows[:, :, None], 0.0, -100.0).astype(np.float32)


class WindowAttention(Searchable):
    """Attention inside every window. `__call__(x: [B, W, N, C], mask: [W, N, N] or None) -> [B, W, N, C]`."""

    heads: int
    window: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, mask: np.ndarray | None) -> jax.Array:
        heads, dim = self.elements("heads", self.heads, kind="heads"), x.shape[-1] // self.heads
        make = partial(nn.DenseGeneral, dtype=self.dtype, kernel_init=_INIT)
        q, k, v = (make((heads.size, dim), name=name)(x) for name in ("query", "key", "value"))
        table = self.param("bias_table", _INIT, ((2 * self.window - 1) ** 2, heads.size), jnp.float32)
        logits = jnp.einsum("bwqhd,bwkhd->bwhqk", q * dim**-0.5, k).astype(jnp.float32)
        logits = logits + table[relative_positions(self.window)].transpose(2, 0, 1)[None, None]
        if mask is not None:
            logits = logits + mask[None, :, None]
        y = jnp.einsum("bwhqk,bwkhd->bwqhd", nn.softmax(logits).astype(self.dtype), v)
        return make(x.shape[-1], axis=(-2, -1), name="out")(heads(y, axis=3))


class Mlp(Searchable):
    """Two dense layers with a GELU between. `__call__(x: [..., C]) -> [..., C]`."""

    hidden: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        hidden = self.elements("hidden", self.hidden)
        y = nn.Dense(hidden.size, dtype=self.dtype, kernel_init=_INIT, name="fc1")(x)
        y = hidden(nn.gelu(y, approximate=False))
        return nn.Dense(x.shape[-1], dtype=self.dtype, kernel_init=_INIT, name="fc2")(y)


class Block(Searchable):
    """Window attention and MLP, each behind a LayerNorm, both through one gate.

    `__call__(x: [B, H, W, C], gate: []) -> [B, H, W, C]`, the residual stream.
    """

    heads: int
    window: int
    shift: int
    drop_path: float
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, gate: jax.Array, *, train: bool) -> jax.Array:
        drop = partial(nn.Dropout, self.drop_path, (1, 2, 3), deterministic=not train)
        x = x + gate * drop(name="drop1")(self.attention(_norm(name="norm1")(x)))
        mlp = Mlp(hidden=4 * x.shape[-1], dtype=self.dtype, name="mlp")
        return x + gate * drop(name="drop2")(mlp(_norm(name="norm2")(x)))

    def attention(self, x: jax.Array) -> jax.Array:
        """Attention inside the (shifted) windows of `x: [B, H, W, C]`."""
        _, height, width, _ = x.shape
        shift = self.shift if height > self.window else 0  # a single window has nowhere to shift
        mask = shift_mask(height, self.window, shift) if shift else None
        y = window_partition(jnp.roll(x, (-shift, -shift), (1, 2)) if shift else x, self.window)
        y = WindowAttention(heads=self.heads, window=self.window, dtype=self.dtype, name="attention")(y, mask)
        y = window_merge(y, height, width)
        return jnp.roll(y, (shift, shift), (1, 2)) if shift else y


class PatchMerging(nn.Module):
    """Every 2 x 2 positions become one of twice the channels: `[B, H, W, C] -> [B, H / 2, W / 2, 2 C]`."""

    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        batch, height, width, channels = x.shape
        x = x.reshape(batch, height // 2, 2, width // 2, 2, channels)
        x = x.transpose(0, 1, 3, 4, 2, 5).reshape(batch, height // 2, width // 2, 4 * channels)  # columns, then rows
        dense = nn.Dense(2 * channels, use_bias=False, dtype=self.dtype, kernel_init=_INIT, name="reduction")
        return dense(_norm(name="norm")(x))


class Stage(Searchable):
    """Blocks of one resolution, every second one with shifted windows.

    `__call__(x: [B, H, W, C], train) -> [B, H, W, C]`.

    Raises:
      UserError: windows that do not tile the image.
    """

    blocks: int
    heads: int
    window: int
    drop_path: tuple[float, ...]
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        if x.shape[1] != x.shape[2] or x.shape[1] % self.window:
            raise UserError(
                f"{self.name}: windows of {self.window} x {self.window} do not tile {x.shape[1]} x {x.shape[2]} "
                "positions; give square images whose size is a multiple of window x patch x 2^(stages - 1)"
            )
        depth = self.elements("depth", self.blocks)
        for i in depth.kept:
            block = Block(
                heads=self.heads,
                window=self.window,
                shift=self.window // 2 if i % 2 else 0,
                drop_path=self.drop_path[i],
                dtype=self.dtype,
                name=f"block{i}",
            )
            x = block(x, depth.gate(i, x.dtype), train=train)
        return x


class Swin(Searchable):
    """`__call__(images: [B, H, H, 3] float, train) -> logits [B, num_classes]` float32.

    Attributes:
      embed: channels of the first stage; every further one has twice as many.
      blocks: of every stage.
      heads: of the blocks of every stage.
      window: positions along the side of a window.
      drop_path: stochastic depth of the last block in training; earlier ones get less, linearly.
    """

    embed: int
    blocks: tuple[int, ...]
    heads: tuple[int, ...]
    window: int = 7
    patch_size: int = 4
    drop_path: float = 0.2
    num_classes: int = 1000
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        patch = (self.patch_size, self.patch_size)
        conv = nn.Conv(self.embed, patch, patch, "VALID", dtype=self.dtype, kernel_init=_INIT, name="patch")
        x = _norm(name="patch_norm")(conv(images.astype(self.dtype)))
        total = sum(self.blocks)
        rates = [self.drop_path * i / max(total - 1, 1) for i in range(total)]
        for i, (blocks, heads) in enumerate(zip(self.blocks, self.heads, strict=True)):
            if i:
                x = PatchMerging(dtype=self.dtype, name=f"merging{i}")(x)
            before = sum(self.blocks[:i])
            drop_path = tuple(rates[before : before + blocks])
            stage = Stage(
                blocks=blocks,
                heads=heads,
                window=self.window,
                drop_path=drop_path,
                dtype=self.dtype,
                name=f"stage{i + 1}",
            )
            x = stage(x, train=train)
        x = jnp.mean(_norm(name="norm")(x), axis=(1, 2))
        return nn.Dense(self.num_classes, dtype=self.dtype, kernel_init=_INIT, name="classifier")(x).astype(jnp.float32)


def _sized(embed: int, blocks: tuple[int, ...], heads: tuple[int, ...], drop_path: float) -> Callable[..., Swin]:
    return partial(Swin, embed=embed, blocks=blocks, heads=heads, drop_path=drop_path)


MODELS: dict[str, Callable[..., Swin]] = {
    "swin_tiny": _sized(96, (2, 2, 6, 2), (3, 6, 12, 24), 0.2),
    "swin_small": _sized(96, (2, 2, 18, 2), (3, 6, 12, 24), 0.3),
    "swin_base": _sized(128, (2, 2, 18, 2), (4, 8, 16, 32), 0.5),
}
