"""Vision transformers: ViT (Dosovitskiy et al. 2020, arXiv 2010.11929), DeiT (Touvron et al. 2020, arXiv 2012.12877).

Groups: the embedding (the residual stream of the whole network), and in every block the heads, the query/key and value
dimensions (each shared by all heads) and the hidden width of the MLP; attention and MLP of a block are one removable
block. LayerNorms read the residual stream and count its kept elements only.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dms_jax.elements import Elements, Searchable
from dms_jax.errors import UserError
from dms_jax.layers import LayerNorm

_INIT = nn.initializers.truncated_normal(0.02)


class Attention(Searchable):
    """Self-attention. `__call__(x: [B, N, E]) -> [B, N, embed.size]`.

    softmax(q k^T / sqrt(dim)) v,  dim being the full network's also where query/key dimensions were taken out:
    a masked and a removed dimension are then the same.
    """

    heads: int
    dim: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, embed: Elements) -> jax.Array:
        heads = self.elements("heads", self.heads, kind="heads")
        keys, values = self.elements("query_key", self.dim), self.elements("value_dim", self.dim)
        make = partial(nn.DenseGeneral, dtype=self.dtype, kernel_init=_INIT)
        q = keys(make((heads.size, keys.size), name="query")(x)) * keys.declared**-0.5
        k = make((heads.size, keys.size), name="key")(x)
        v = make((heads.size, values.size), name="value")(x)
        weights = nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k).astype(jnp.float32)).astype(self.dtype)
        y = jnp.einsum("bhqk,bkhd->bqhd", weights, v)
        return make(embed.size, axis=(-2, -1), name="out")(heads(values(y), axis=2))


class Mlp(Searchable):
    """Two dense layers with a GELU between. `__call__(x: [B, N, E]) -> [B, N, embed.size]`."""

    hidden: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, embed: Elements) -> jax.Array:
        hidden = self.elements("hidden", self.hidden)
        y = nn.Dense(hidden.size, dtype=self.dtype, kernel_init=_INIT, name="fc1")(x)
        y = hidden(nn.gelu(y, approximate=False))
        return nn.Dense(embed.size, dtype=self.dtype, kernel_init=_INIT, name="fc2")(y)


class Block(Searchable):
    """Attention and MLP, each behind a LayerNorm, both through one gate.

    `__call__(x: [B, N, E], embed, gate: []) -> [B, N, E]`, the residual stream.
    """

    heads: int
    dim: int
    hidden: int
    drop_path: float
    epsilon: float
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, embed: Elements, gate: jax.Array, *, train: bool) -> jax.Array:
        norm = partial(LayerNorm, epsilon=self.epsilon)
        drop = partial(nn.Dropout, self.drop_path, (1, 2), deterministic=not train)
        y = Attention(heads=self.heads, dim=self.dim, dtype=self.dtype, name="attention")(
            norm(name="norm1")(x, embed), embed
        )
        x = x + gate * drop(name="drop1")(y)
        y = Mlp(hidden=self.hidden, dtype=self.dtype, name="mlp")(norm(name="norm2")(x, embed), embed)
        return x + gate * drop(name="drop2")(y)


class VisionTransformer(Searchable):
    """`__call__(images: [B, image_size, image_size, 3] float, train) -> logits [B, num_classes]` float32.

    Attributes:
      embed: width of the residual stream; a head has embed / heads dimensions.
      heads: of every block.
      depth: blocks.
      mlp_ratio: hidden width of the MLP as a multiple of `embed`.
      distilled: with a distillation token and a head of its own; the logits are the mean of both heads'.
      drop_path: stochastic depth of the last block in training; earlier ones get less, linearly.
      epsilon: of the LayerNorms.
    """

    embed: int
    heads: int
    depth: int = 12
    mlp_ratio: int = 4
    distilled: bool = False
    image_size: int = 224
    patch_size: int = 16
    drop_path: float = 0.0
    epsilon: float = 1e-12
    num_classes: int = 1000
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        embed = self.elements("embed", self.embed)
        x = self.tokens(images.astype(self.dtype), embed)
        depth = self.elements("depth", self.depth)
        for i in depth.kept:
            block = Block(
                heads=self.heads,
                dim=self.embed // self.heads,
                hidden=self.embed * self.mlp_ratio,
                drop_path=self.drop_path * i / max(self.depth - 1, 1),
                epsilon=self.epsilon,
                dtype=self.dtype,
                name=f"block{i}",
            )
            x = block(x, embed, depth.gate(i, x.dtype), train=train)
        x = LayerNorm(epsilon=self.epsilon, name="norm")(x, embed)
        make = partial(nn.Dense, self.num_classes, dtype=self.dtype, kernel_init=_INIT)
        logits = make(name="classifier")(x[:, 0])
        if self.distilled:
            logits = (logits + make(name="distillation_classifier")(x[:, 1])) / 2
        return logits.astype(jnp.float32)

    def tokens(self, images: jax.Array, embed: Elements) -> jax.Array:
        """`[B, extra + patches, embed.size]`: class token, distillation token and patches, with their positions.

        Raises:
          UserError: images of another size than the positions were made for.
        """
        batch, height, width, _ = images.shape
        size, patch = self.image_size, self.patch_size
        if (height, width) != (size, size) or size % patch:
            raise UserError(
                f"the network takes images of {size} x {size} in patches of {patch}, got {height} x {width}; make it "
                f"with image_size={height} (square, a multiple of {patch})"
            )
        conv = nn.Conv(
            embed.size, (patch, patch), (patch, patch), "VALID", dtype=self.dtype, kernel_init=_INIT, name="patch"
        )
        x = conv(images).reshape(batch, -1, embed.size)
        names = ("class_token", "distillation_token") if self.distilled else ("class_token",)
        extra = [self.param(name, _INIT, (1, 1, embed.size), jnp.float32) for name in names]
        rows = [jnp.broadcast_to(token.astype(x.dtype), (batch, 1, embed.size)) for token in extra]
        x = jnp.concatenate([*rows, x], axis=1)
        return x + self.param("position", _INIT, (1, *x.shape[1:]), jnp.float32).astype(x.dtype)


_SIZES = {"tiny": (192, 3), "small": (384, 6), "base": (768, 12)}


def _sized(size: str, **arguments: Any) -> Callable[..., VisionTransformer]:
    embed, heads = _SIZES[size]
    return partial(VisionTransformer, embed=embed, heads=heads, **arguments)


MODELS: dict[str, Callable[..., VisionTransformer]] = {
    **{f"vit_{size}_patch16_224": _sized(size) for size in _SIZES},
    **{f"deit_{size}": _sized(size, drop_path=0.1) for size in _SIZES},
    **{f"deit_{size}_distilled": _sized(size, drop_path=0.1, distilled=True) for size in _SIZES},
}
