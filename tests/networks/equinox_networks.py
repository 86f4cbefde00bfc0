"""Networks of Equinox modules, which take one example each: written here, and of equimo where it is installed."""

import importlib
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from dms_jax.adapters import equinox as adapter
from tests.networks.network import Network, from_source, images


class Block(eqx.Module):
    before_attention: eqx.nn.LayerNorm
    attention: eqx.nn.MultiheadAttention
    before_mlp: eqx.nn.LayerNorm
    mlp: eqx.nn.MLP
    dropout: eqx.nn.Dropout

    def __init__(self, width: int, heads: int, hidden: int, key: Any):
        first, second = jax.random.split(key)
        self.before_attention = eqx.nn.LayerNorm(width)
        self.attention = eqx.nn.MultiheadAttention(heads, width, use_output_bias=True, key=first)
        self.before_mlp = eqx.nn.LayerNorm(width)
        self.mlp = eqx.nn.MLP(width, width, hidden, 1, jax.nn.gelu, key=second)
        self.dropout = eqx.nn.Dropout(0.1)

    def __call__(self, x, *, key):
        first, second = (None, None) if key is None else jax.random.split(key)
        y = jax.vmap(self.before_attention)(x)
        x = x + self.dropout(self.attention(y, y, y), key=first)
        return x + self.dropout(jax.vmap(self.mlp)(jax.vmap(self.before_mlp)(x)), key=second)


class VisionTransformer(eqx.Module):
    patches: eqx.nn.Conv2d
    positions: jax.Array
    token: jax.Array
    blocks: list[Block]
    norm: eqx.nn.LayerNorm
    head: eqx.nn.Linear

    def __init__(self, width: int, heads: int, hidden: int, depth: int, key: Any):
        first, last, *rest = jax.random.split(key, depth + 2)
        self.patches = eqx.nn.Conv2d(3, width, 4, 4, key=first)
        self.positions = jnp.zeros((17, width))
        self.token = jnp.zeros((1, width))
        self.blocks = [Block(width, heads, hidden, one) for one in rest]
        self.norm = eqx.nn.LayerNorm(width)
        self.head = eqx.nn.Linear(width, 5, key=last)

    def __call__(self, x, *, key):
        x = self.patches(x)
        x = x.reshape(x.shape[0], -1).T
        x = jnp.concatenate([self.token, x]) + self.positions
        keys = [None] * len(self.blocks) if key is None else jax.random.split(key, len(self.blocks))
        for block, one in zip(self.blocks, keys, strict=True):
            x = block(x, key=one)
        return self.head(self.norm(x[0]))


class ConvNet(eqx.Module):
    first: eqx.nn.Conv2d
    norm: eqx.nn.GroupNorm
    second: eqx.nn.Conv2d
    pool: eqx.nn.MaxPool2d
    dropout: eqx.nn.Dropout
    head: eqx.nn.Linear

    def __init__(self, key: Any):
        first, second, last = jax.random.split(key, 3)
        self.first = eqx.nn.Conv2d(3, 12, 3, padding=1, key=first)
        self.norm = eqx.nn.GroupNorm(3, 12)
        self.second = eqx.nn.Conv2d(12, 8, 3, padding=1, key=second)
        self.pool = eqx.nn.MaxPool2d(2, 2)
        self.dropout = eqx.nn.Dropout(0.2)
        self.head = eqx.nn.Linear(8 * 4 * 4, 5, key=last)

    def __call__(self, x, *, key):
        x = self.pool(jax.nn.relu(self.norm(self.first(x))))
        x = self.pool(jax.nn.relu(self.second(x)))
        return self.head(self.dropout(jnp.ravel(x), key=key))


def vit() -> Network:
    return _build("vit", lambda key: VisionTransformer(16, 4, 24, 2, key), images(2, 16, first=True))


def cnn() -> Network:
    return _build("cnn", ConvNet, images(2, 16, first=True))


def equimo_vit() -> Network:
    sizes = dict(
        img_size=16, in_channels=3, dim=16, patch_size=4, num_heads=4, depths=[2], mlp_ratio=1.5, num_classes=5
    )
    make = partial(_equimo("vit").VisionTransformer, **sizes, reg_tokens=0, drop_path_rate=0.1)
    return _build("equimo_vit", lambda key: make(key=key), images(2, 16, first=True))


def equimo_mobilenet_v3() -> Network:
    make = partial(_equimo("mobilenet").mobilenetv3_small, in_channels=3, num_classes=5)
    return _build("equimo_mobilenet_v3", lambda key: make(key=key), images(2, 32, first=True))


def _equimo(module: str) -> Any:
    """Import one of equimo's modules; equimo may be missing."""
    return importlib.import_module(f"equimo.models.{module}")


def _build(name: str, make: Any, x: Any) -> Network:
    module = eqx.filter_eval_shape(make, jax.random.key(0))

    def train(params: Any, x: Any, key: Any) -> Any:
        keys = jax.random.split(key, x.shape[0])
        return jax.vmap(lambda one, key: params(one, key=key))(x, keys), {}

    return from_source(f"equinox_{name}", "equinox", adapter.source(module, x), (x,), train, out_axis=0)
