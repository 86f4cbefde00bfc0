"""Law 10: one network written in six frameworks has the same groups, costs and smaller networks."""

from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dms_jax
from dms_jax import SearchSpace
from tests.counting import random_structure
from tests.helpers import FLOAT32_LOGITS
from tests.laws.checking import close, least
from tests.networks.network import relaxed

X = np.random.default_rng(1).normal(size=(4, 6)).astype(np.float32)
EPSILON = 1e-3
DENSE = {"stem": (6, 8), "up0": (8, 12), "down0": (12, 8), "up1": (8, 10), "down1": (10, 8), "head": (8, 3)}
NORMS = ("norm0", "norm1", "last")
RNG = np.random.default_rng(0)
WEIGHTS = {
    **{f"{name}/kernel": RNG.normal(size=s) / np.sqrt(s[0]) for name, s in DENSE.items()},
    **{f"{name}/bias": 0.3 * RNG.normal(size=s[1]) for name, s in DENSE.items()},
    **{f"{name}/scale": RNG.uniform(0.5, 1.5, 8) for name in NORMS},
    **{f"{name}/bias": 0.3 * RNG.normal(size=8) for name in NORMS},
}
KINDS = {"w": "kernel", "b": "bias", "offset": "bias", "gamma": "scale", "beta": "bias"}


def forward(x: Any, layer: Callable[[str], Any], relu: Any = jax.nn.relu) -> Any:
    """The network, of layers by name."""
    x = relu(layer("stem")(x))
    for i in (0, 1):
        x = x + layer(f"down{i}")(relu(layer(f"up{i}")(layer(f"norm{i}")(x))))
    return layer("head")(layer("last")(x))


def plain() -> SearchSpace:
    def fn(params: Any, x: Any) -> Any:
        def layer(name: str) -> Any:
            p = params[name]
            if name in DENSE:
                return lambda x: x @ p["kernel"] + p["bias"][None]

            def norm(x: Any) -> Any:
                centred = x - jnp.mean(x, -1, keepdims=True)
                y = centred / jnp.sqrt(jnp.mean(centred**2, -1, keepdims=True) + EPSILON)
                return y * p["scale"][None] + p["bias"][None]

            return norm

        return forward(x, layer)

    shapes: dict[str, Any] = {}
    for path, array in WEIGHTS.items():
        name, kind = path.split("/")
        shapes.setdefault(name, {})[kind] = jax.ShapeDtypeStruct(array.shape, jnp.float32)
    return SearchSpace.from_function(fn, shapes, X)


def linen() -> SearchSpace:
    import flax.linen as nn

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            def layer(name):
                return nn.Dense(DENSE[name][1], name=name) if name in DENSE else nn.LayerNorm(EPSILON, name=name)

            return forward(x, layer)

    return SearchSpace.from_linen(Net(), jax.eval_shape(relaxed(Net().init), jax.random.key(0), X), X)


def nnx() -> SearchSpace:
    from flax import nnx

    class Net(nnx.Module):
        def __init__(self, rngs):
            for name, sizes in DENSE.items():
                setattr(self, name, nnx.Linear(*sizes, rngs=rngs))
            for name in NORMS:
                setattr(self, name, nnx.LayerNorm(8, epsilon=EPSILON, rngs=rngs))

        def __call__(self, x):
            return forward(x, lambda name: getattr(self, name))

    return SearchSpace.from_nnx(Net(nnx.Rngs(0)), X)


def equinox() -> SearchSpace:
    import equinox as eqx

    class Net(eqx.Module):
        stem: eqx.nn.Linear
        norm0: eqx.nn.LayerNorm
        up0: eqx.nn.Linear
        down0: eqx.nn.Linear
        norm1: eqx.nn.LayerNorm
        up1: eqx.nn.Linear
        down1: eqx.nn.Linear
        last: eqx.nn.LayerNorm
        head: eqx.nn.Linear

        def __init__(self, key):
            for name, sizes in DENSE.items():
                setattr(self, name, eqx.nn.Linear(*sizes, key=key))
            for name in NORMS:
                setattr(self, name, eqx.nn.LayerNorm(8, eps=EPSILON))

        def __call__(self, x):
            return forward(x, lambda name: getattr(self, name))

    return SearchSpace.from_equinox(Net(jax.random.key(0)), X)


def keras() -> SearchSpace:
    import keras

    def layer(name):
        layers = keras.layers
        if name in DENSE:
            return layers.Dense(DENSE[name][1], name=name)
        return layers.LayerNormalization(epsilon=EPSILON, name=name)

    with jax.numpy_rank_promotion("allow"):
        inputs = keras.Input((6,))
        return SearchSpace.from_keras(keras.Model(inputs, forward(inputs, layer, keras.ops.relu)), X)


def haiku() -> SearchSpace:
    import haiku as hk

    def net(x):
        def layer(name):
            return (
                hk.Linear(DENSE[name][1], name=name)
                if name in DENSE
                else hk.LayerNorm(-1, True, True, EPSILON, name=name)
            )

        return forward(x, layer)

    transformed = hk.without_apply_rng(hk.transform(net))
    with jax.numpy_rank_promotion("allow"):
        return SearchSpace.from_haiku(transformed, jax.eval_shape(transformed.init, jax.random.key(0), X), X)


FRAMEWORKS = {make.__name__: make for make in (plain, linen, nnx, equinox, keras, haiku)}


@cache
def made(name: str) -> tuple[SearchSpace, Any]:
    """The space and the parameters, the same numbers in all frameworks."""
    with jax.numpy_rank_promotion("allow"):
        space = FRAMEWORKS[name]()
    arrays = []
    for path, leaf in space.leaves.items():
        *_, module, kind = path.split("/")
        kind = KINDS.get(kind, kind)
        if kind == "weight":
            kind = "kernel" if module in DENSE else "scale"
        array = WEIGHTS[f"{module}/{kind}"].astype(np.float32)
        arrays.append(jnp.asarray(array.T if name == "equinox" else array))
        assert leaf.shape == arrays[-1].shape
    return space, space.parameters.tree(arrays)


def groups(space: SearchSpace) -> dict[str, tuple[int, str, int]]:
    return {name: (group.size, group.kind, group.least) for name, group in space.groups.items()}


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_the_same_network_in_every_framework(name):
    (space, params), (reference, reference_params) = made(name), made("plain")
    assert groups(space) == groups(reference)
    assert sorted(group.size for group in space.groups.values()) == [2, 8, 10, 12]
    for kept in ({}, *(random_structure(reference.groups, seed) for seed in (0, 1)), least(reference)):
        assert space.resources(kept) == reference.resources(kept)
        outs = []
        for one, its_params in ((space, params), (reference, reference_params)):
            small = one.parameters.arrays(dms_jax.shrink(one, its_params, kept))
            run = relaxed(one.shrunk(one.fn, kept))
            outs.append(jax.jit(lambda arrays, x, one=one, run=run: run(one.parameters.tree(arrays), x))(small, X))
        close(outs[0], outs[1], FLOAT32_LOGITS)
