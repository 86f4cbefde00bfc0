"""States of optimizers for parameters as every framework has them: sliced to what the small network's would be."""

import itertools
from collections.abc import Callable
from functools import cache
from typing import Any

import chex
import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import keras
import optax
import optax.contrib
import pytest
from flax import nnx

import dms_jax
from dms_jax import SearchSpace, UserError
from tests.networks.network import fill, relaxed, vectors

X = vectors(4, 6)


def linen() -> tuple[SearchSpace, Any, Callable[[Any], Any]]:
    model = nn.Sequential([nn.Dense(140), nn.BatchNorm(use_running_average=True), nn.relu, nn.Dense(132), nn.Dense(3)])
    variables = fill(jax.eval_shape(model.init, jax.random.key(0), X))
    return SearchSpace.from_linen(model, variables, X), variables, lambda variables: variables["params"]


def of_nnx() -> tuple[SearchSpace, Any, Callable[[Any], Any]]:
    def layers(rngs: nnx.Rngs) -> list[Any]:
        first, second = nnx.Linear(6, 140, rngs=rngs), nnx.Linear(140, 132, rngs=rngs)
        return [first, nnx.BatchNorm(140, rngs=rngs), nnx.relu, second, nnx.Linear(132, 3, rngs=rngs)]

    model = nnx.Sequential(*layers(nnx.Rngs(0)))
    space = SearchSpace.from_nnx(model, X)
    return space, space.source.params, lambda params: nnx.filter_state(params, nnx.Param)


def equinox() -> tuple[SearchSpace, Any, Callable[[Any], Any]]:
    model = eqx.nn.MLP(6, 3, 140, 2, key=jax.random.key(0))
    return SearchSpace.from_equinox(model, X), model, lambda model: eqx.filter(model, eqx.is_inexact_array)


def haiku() -> tuple[SearchSpace, Any, Callable[[Any], Any]]:
    def net(x: Any, is_training: bool) -> Any:
        x = hk.BatchNorm(True, True, 0.9)(hk.Linear(140)(x), is_training)
        return hk.Linear(3)(hk.Linear(132)(jax.nn.relu(x)))

    transformed = hk.without_apply_rng(hk.transform_with_state(net))
    params, state = transformed.init(jax.random.key(0), X, is_training=True)
    both = {"params": params, "state": state}
    return SearchSpace.from_haiku(transformed, both, X, is_training=False), both, lambda both: both["params"]


def of_keras() -> tuple[SearchSpace, Any, Callable[[Any], Any]]:
    dense = keras.layers.Dense
    hidden = [dense(140), keras.layers.BatchNormalization(), keras.layers.ReLU(), dense(132), dense(3)]
    space = SearchSpace.from_keras(keras.Sequential([keras.Input((6,)), *hidden]), X)
    return space, space.source.params, lambda params: params["trainable"]


FRAMEWORKS = {"linen": linen, "nnx": of_nnx, "equinox": equinox, "haiku": haiku, "keras": of_keras}


def kernels(params: Any) -> Any:
    return jax.tree.map(lambda x: x.ndim > 1, params)


def named(params: Any) -> Any:
    return jax.tree.map(lambda x: "kernels" if x.ndim > 1 else "vectors", params)


ELEMENTWISE = {
    "adamw": optax.adamw(1e-3),
    "chain": optax.chain(optax.clip(1.0), optax.add_decayed_weights(1e-4), optax.trace(0.9), optax.scale(-0.1)),
    "masked": optax.masked(optax.adam(1e-3), kernels),
    "multi_transform": optax.multi_transform({"kernels": optax.adam(1e-3), "vectors": optax.sgd(1e-2, 0.9)}, named),
    "flatten": optax.flatten(optax.adam(1e-3)),
    "MultiSteps": optax.MultiSteps(optax.adam(1e-3), 3).gradient_transformation(),
    "schedule_free": optax.contrib.schedule_free_adamw(1e-3),
}
SHAPED = {
    "adafactor": optax.adafactor(1e-3),
    "adafactor of small arrays": optax.adafactor(1e-3, min_dim_size_to_factor=4, momentum=0.9),
    "sm3": optax.sm3(1e-3),
    "lbfgs": optax.scale_by_lbfgs(3),
}


@cache
def made(framework: str) -> tuple[Any, ...]:
    """The space, what is trained of the full network, a structure, and what is trained of the small one."""
    space, params, trained = relaxed(FRAMEWORKS[framework])()
    structure = {name: tuple(range(group.size - 2)) for name, group in space.groups.items()}
    return space, trained(params), structure, trained(dms_jax.shrink(space, params, structure))


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_after_a_step(framework, name):
    """What a step leaves behind, sliced, is what the same step leaves behind in the small network."""
    (space, params, structure, small), optimizer = made(framework), ELEMENTWISE[name]
    states = [optimizer.update(p, optimizer.init(p), p)[1] for p in (params, small)]
    chex.assert_trees_all_close(dms_jax.shrink(space, states[0], structure), states[1], rtol=1e-6)


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("name", SHAPED)
def test_of_other_shapes(framework, name):
    """What is kept for a row, a column or a history is sliced along its own axes."""
    (space, params, structure, small), optimizer = made(framework), SHAPED[name]
    found = dms_jax.shrink(space, optimizer.init(params), structure)
    chex.assert_trees_all_equal_shapes_and_dtypes(found, optimizer.init(small))


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_what_the_small_network_would_not_factor_is_started_anew(framework):
    """optax factors from 128 on: what it keeps for less has other shapes, and would be broadcast without a word."""
    space, params, _, _ = made(framework)
    half = {name: tuple(range(group.size // 2)) for name, group in space.groups.items()}
    with pytest.raises(UserError, match=r"start this optimizer anew, optimizer.init\(small"):
        dms_jax.shrink(space, optax.adafactor(1e-3).init(params), half)


@pytest.mark.parametrize("framework", sorted(set(FRAMEWORKS) - {"equinox"}))  # GaLore takes no None
def test_what_cannot_be_sliced_is_started_anew(framework):
    """In one line that says so."""
    space, params, structure, _ = made(framework)
    state = optax.contrib.galore(1e-3, rank=4).init(params)
    with pytest.raises(UserError, match=r"start an optimizer of such states anew, optimizer.init\(small"):
        dms_jax.shrink(space, state, structure)


SCHEDULED = optax.adafactor(optax.constant_schedule(1e-3))
ANEW = {
    "adafactor": (SCHEDULED, [0, 1]),
    "in parts of a batch": (optax.MultiSteps(SCHEDULED, 2).gradient_transformation(), [0, 0, 0, 0]),
    "galore": (optax.contrib.galore(1e-3, rank=4), [0, 0]),
    "galore after momentum": (optax.chain(optax.trace(0.9), optax.contrib.galore(1e-3, rank=4)), [0, 0]),
}
"""Optimizers, and what they count after a step where what cannot be sliced began anew."""


@pytest.mark.parametrize(("framework", "name"), list(itertools.product(FRAMEWORKS, ANEW)))
def test_what_cannot_be_sliced_begins_anew_with_its_count(framework, name):
    """Moments of zeros never stand beside a count of many steps; what can be sliced goes on."""
    if framework == "equinox" and "galore" in name:
        return  # GaLore takes no None
    (space, params, _, _), (optimizer, counts) = made(framework), ANEW[name]
    half = {name: tuple(range(group.size // 2)) for name, group in space.groups.items()}
    small = dms_jax.shrink(space, params, half)
    state, fresh = optimizer.update(params, optimizer.init(params), params)[1], optimizer.init(small)
    with pytest.warns(UserWarning, match="begins anew in the small network, its count too: ") as said:
        found = dms_jax.shrink(space, state, half, anew=fresh)
    assert len(said) == 1 and "`anew`" not in str(said[0].message)  # which was given
    chex.assert_trees_all_equal_shapes_and_dtypes(found, fresh)
    assert [int(x) for x in jax.tree.leaves(found) if x.shape == () and x.dtype == jnp.int32] == counts
    if "momentum" in name:
        chex.assert_trees_all_close(found[0], dms_jax.shrink(space, state[0], half))


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_inner_products_are_those_of_what_is_left(framework):
    """L-BFGS weighs a pair of differences by the inverse of their product, which the large network has another of."""
    (space, params, structure, _), optimizer = made(framework), optax.scale_by_lbfgs(3)
    state = optimizer.init(params)
    for scale in (1.0, 0.5, 0.3):
        params = jax.tree.map(lambda x, by=scale: x * by, params)
        state = optimizer.update(jax.tree.map(jnp.sin, params), state, params)[1]
    found = dms_jax.shrink(space, state, structure)
    steps, changes = (jax.tree.leaves(x) for x in (found.diff_params_memory, found.diff_updates_memory))
    for i, weight in enumerate(found.weights_memory):
        product = sum(float(jnp.vdot(s[i], y[i])) for s, y in zip(steps, changes, strict=True))
        assert float(weight) == (pytest.approx(1 / product, rel=1e-4) if product > 0 else 0)
    weights: Any = state
    assert float(jnp.max(found.weights_memory)) > float(jnp.max(weights.weights_memory)) > 0
    whole = {name: tuple(range(group.size)) for name, group in space.groups.items()}
    chex.assert_trees_all_equal(dms_jax.shrink(space, state, whole), state)


def test_a_state_that_can_be_sliced_goes_on_and_says_nothing():
    space, params, structure, small = made("linen")
    for optimizer in (ELEMENTWISE["adamw"], SHAPED["adafactor"]):
        state, fresh = optimizer.update(params, optimizer.init(params), params)[1], optimizer.init(small)
        found = dms_jax.shrink(space, state, structure, anew=fresh)
        chex.assert_trees_all_equal(found, dms_jax.shrink(space, state, structure))
    with pytest.raises(UserError, match="`anew` is another tree than what is shrunk; give what this one is"):
        dms_jax.shrink(space, state, structure, anew=optax.sgd(0.1).init(small))


@pytest.mark.parametrize("name", SHAPED)
def test_beside_a_scalar(name):
    """What is kept for its axes is kept in a list of none."""
    params = {"up": jnp.ones((4, 8)), "scale": jnp.ones(()), "down": jnp.ones((8, 3))}
    make = relaxed(SearchSpace.from_function)
    space = make(lambda p, x: p["scale"] * jnp.tanh(x @ p["up"]) @ p["down"], params, jnp.ones((2, 4)))
    structure, optimizer = {"up": (0, 2, 3, 6, 7)}, SHAPED[name]
    state = dms_jax.shrink(space, optimizer.init(params), structure)
    small = dms_jax.shrink(space, params, structure)
    chex.assert_trees_all_equal_shapes_and_dtypes(state, optimizer.init(small))


@pytest.mark.parametrize("both", [False, True])
def test_states_of_nnx_optimizers(both):
    """Trees of the same structure as a small optimizer's, whatever classes its nodes have."""

    class Block(nnx.Module):
        def __init__(self, hidden: int, rngs: nnx.Rngs):
            self.up, self.norm = nnx.Linear(6, hidden, rngs=rngs), nnx.BatchNorm(hidden, rngs=rngs)
            self.down = nnx.Linear(hidden, 6, rngs=rngs)

        def __call__(self, x: jax.Array) -> jax.Array:
            return x + self.down(nnx.relu(self.norm(self.up(x))))

    def make(hidden: int) -> tuple[Any, Any]:
        rngs = nnx.Rngs(0)
        model = nnx.Sequential(nnx.Linear(6, 6, rngs=rngs), Block(hidden, rngs), Block(7, rngs))
        return model, nnx.Optimizer(model, optax.adam(1e-3), wrt=nnx.Param)

    kept = {"layers/1/up": (0, 2, 3)}
    (model, optimizer), (small, small_optimizer) = relaxed(make)(6), relaxed(make)(3)
    space = relaxed(SearchSpace.from_nnx)(model, X)
    given, expected = ((model, optimizer), (small, small_optimizer)) if both else (optimizer, small_optimizer)
    found = dms_jax.shrink(space, nnx.state(given), kept)
    chex.assert_trees_all_equal_shapes_and_dtypes(found, nnx.state(expected))
    gone = dms_jax.shrink(space, nnx.state(given), {"layers/depth": (1,)})
    assert 0 < len(jax.tree.leaves(gone)) < len(jax.tree.leaves(found))


def test_states_of_a_chain_are_not_the_parameters_of_a_list():
    """Two parameters in a list or a tuple, two states in a chain, numbered alike."""
    for container in (list, tuple):
        params = container([jnp.ones((7, 7)), jnp.ones((7, 3))])
        space = SearchSpace.from_function(lambda p, x: jnp.tanh(x @ p[0]) @ p[1], params, jnp.ones((2, 7)))
        optimizer = optax.chain(optax.scale_by_adam(), optax.scale_by_schedule(lambda step: -0.1))
        structure = {next(iter(space.groups)): (0, 2, 3)}
        small = dms_jax.shrink(space, params, structure)
        states = [optimizer.update(p, optimizer.init(p), p)[1] for p in (params, small)]
        chex.assert_trees_all_close(dms_jax.shrink(space, states[0], structure), states[1], rtol=1e-6)
