"""Networks of flax.nnx modules."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from dms_jax.adapters import nnx as adapter
from tests.networks.network import Network, from_source, images, relaxed


class Block(nnx.Module):
    """Attention and an MLP behind two different norms."""

    def __init__(self, width: int, heads: int, hidden: int, *, rngs: nnx.Rngs):
        self.before_attention = nnx.LayerNorm(width, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(heads, width, dropout_rate=0.1, decode=False, rngs=rngs)
        self.before_mlp = nnx.RMSNorm(width, rngs=rngs)
        self.up = nnx.Linear(width, hidden, rngs=rngs)
        self.down = nnx.Linear(hidden, width, rngs=rngs)
        self.dropout = nnx.Dropout(0.1, rngs=rngs)

    def __call__(self, x):
        x = x + self.dropout(self.attention(self.before_attention(x)))
        return x + self.dropout(self.down(nnx.gelu(self.up(self.before_mlp(x)))))


class VisionTransformer(nnx.Module):
    def __init__(self, width: int, heads: int, hidden: int, depth: int, *, rngs: nnx.Rngs):
        self.patches = nnx.Conv(3, width, (4, 4), strides=(4, 4), padding="VALID", rngs=rngs)
        self.norm = nnx.BatchNorm(width, momentum=0.9, rngs=rngs)
        self.token = nnx.Param(jnp.zeros((1, 1, width)))
        self.positions = nnx.Param(jnp.zeros((1, 17, width)))
        self.blocks = nnx.List([Block(width, heads, hidden, rngs=rngs) for _ in range(depth)])
        self.last = nnx.LayerNorm(width, rngs=rngs)
        self.head = nnx.Linear(width, 5, rngs=rngs)

    def __call__(self, x):
        x = self.norm(self.patches(x))
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        token = jnp.broadcast_to(self.token[...], (x.shape[0], 1, x.shape[-1]))
        x = jnp.concatenate([token, x], axis=1) + self.positions[...]
        for block in self.blocks:
            x = block(x)
        return self.head(self.last(x)[:, 0])


class ConvNet(nnx.Module):
    def __init__(self, *, rngs: nnx.Rngs):
        self.first = nnx.Conv(3, 8, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(8, momentum=0.9, rngs=rngs)
        self.depthwise = nnx.Conv(8, 8, (3, 3), feature_group_count=8, rngs=rngs)
        self.second = nnx.Conv(8, 12, (3, 3), strides=2, use_bias=False, rngs=rngs)
        self.groups = nnx.GroupNorm(12, num_groups=4, rngs=rngs)
        self.dropout = nnx.Dropout(0.2, rngs=rngs)
        self.head = nnx.Linear(4 * 4 * 12, 5, rngs=rngs)

    def __call__(self, x):
        x = nnx.avg_pool(nnx.relu(self.norm(self.first(x))), (2, 2), strides=(2, 2))
        x = nnx.silu(self.groups(self.second(nnx.relu(self.depthwise(x)))))
        return self.head(self.dropout(x.reshape(x.shape[0], -1)))


def vit() -> Network:
    return _build("vit", partial(VisionTransformer, 16, 4, 24, 2), images(4, 16))


def cnn() -> Network:
    return _build("cnn", ConvNet, images(4, 16))


def _build(name: str, make: Any, x: Any) -> Network:
    module = relaxed(nnx.eval_shape)(lambda: make(rngs=nnx.Rngs(0)))
    graphdef = nnx.graphdef(module)

    def train(params: Any, x: Any, key: Any) -> Any:
        network = nnx.merge(graphdef, jax.tree.map(lambda leaf: leaf, params))
        network.train()  # attention knows no mode until it is told one
        nnx.reseed(network, default=key)
        return network(x), nnx.state(network, nnx.BatchStat)

    return from_source(f"nnx_{name}", "nnx", adapter.source(module, x), (x,), train)
