"""A whole search where JAX promotes no dtype by itself, and where numbers are 64 bits wide."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dms_jax import Schedule, Search, SearchSpace, shrink
from dms_jax.baselines import strategies
from dms_jax.method.dms import DMS

STRATEGIES = {
    **{name: kind() for name, kind in strategies().items()},
    "on_target": DMS(on_target=True),
    "effects": DMS(on_target=True, effects=True),
}


def network(params, x):
    for block in params["blocks"]:
        x = x + jax.nn.relu(x @ block["up"] + block["bias"][None]) @ block["down"]
    x = jax.nn.gelu(x @ params["wide"])
    x = (x - jnp.mean(x, -1, keepdims=True)) * jax.lax.rsqrt(jnp.var(x, -1, keepdims=True) + jnp.asarray(0.1, x.dtype))
    return x @ params["out"]


def loss(params, batch, key):
    x, y = batch
    return jnp.mean(jnp.square(network(params, x) - y))


def searched(dtype, strategy):
    """A search from its start to the smaller network: nothing changes its dtype on the way, and it is what it says."""
    draw = np.random.default_rng(0)

    def drawn(*shape):
        return jnp.asarray(draw.normal(size=shape) / 3, dtype)

    blocks = [{"up": drawn(6, 8), "bias": drawn(8), "down": drawn(8, 6)} for _ in range(3)]
    params, x = {"blocks": blocks, "wide": drawn(6, 12), "out": drawn(12, 2)}, drawn(16, 6)
    space = SearchSpace.from_function(network, params, x)
    optimizer = optax.sgd(1e-2, momentum=0.9)  # Adam of optax promotes int32 by itself
    search = Search(
        space, loss, optimizer, {"macs": 0.4, "params": 0.6}, steps=Schedule(16, warmup=4), strategy=strategy
    )
    step: Any = jax.jit(search.step)
    state = search.init(params)
    before = jax.tree.map(lambda a: (a.shape, a.dtype), state)
    for _ in range(16):
        state, metrics = step(state, (x, x[:, :2]), jax.random.key(0))
    assert jax.tree.map(lambda a: (a.shape, a.dtype), state) == before
    assert all(v.dtype != np.float64 for name, v in metrics.items() if name != "loss")
    assert step._cache_size() == 1
    kept = search.structure(state)
    assert space.resources(kept)["macs"] <= 0.4 * space.resources()["macs"]
    assert space.verify(state.params, kept, x) < 1e-5
    assert {leaf.dtype for leaf in jax.tree.leaves(shrink(space, state.params, kept))} == {np.dtype(dtype)}


@pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES)
def test_nothing_relies_on_promotion(strategy):
    with jax.numpy_dtype_promotion("strict"):
        searched(jnp.bfloat16, strategy)


@pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES)
def test_64_bits_change_no_dtype_of_the_state(strategy):
    with jax.enable_x64(True):
        searched(jnp.float32, strategy)


@pytest.mark.parametrize("name", ["dms", "effects"])
def test_parameters_of_64_bits(name):
    with jax.enable_x64(True):
        searched(jnp.float64, STRATEGIES[name])


def test_parameters_of_32_bits_without_promotion():
    with jax.numpy_dtype_promotion("strict"):
        searched(jnp.float32, STRATEGIES["effects"])
