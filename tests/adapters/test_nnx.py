"""NNX modules as functions of their state."""

# pyright: reportArgumentType=false, reportCallIssue=false

import chex
import jax
import numpy as np
import pytest
from flax import nnx

from dms_jax.adapters import nnx as adapter
from dms_jax.errors import UserError
from tests.adapters.named import named

X = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)


class Net(nnx.Module):
    def __init__(self, rngs):
        self.layers = nnx.List([nnx.Linear(3, 4, rngs=rngs), nnx.BatchNorm(4, rngs=rngs)])
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.value = nnx.Param(jax.random.normal(rngs.params(), (4,)))
        self.steps = nnx.Variable(jax.numpy.zeros((), int))

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.drop(x) + self.value[None]


class Growing(nnx.Module):
    def __init__(self):
        self.w = nnx.Param(jax.numpy.ones(3))

    def __call__(self, x):
        return x * self.w

    def eval(self, **attributes):
        self.more = nnx.Param(jax.numpy.ones(3))


class Counting(nnx.Module):
    """Adds the number of calls before this one."""

    def __init__(self):
        self.calls = nnx.Variable(jax.numpy.zeros(()))

    def __call__(self, x):
        before = self.calls[...]
        self.calls[...] = before + 1
        return x + before[None, None]


class Mute(nnx.Module): ...


def test_the_function_is_the_call_in_evaluation_mode():
    module = Net(nnx.Rngs(0))
    graphdef, before = nnx.split(module)
    source = adapter.source(module, X)
    outputs = source.fn(source.params, X)
    assert not module.drop.deterministic and nnx.graphdef(module) == graphdef
    chex.assert_trees_all_equal(nnx.state(module), before)
    module.eval()
    chex.assert_trees_all_equal(outputs, module(X))
    assert source.title == "Net"


def test_a_loss_merges_the_same_parameters_into_the_module_as_its_owner_made_it():
    module = Net(nnx.Rngs(0))
    source = adapter.source(module, X)
    graphdef = nnx.graphdef(module)
    network = nnx.merge(graphdef, source.params)
    assert not network.drop.deterministic
    chex.assert_trees_all_equal(network(X), module(X))


def test_variables_are_not_shared_with_the_module():
    module = Counting()
    source = adapter.source(module, X)
    for _ in range(2):
        chex.assert_trees_all_equal(source.fn(source.params, X), X)
    assert module(X)[0, 0] == X[0, 0]
    chex.assert_trees_all_equal(source.fn(source.params, X), X)


def test_paths_and_trained_leaves():
    source = adapter.source(Net(nnx.Rngs(0)), X)
    trained = named(source, source.trainable)
    assert trained == {
        "layers/0/kernel": True,
        "layers/0/bias": True,
        "layers/1/scale": True,
        "layers/1/bias": True,
        "layers/1/mean": False,
        "layers/1/var": False,
        "drop/rngs/key": False,
        "drop/rngs/count": False,
        "value": True,
        "steps": False,
    }
    assert named(source, source.params)["layers/0/kernel"].shape == (3, 4)


def test_shapes_are_enough():
    source = adapter.source(nnx.eval_shape(lambda: Net(nnx.Rngs(0))), X)
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(source.params))
    assert jax.eval_shape(source.fn, source.params, X).shape == (2, 4)
    assert jax.tree.leaves(source.trainable).count(True) == 5


def test_keywords():
    layer = nnx.MultiHeadAttention(2, 4, decode=False, dropout_rate=0.5, rngs=nnx.Rngs(0))
    x = np.ones((1, 3, 4), np.float32)
    source = adapter.source(layer, x)
    chex.assert_trees_all_equal(source.fn(source.params, x), layer(x, deterministic=True))


def test_refusals():
    with pytest.raises(UserError, match=r"^Growing.eval\(\) adds or removes variables"):
        adapter.source(Growing(), X)
    with pytest.raises(UserError, match="^Mute has no __call__"):
        adapter.source(Mute(), X)
    with pytest.raises(UserError, match="^Net does not take these arguments"):
        adapter.source(Net(nnx.Rngs(0)), X, X)
    with pytest.raises(UserError, match="^expected a flax.nnx.Module, not State"):
        adapter.source(nnx.state(Net(nnx.Rngs(0))), X)
