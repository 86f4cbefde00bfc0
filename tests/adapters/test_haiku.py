"""Transformed functions as functions of parameters, and of state."""

import chex
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dms_jax.adapters import haiku as adapter
from dms_jax.errors import UserError
from tests.adapters.named import named

X = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)


def plain(x, flip=False):
    x = hk.nets.MLP([5, 4])(x)
    return -x if flip else x


def normed(x, is_training=True):
    x = hk.Linear(4, name="first")(x)
    x = hk.BatchNorm(True, True, 0.9)(x, is_training)
    return hk.dropout(hk.next_rng_key(), 0.5, x) if is_training else x


@pytest.mark.parametrize("strip", [lambda transformed: transformed, hk.without_apply_rng])
def test_a_function_without_state(strip):
    transformed = strip(hk.transform(plain))
    params = transformed.init(jax.random.key(0), X)
    source = adapter.source(transformed, params, X, flip=True)
    expected = hk.transform(plain).apply(params, None, X, flip=True)
    chex.assert_trees_all_equal(source.fn(source.params, X), expected)
    assert source.paths == ("mlp/~/linear_0/b", "mlp/~/linear_0/w", "mlp/~/linear_1/b", "mlp/~/linear_1/w")
    assert jax.tree.leaves(source.trainable) == [True] * 4
    assert source.title == "mlp"


@pytest.mark.parametrize("strip", [lambda transformed: transformed, hk.without_apply_rng])
@pytest.mark.parametrize("pair", [True, False])
def test_a_function_with_state(strip, pair):
    if strip is hk.without_apply_rng:
        transformed = strip(hk.transform_with_state(lambda x, is_training=False: normed(x, is_training)))
    else:
        transformed = hk.transform_with_state(normed)
    params, state = hk.transform_with_state(normed).init(jax.random.key(0), X)
    given = (params, state) if pair else {"params": params, "state": state}
    source = adapter.source(transformed, given, X, is_training=False)
    expected, _ = hk.transform_with_state(normed).apply(params, state, None, X, is_training=False)
    chex.assert_trees_all_equal(source.fn(source.params, X), expected)
    trained = named(source, source.trainable)
    assert {path for path, yes in trained.items() if yes} == {
        "first/w", "first/b", "batch_norm/scale", "batch_norm/offset"
    }  # fmt: skip
    assert "state/batch_norm/~/mean_ema/average" in trained


def test_shapes_are_enough():
    transformed = hk.transform_with_state(normed)
    shapes = jax.eval_shape(transformed.init, jax.random.key(0), X)
    source = adapter.source(transformed, shapes, jax.ShapeDtypeStruct((2, 3), jnp.float32), is_training=False)
    assert jax.eval_shape(source.fn, source.params, X).shape == (2, 4)


def test_refusals():
    with pytest.raises(UserError, match=r"^expected a function transformed by haiku, not plain; pass haiku.transform"):
        adapter.source(plain, {}, X)
    with pytest.raises(UserError, match=r"^the pair \(params, state\) that init returned must come second, not dict$"):
        adapter.source(hk.transform_with_state(normed), {"first": {}}, X)
    with pytest.raises(UserError, match="^the parameters that init returned must come second, not tuple$"):
        adapter.source(hk.transform(plain), ({}, {}), X)
