"""Equinox modules as their authors write them, through `from_equinox`."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from equinox import nn

from dms_jax import SearchSpace
from tests.networks.network import fill, images, relaxed, tokens, vectors
from tests.outsiders.outsider import hold

ROWS, WORDS, IMAGES = vectors(4, 6), vectors(3, 5, 6), images(4, 8, first=True)
relu = jax.nn.relu


class Block(eqx.Module):
    norm: nn.LayerNorm
    up: nn.Linear
    down: nn.Linear

    def __init__(self, width, hidden, key):
        self.norm, self.up = nn.LayerNorm(width), nn.Linear(width, hidden, key=key)
        self.down = nn.Linear(hidden, width, key=key)

    def __call__(self, x):
        return x + self.down(jax.nn.gelu(self.up(self.norm(x))))


class Layers(eqx.Module):
    """A scan over layers that are made again on the way back, after an ensemble."""

    several: nn.MLP
    layers: Block
    head: nn.Linear

    def __init__(self, key):
        self.several = eqx.filter_vmap(lambda key: nn.MLP(6, 8, 9, 1, key=key))(jax.random.split(key, 4))
        self.layers = eqx.filter_vmap(lambda key: Block(8, 10, key))(jax.random.split(key, 3))
        self.head = nn.Linear(8, 3, key=key)

    def __call__(self, x):
        arrays, static = eqx.partition(self.layers, eqx.is_array)
        x = eqx.filter_vmap(lambda one: one(x))(self.several).mean(0)
        return self.head(jax.lax.scan(jax.checkpoint(lambda x, a: (eqx.combine(a, static)(x), None)), x, arrays)[0])


class Recurrent(eqx.Module):
    first: nn.LSTMCell
    second: nn.GRUCell
    head: nn.Linear

    def __init__(self, key):
        self.first, self.second = nn.LSTMCell(6, 5, key=key), nn.GRUCell(5, 4, key=key)
        self.head = nn.Linear(4, 3, key=key)

    def __call__(self, xs):
        def step(carry, x):
            (h, c), g = carry
            h, c = self.first(x, (h, c))
            return ((h, c), self.second(h, g)), None

        zero = jnp.zeros(5)
        return self.head(jax.lax.scan(step, ((zero, zero), jnp.zeros(4)), xs)[0][1])


class Attention(eqx.Module):
    stem: nn.Linear
    norm: nn.RMSNorm
    a: nn.MultiheadAttention
    b: nn.MultiheadAttention
    rotary: nn.RotaryPositionalEmbedding
    head: nn.Linear

    def __init__(self, key):
        self.stem, self.norm, self.head = nn.Linear(6, 8, key=key), nn.RMSNorm(8), nn.Linear(8, 3, key=key)
        self.a = nn.MultiheadAttention(2, 8, use_query_bias=True, key=key)
        self.b = nn.MultiheadAttention(4, 8, qk_size=4, vo_size=3, key=key)
        self.rotary = nn.RotaryPositionalEmbedding(4)

    def __call__(self, x):
        def rotated(q, k, v):
            return jax.vmap(self.rotary, 1, 1)(q), jax.vmap(self.rotary, 1, 1)(k), v

        x = jax.vmap(self.stem)(x)
        h = jax.vmap(self.norm)(x)
        x = x + self.a(h, h, h, mask=jnp.tril(jnp.ones((5, 5), bool)))
        h = jax.vmap(self.norm)(x)
        return self.head((x + self.b(h, h, h, process_heads=rotated)).mean(0))


def convolutions(key):
    act = nn.Lambda(relu)
    return nn.Sequential(
        [
            nn.Conv2d(3, 8, 3, padding="SAME", padding_mode="CIRCULAR", key=key),
            nn.GroupNorm(4, 8),
            act,
            nn.Conv2d(8, 12, 3, groups=4, stride=2, padding=1, key=key),
            nn.Lambda(nn.PReLU(0.1)),
            nn.ConvTranspose2d(12, 6, 2, stride=2, key=key),
            act,
            nn.WeightNorm(nn.Conv2d(6, 5, 1, key=key)),
            nn.MaxPool2d(2, 2),
            nn.AdaptiveAvgPool2d(1),
            nn.Lambda(jnp.ravel),
            nn.Linear(5, 3, key=key),
        ]
    )


class Tied(eqx.Module):
    """An embedding that is read both ways."""

    shared: nn.Shared

    def __init__(self, key):
        parts = nn.Embedding(11, 8, key=key), Block(8, 9, key), nn.Linear(8, 11, use_bias=False, key=key)
        self.shared = nn.Shared(parts, lambda parts: parts[2].weight, lambda parts: parts[0].weight)

    def __call__(self, x):
        embedding, block, out = self.shared()
        return jax.vmap(lambda x: out(block(embedding(x))))(x)


PROGRAMS: dict[str, tuple[Any, Any, dict[str, int]]] = {
    "layers": (
        Layers,
        ROWS,
        {
            "several/layers/heads": 4,
            "several/layers/0": 9,
            "several/layers/1": 8,
            "layers/up": 10,
            "layers/depth": 3,
        },
    ),
    "recurrent": (Recurrent, WORDS, {"first/part0": 5, "second/part0": 4}),
    "attention": (Attention, WORDS, {"stem": 8, "a/heads": 2, "b/heads": 4, "depth": 2}),
    "convolutions": (
        convolutions,
        IMAGES,
        {"layers/0/part1": 2, "layers/3/part1": 3, "layers/5": 6, "layers/7/layer": 5},
    ),
    "tied": (
        Tied,
        tokens(2, 5, 11),
        {"shared/pytree/1/down": 8, "shared/pytree/1/up": 9, "shared/pytree/1/depth": 1},
    ),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_program(name):
    make, x, groups = PROGRAMS[name]
    model = relaxed(make)(jax.random.key(0))
    space = relaxed(SearchSpace.from_equinox)(model, x)
    hold(space, fill(model, paths=space.source.paths, out_axis=0), (x,), groups)


class Training(eqx.Module):
    """Batch statistics, dropout, power iterations, and a head for training alone."""

    conv: nn.Conv2d
    norm: nn.BatchNorm
    drop: nn.Dropout
    up: nn.SpectralNorm
    head: nn.Linear
    auxiliary: nn.Linear
    inference: bool

    def __init__(self, key):
        self.conv, self.norm = nn.Conv2d(3, 6, 3, padding=1, key=key), nn.BatchNorm(6, "batch", mode="ema")
        self.drop, self.up = nn.Dropout(0.3), nn.SpectralNorm(nn.Linear(6, 7, key=key), "weight", key=key)
        self.head, self.auxiliary, self.inference = nn.Linear(7, 3, key=key), nn.Linear(7, 2, key=key), False

    def __call__(self, x, state, *, key=None):
        x, state = self.norm(self.conv(x), state)
        x, state = self.up(self.drop(relu(x), key=key).mean((1, 2)), state)
        return self.head(x) if self.inference else (self.head(x), self.auxiliary(x)), state


def test_training_that_the_space_was_not_told_of():
    model, state = eqx.nn.make_with_state(Training)(jax.random.key(0))
    space = relaxed(SearchSpace.from_equinox)(model, IMAGES, state=state)
    params, _ = fill((model, state), paths=space.source.paths, out_axis=0)

    def train(params, x, key):
        network, state = params
        run = jax.vmap(lambda x, key: network(x, state, key=key), axis_name="batch", out_axes=(0, None))
        return run(x, jax.random.split(key, len(x)))

    assert space.owners(space.leaves["auxiliary/weight"].axes[1]) == ["up/layer"]
    hold(space, (params, state), (IMAGES,), {"conv": 6, "up/layer": 7}, train)
