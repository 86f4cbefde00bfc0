"""Linen modules as functions of their variables."""

# Linen's `apply` and `init` are typed as values or tuples:
# pyright: reportArgumentType=false, reportCallIssue=false, reportIndexIssue=false

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import freeze

from dms_jax.adapters import linen
from dms_jax.errors import UserError
from tests.adapters.named import named

X = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)


class Net(nn.Module):
    """A network that behaves differently in training."""

    @nn.compact
    def __call__(self, x, train: bool):
        x = nn.BatchNorm(use_running_average=not train)(nn.Dense(4)(x))
        return nn.Dropout(0.5, deterministic=not train)(x)

    @nn.compact
    def encode(self, x, deterministic):
        return nn.Dropout(0.5, deterministic=deterministic)(nn.Dense(2, name="encoder")(x))


class Boxed(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(4, kernel_init=nn.with_partitioning(nn.initializers.lecun_normal(), (None, "model")))(x)


@pytest.fixture(scope="module")
def variables():
    return Net().init(jax.random.key(0), X, train=False)


def test_the_function_is_apply_for_inference(variables):
    source = linen.source(Net(), variables, X)
    chex.assert_trees_all_equal(source.fn(source.params, X), Net().apply(variables, X, train=False))
    assert source.title == "Net"


def test_a_mode_that_was_given_stands(variables):
    source = linen.source(Net(), variables, X, True, rngs={"dropout": jax.random.key(1)})
    with pytest.raises(Exception, match="batch_stats"):  # Flax: training statistics cannot be written
        source.fn(source.params, X, True)


def test_paths_and_trained_leaves(variables):
    source = linen.source(Net(), variables, X)
    trained = named(source, source.trainable)
    assert trained == {
        "Dense_0/kernel": True,
        "Dense_0/bias": True,
        "BatchNorm_0/scale": True,
        "BatchNorm_0/bias": True,
        "batch_stats/BatchNorm_0/mean": False,
        "batch_stats/BatchNorm_0/var": False,
    }
    assert named(source, source.params)["Dense_0/kernel"].shape == (3, 4)


def test_frozen_variables_become_dictionaries(variables):
    source = linen.source(Net(), freeze(variables), X)
    chex.assert_trees_all_equal(source.params, variables)
    assert type(source.params) is type(source.params["params"]) is dict


def test_boxed_arrays_keep_their_boxes_and_short_paths():
    variables = Boxed().init(jax.random.key(0), X)
    source = linen.source(Boxed(), variables, X)
    assert isinstance(source.params["params"]["Dense_0"]["kernel"], nn.Partitioned)
    assert source.paths == ("Dense_0/bias", "Dense_0/kernel")
    assert jax.tree.leaves(source.trainable) == [True, True]
    chex.assert_trees_all_equal(source.fn(source.params, X), Boxed().apply(variables, X))


def test_another_method():
    variables = Net().init(jax.random.key(0), X, True, method=Net.encode)
    for method in ("encode", Net.encode):
        source = linen.source(Net(), variables, X, method=method)
        chex.assert_trees_all_equal(source.fn(source.params, X), Net().apply(variables, X, True, method=Net.encode))


def test_shapes_are_enough():
    shapes = jax.eval_shape(lambda key: Net().init(key, X, train=False), jax.random.key(0))
    source = linen.source(Net(), shapes, jax.ShapeDtypeStruct((2, 3), jnp.float32))
    assert jax.eval_shape(source.fn, source.params, X).shape == (2, 4)
    assert jax.tree.leaves(source.trainable).count(True) == 4


def test_refusals(variables):
    with pytest.raises(UserError, match=r'^no collection "params" in the variables of Net \(Dense_0, BatchNorm_0\)'):
        linen.source(Net(), {name: variables["params"][name] for name in ("Dense_0", "BatchNorm_0")}, X)
    with pytest.raises(UserError, match="^Net would return more than its outputs; leave out mutable$"):
        linen.source(Net(), variables, X, mutable=["batch_stats"])
    with pytest.raises(UserError, match="^Net does not take these arguments: "):
        linen.source(Net(), variables, X, size=3)
    with pytest.raises(UserError, match="^expected a flax.linen.Module, not method"):
        linen.source(Net().apply, variables, X)
