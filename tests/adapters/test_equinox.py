"""Equinox modules as functions of themselves."""

# pyright: reportArgumentType=false

from collections.abc import Callable

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dms_jax.adapters import equinox as adapter
from dms_jax.errors import UserError
from tests.adapters.named import named

X = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)


class Net(eqx.Module):
    linear: eqx.nn.Linear
    drop: eqx.nn.Dropout
    table: np.ndarray
    act: Callable

    def __init__(self, key):
        self.linear = eqx.nn.Linear(3, 4, key=key)
        self.drop = eqx.nn.Dropout(0.5)
        self.table = np.arange(4.0, dtype=np.float32)
        self.act = jax.nn.relu

    def __call__(self, x, *, key):
        return self.drop(self.act(self.linear(x)), key=key) + self.table


class Splitting(Net):
    def __call__(self, x, key):
        return super().__call__(x, key=jax.random.split(key)[0])


class Normed(eqx.Module):
    norm: eqx.nn.BatchNorm
    value: jax.Array

    def __init__(self):
        self.norm = eqx.nn.BatchNorm(3, axis_name="batch", mode="batch")
        self.value = jnp.ones(3)

    def __call__(self, x, state):
        x, state = self.norm(x, state)
        return x * self.value, state


@pytest.mark.parametrize("kind", [Net, Splitting])
def test_the_function_is_the_call_in_inference_mode_over_a_batch(kind):
    module = kind(jax.random.key(0))
    source = adapter.source(module, X)
    still = eqx.nn.inference_mode(module)
    expected = jnp.stack([still(x, key=jax.random.key(3)) for x in X])
    chex.assert_trees_all_close(source.fn(source.params, X), expected, rtol=1e-6)
    assert source.params is module and not module.drop.inference and source.title == kind.__name__


def test_without_a_batch():
    module = Net(jax.random.key(0))
    source = adapter.source(module, X[0], batched=False)
    expected = eqx.nn.inference_mode(module)(X[0], key=None)
    chex.assert_trees_all_equal(source.fn(source.params, X[0]), expected)


def test_paths_and_trained_leaves():
    source = adapter.source(Net(jax.random.key(0)), X)
    trained = named(source, source.trainable)
    assert trained == {
        "linear/weight": True,
        "linear/bias": True,
        "drop/p": False,
        "drop/inference": False,
        "table": False,
        "act": False,
    }


def test_state_is_a_parameter_that_is_not_trained():
    module, state = eqx.nn.make_with_state(Normed)()
    source = adapter.source(module, X, state=state)
    trained = named(source, source.trainable)
    assert {path for path, yes in trained.items() if yes} == {"norm/weight", "norm/bias", "value"}
    assert {path for path in trained if path.startswith("state/")} == {"state/0", "state/1/0", "state/1/1"}
    still = eqx.nn.inference_mode(module)
    expected = jnp.stack([still(x, state)[0] for x in X])
    chex.assert_trees_all_close(source.fn((module, state), X), expected, rtol=1e-6)


@pytest.mark.parametrize("kind", [Net, Splitting])
def test_shapes_are_enough(kind):
    module = eqx.filter_eval_shape(kind, jax.random.key(0))
    source = adapter.source(module, jax.ShapeDtypeStruct((2, 3), jnp.float32))
    assert eqx.filter_eval_shape(source.fn, source.params, X).shape == (2, 4)
    assert source.trainable.linear.weight and source.trainable.linear.bias


def test_shapes_with_state_are_enough():
    module, state = eqx.filter_eval_shape(eqx.nn.make_with_state(Normed))
    source = adapter.source(module, X, state=state)
    assert eqx.filter_eval_shape(source.fn, source.params, X).shape == (2, 3)


def test_refusals():
    with pytest.raises(UserError, match="^Net is mapped over a batch, but an input is a scalar; add an axis, or"):
        adapter.source(Net(jax.random.key(0)), X[0, 0])
    with pytest.raises(UserError, match="^expected a callable equinox.Module, not _ModuleMeta; pass the module itself"):
        adapter.source(Net, X)
