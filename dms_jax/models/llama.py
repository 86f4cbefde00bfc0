"""Llama (Touvron et al. 2023, arXiv 2302.13971) and its kin: Llama 1 to 3, Mistral, Qwen2 and Qwen3.

Groups: the layers, in every layer the key/value heads with their queries and the query heads within a key/value head
(the same ones in each), and the hidden features of the FFN; with `search_width` the residual width as well. A layer is
one removable block: h = x + m attention(x), y = h + m FFN(h). (Gating x + m (attention + FFN) instead would be the same
for m = 0 and 1, but such a gate cannot be folded: the attention's output is read again inside the block.)

What `jax.nn.dot_product_attention` has a fast kernel for runs on it; softmax and norms are float32 in any case.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dms_jax.elements import Elements, Searchable, is_portable
from dms_jax.errors import UserError
from dms_jax.layers import RMSNorm
from dms_jax.models import rotary


def _init(read: tuple[int, ...], scale: float = 1.0) -> Any:
    """Variance `scale` over the number of features read along the axes `read`."""

    def draw(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        written = tuple(i for i in range(len(shape)) if i not in read)
        return nn.initializers.variance_scaling(scale, "fan_in", "normal", read, written)(key, shape, dtype)

    return draw


class Attention(Searchable):
    """Causal attention of H = KV x G heads, the G queries of a key/value head side by side.

    `__call__(x: [B, T, D], cos, sin: [T, hd/2]) -> [B, T, D]`. Kernels: query `[D, KV, G, hd]`, key and value
    `[D, KV, hd]`, output `[KV, G, hd, D]`.
    """

    kv_heads: int
    queries: int
    head_dim: int
    window: int | None
    bias: bool
    output_bias: bool
    norm_epsilon: float | None
    output_scale: float
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
        kv, query = self._heads("heads", self.kv_heads), self._heads("queries", self.queries)
        heads, queries = kv.size if kv is not None else 1, query.size if query is not None else 1
        q = self._project(x, "query", (heads, queries, self.head_dim))
        k = self._project(x, "key", (heads, self.head_dim))
        v = self._project(x, "value", (heads, self.head_dim))
        if self.norm_epsilon is not None:
            q = RMSNorm(self.norm_epsilon, self.dtype, name="query_norm")(q)
            k = RMSNorm(self.norm_epsilon, self.dtype, name="key_norm")(k)
        y = _attend(rotary.rotate(q, cos, sin), rotary.rotate(k, cos, sin), v, self.window)
        y = y if kv is None else kv(y, axis=2)
        y = y if query is None else query(y, axis=3)
        shape = (heads, queries, self.head_dim, x.shape[-1])
        kernel = self.param("output", _init((0, 1, 2), self.output_scale), shape, jnp.float32)
        y = jnp.einsum("btkgh,kghd->btd", y, kernel.astype(self.dtype))
        return y + _bias(self, "output_bias", y.shape[2:]) if self.output_bias else y

    def _heads(self, name: str, size: int) -> Elements | None:
        return self.elements(name, size, kind="heads") if size > 1 else None  # one has to stay: nothing to search

    def _project(self, x: jax.Array, name: str, shape: tuple[int, ...]) -> jax.Array:
        kernel = self.param(name, _init((0,)), (x.shape[-1], *shape), jnp.float32)
        y = _matmul(x, kernel.astype(self.dtype))
        return y + _bias(self, f"{name}_bias", shape) if self.bias else y


class FeedForward(Searchable):
    """SwiGLU: (silu(x W_gate) * x W_up) W_down. `__call__(x: [B, T, D]) -> [B, T, D]`."""

    hidden: int
    bias: bool
    output_scale: float
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        hidden = self.elements("hidden", self.hidden)
        gate, up = (self._dense(x, name, hidden.size, 1.0) for name in ("gate", "up"))
        return self._dense(hidden(nn.silu(gate) * up), "down", x.shape[-1], self.output_scale)

    def _dense(self, x: jax.Array, name: str, features: int, scale: float) -> jax.Array:
        kernel = self.param(name, _init((0,), scale), (x.shape[-1], features), jnp.float32)
        y = _matmul(x, kernel.astype(self.dtype))
        return y + _bias(self, f"{name}_bias", (features,)) if self.bias else y


class Layer(Searchable):
    """Layer `number` of the depth group: h = x + m attention(norm(x)), then h + m FFN(norm(h)); `[B, T, D]`."""

    number: int
    attention: Mapping[str, Any]
    feed_forward: Mapping[str, Any]
    norm_epsilon: float
    dtype: Any

    @nn.compact
    def __call__(
        self, x: jax.Array, cos: jax.Array, sin: jax.Array, depth: Elements, width: Elements | None
    ) -> jax.Array:
        gate, norm = depth.gate(self.number, x.dtype), partial(RMSNorm, self.norm_epsilon, self.dtype)
        attend = Attention(**self.attention, dtype=self.dtype, name="attention")
        x = x + gate * attend(norm(name="attention_norm")(x, width), cos, sin)
        feed = FeedForward(**self.feed_forward, dtype=self.dtype, name="feed_forward")
        return x + gate * feed(norm(name="feed_forward_norm")(x, width))


class Llama(Searchable):
    """`__call__(tokens: [B, T] int32) -> logits [B, T, V]` float32; position t sees tokens 0 to t.

    Attributes:
      vocabulary: V.
      width: D, of the residual stream.
      layers: number of layers.
      heads, kv_heads: query heads, and key/value heads (None: as many); heads is a multiple of kv_heads.
      head_dim: features of a head; None for width / heads.
      hidden: features inside the FFN.
      rope_theta, rope_scaling: of `rotary.table`.
      max_positions: the longest text the weights were made for; only "dynamic" and "yarn" scaling compute with it.
      window: a token sees itself and the `window - 1` before it; None for all. Only in `window_layers`, if given.
      attention_bias: biases of query, key and value.
      output_bias: bias of the attention's output.
      feed_forward_bias: biases of the FFN.
      query_key_norm: RMSNorm over every head's queries and keys.
      tied: the embedding is the last layer's kernel too.
      search_width: the residual width is a group.
      remat: compute every layer again in the backward pass instead of keeping its activations.
      dtype: of computation ("bfloat16", jnp.float32, ...); parameters are made in float32.
    """

    vocabulary: int
    width: int
    layers: int
    heads: int
    hidden: int
    kv_heads: int | None = None
    head_dim: int | None = None
    rope_theta: float = 10000.0
    rope_scaling: Mapping[str, Any] | None = None
    max_positions: int = 2048
    norm_epsilon: float = 1e-5
    window: int | None = None
    window_layers: tuple[int, ...] | None = None
    attention_bias: bool = False
    output_bias: bool = False
    feed_forward_bias: bool = False
    query_key_norm: bool = False
    tied: bool = False
    search_width: bool = False
    remat: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        width = self.elements("width", self.width) if self.search_width else None
        size = width.size if width is not None else self.width
        embed = nn.initializers.normal(self.width**-0.5 if self.tied else 1.0)
        embedding = self.param("embedding", embed, (self.vocabulary, size), jnp.float32)
        x = jnp.take(embedding, tokens, axis=0).astype(self.dtype)
        turn = rotary.table(tokens.shape[1], self._head_dim, self.rope_theta, self.rope_scaling, self.max_positions)
        depth = self.elements("depth", self.layers)
        for i in depth.kept:
            x = self._layer(i)(x, *turn, depth, width)
        x = RMSNorm(self.norm_epsilon, self.dtype, name="norm")(x, width)
        if self.tied:
            return _logits("btd,vd->btv", x, embedding)
        return _logits("btd,dv->btv", x, self.param("head", _init((0,)), (size, self.vocabulary), jnp.float32))

    @property
    def _head_dim(self) -> int:
        return self.head_dim or self.width // self.heads

    def _layer(self, i: int) -> Layer:
        kv_heads, scale = self.kv_heads or self.heads, 0.5 / self.layers  # 2 L sums into the residual stream
        if self.heads % kv_heads:
            raise UserError(
                f"{self.heads} heads cannot be shared out among {kv_heads} key/value heads; take a multiple"
            )
        attention = {
            "kv_heads": kv_heads,
            "queries": self.heads // kv_heads,
            "head_dim": self._head_dim,
            "window": self.window if self.window_layers is None or i in self.window_layers else None,
            "bias": self.attention_bias,
            "output_bias": self.output_bias,
            "norm_epsilon": self.norm_epsilon if self.query_key_norm else None,
            "output_scale": scale,
        }
        feed_forward = {"hidden": self.hidden, "bias": self.feed_forward_bias, "output_scale": scale}
        make = nn.remat(Layer) if self.remat else Layer
        return make(i, attention, feed_forward, self.norm_epsilon, self.dtype, name=f"layer{i}")


def _bias(module: nn.Module, name: str, shape: tuple[int, ...]) -> jax.Array:
    bias = module.param(name, nn.initializers.zeros, shape, jnp.float32)
    return bias.astype(module.dtype).reshape(1, 1, *shape)  # type: ignore[attr-defined]


def _matmul(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """x `[..., D]` times kernel `[D, ...]`.

    The product has one axis of rows: XLA's CPU backend copies both factors of a kernel's gradient, and computes again
    what made them, where the sum runs over two. A training step takes a fifth less time.
    """
    y = jnp.tensordot(x.reshape(-1, x.shape[-1]), kernel, 1)
    return y.reshape(*x.shape[:-1], *kernel.shape[1:])


def _logits(equation: str, x: jax.Array, kernel: jax.Array) -> jax.Array:
    return jnp.einsum(equation, x, kernel.astype(x.dtype), preferred_element_type=jnp.float32)


def _attend(q: jax.Array, k: jax.Array, v: jax.Array, window: int | None) -> jax.Array:
    """Causal attention: q `[B, T, KV, G, hd]`, k and v `[B, T, KV, hd]` -> `[B, T, KV, G, hd]`."""
    merged = q.reshape(*q.shape[:2], q.shape[2] * q.shape[3], q.shape[4])
    local = None if window is None or window >= q.shape[1] else (window - 1, 0)
    kernel = "cudnn" if _has_fast_kernel(q) and not is_portable() else "xla"
    y = jax.nn.dot_product_attention(merged, k, v, is_causal=True, local_window_size=local, implementation=kernel)
    return y.reshape(q.shape)


def _has_fast_kernel(q: jax.Array) -> bool:
    """Whether cuDNN's flash attention takes such queries: half precision, a GPU since Ampere, a head it knows."""
    if jax.default_backend() != "gpu" or q.dtype not in (jnp.bfloat16, jnp.float16):
        return False
    try:
        capability = float(getattr(jax.devices()[0], "compute_capability", 0.0))
    except ValueError:  # AMD's are names
        return False
    return capability >= 8.0 and q.shape[-1] % 8 == 0 and q.shape[-1] <= (256 if capability >= 9.0 else 128)


MODELS: dict[str, Callable[..., Llama]] = {
    "llama": Llama,
    "llama_bytes": partial(
        Llama, vocabulary=256, width=192, layers=6, heads=6, kv_heads=3, hidden=512, max_positions=1024
    ),
}
