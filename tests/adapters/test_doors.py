"""Law 10: one network written in every framework has the same groups, costs and smaller network."""

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
from flax import nnx

import dms_jax
from dms_jax import SearchSpace
from tests.helpers import FLOAT32_ROUNDING

SIZES = {"stem": (5, 8), "up": (8, 12), "down": (12, 8), "head": (8, 3)}
X = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
DRAW = np.random.default_rng(1)
WEIGHTS = {name: DRAW.normal(size=shape).astype(np.float32) for name, shape in SIZES.items()}
BIASES = {name: DRAW.normal(size=shape[1]).astype(np.float32) for name, shape in SIZES.items()}


def network(layer, x):
    """A residual block between two layers; `layer(name, x)` is a dense layer."""
    x = layer("stem", x)
    x = x + layer("down", jax.nn.gelu(layer("up", x)))
    return layer("head", x)


def by_function():
    params = {name: {"kernel": WEIGHTS[name], "bias": BIASES[name]} for name in SIZES}
    return SearchSpace.from_function(
        lambda params, x: network(lambda name, x: x @ params[name]["kernel"] + params[name]["bias"], x), params, X
    )


def by_linen():
    class Network(nn.Module):
        @nn.compact
        def __call__(self, x):
            return network(lambda name, x: nn.Dense(SIZES[name][1], name=name)(x), x)

    return SearchSpace.from_linen(Network(), jax.eval_shape(Network().init, jax.random.key(0), X), X)


def by_nnx():
    class Network(nnx.Module):
        def __init__(self, rngs):
            for name, sizes in SIZES.items():
                setattr(self, name, nnx.Linear(*sizes, rngs=rngs))

        def __call__(self, x):
            return network(lambda name, x: getattr(self, name)(x), x)

    return SearchSpace.from_nnx(Network(nnx.Rngs(0)), X)


def by_equinox():
    class Network(eqx.Module):
        stem: eqx.nn.Linear
        up: eqx.nn.Linear
        down: eqx.nn.Linear
        head: eqx.nn.Linear

        def __call__(self, x):
            return network(lambda name, x: getattr(self, name)(x), x)

    key = jax.random.key(0)
    return SearchSpace.from_equinox(Network(*(eqx.nn.Linear(*sizes, key=key) for sizes in SIZES.values())), X)


def by_keras():
    layers = {name: keras.layers.Dense(sizes[1], name=name) for name, sizes in SIZES.items()}
    inputs = keras.Input((5,))
    x = layers["stem"](inputs)
    y = layers["up"](x)
    y = keras.layers.Activation(lambda y: keras.ops.gelu(y, approximate=True))(y)
    x = keras.layers.Add()([x, layers["down"](y)])
    return SearchSpace.from_keras(keras.Model(inputs, layers["head"](x)), X)


def by_haiku():
    transformed = hk.transform(lambda x: network(lambda name, x: hk.Linear(SIZES[name][1], name=name)(x), x))
    return SearchSpace.from_haiku(transformed, jax.eval_shape(transformed.init, jax.random.key(0), X), X)


DOORS = {"linen": by_linen, "nnx": by_nnx, "equinox": by_equinox, "keras": by_keras, "haiku": by_haiku}
GROUPS = {("width", 8, 1): (0, 3, 6), ("width", 12, 1): (1, 2, 5, 11), ("depth", 1, 0): (0,)}
"""(kind, size, least) -> what the smaller network keeps."""


def what(space):
    """All that must be the same: groups, costs of the full, the smaller and the smallest network, its outputs."""
    arrays = []
    for path, shape in zip(space.parameters.paths, space.parameters.shapes, strict=True):
        (name,) = set(SIZES) & set(path.split("/"))
        value = WEIGHTS[name] if len(shape.shape) == 2 else BIASES[name]
        arrays.append(jnp.asarray(value if value.shape == shape.shape else value.T))
    params = space.parameters.tree(arrays)
    groups = [(group.kind, group.size, group.least) for group in space.groups.values()]
    kept = {name: GROUPS[group] for name, group in zip(space.groups, groups, strict=True)}
    small = space.shrunk(space.fn, kept)(dms_jax.shrink(space, params, kept), X)
    return sorted(groups), [space.resources(), space.resources(kept), space.smallest], np.asarray(small)


@pytest.mark.parametrize("framework", DOORS)
def test_one_network(framework):
    groups, costs, outputs = what(DOORS[framework]())
    expected_groups, expected_costs, expected = what(by_function())
    assert groups == expected_groups == sorted(GROUPS)
    assert costs == expected_costs
    assert costs[1] == {"macs": 4 * (5 * 3 + 3 * 4 * 2 + 3 * 3), "params": 5 * 3 + 3 + 2 * 3 * 4 + 4 + 3 + 3 * 3 + 3}
    np.testing.assert_allclose(outputs, expected, atol=10 * FLOAT32_ROUNDING)
