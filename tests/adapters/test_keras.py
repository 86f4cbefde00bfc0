"""Keras models on the JAX backend as functions of their variables."""

import chex
import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest

from dms_jax.adapters import keras as adapter
from dms_jax.errors import UserError
from tests.adapters.named import named

X = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def model():
    keras.utils.clear_session()  # names are numbered through a process
    keras.utils.set_random_seed(0)
    inputs = keras.Input((3,))
    x = keras.layers.BatchNormalization(name="norm")(keras.layers.Dense(4, name="dense")(inputs))
    return keras.Model(inputs, keras.layers.Dropout(0.5, name="drop")(x))


def test_the_function_is_the_call_for_inference(model):
    source = adapter.source(model, X)
    before = [np.asarray(variable.value) for variable in model.variables]
    chex.assert_trees_all_close(source.fn(source.params, X), model(X, training=False), rtol=1e-6)
    chex.assert_trees_all_equal(before, [np.asarray(variable.value) for variable in model.variables])
    assert source.title == "Functional"


def test_a_loss_calls_the_model_with_the_same_parameters(model):
    params = adapter.source(model, X).params
    outputs, state = model.stateless_call(params["trainable"], params["non_trainable"], X, training=True)
    assert outputs.shape == (2, 4)
    assert [leaf.shape for leaf in state] == [leaf.shape for leaf in params["non_trainable"]]


def test_paths_and_trained_leaves(model):
    source = adapter.source(model, X)
    trained = named(source, source.trainable)
    assert {path for path, yes in trained.items() if yes} == {"dense/kernel", "dense/bias", "norm/gamma", "norm/beta"}
    others = {path for path, yes in trained.items() if not yes}
    assert others == {"norm/moving_mean", "norm/moving_variance", "seed_generator/seed_generator_state"}
    assert named(source, source.params)["dense/kernel"].shape == (3, 4)


def test_equal_paths_are_numbered():
    def tower():
        return keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="dense")])

    inputs = keras.Input((3,))
    model = keras.Model(inputs, keras.layers.add([tower()(inputs), tower()(inputs)]))
    paths = adapter.source(model, X).paths
    assert paths is not None and len(set(paths)) == len(paths) == 4


def test_shapes_are_enough(model):
    source = adapter.source(model, X)
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), source.params)
    assert jax.eval_shape(source.fn, shapes, jax.ShapeDtypeStruct((5, 3), jnp.float32)).shape == (5, 4)


class Own(keras.Model):
    """A subclass whose call knows no mode."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(2)

    def call(self, inputs):
        return self.dense(inputs)


def test_a_subclass_that_knows_no_mode():
    model = Own()
    expected = model(X)
    source = adapter.source(model, X)
    chex.assert_trees_all_close(source.fn(source.params, X), expected, rtol=1e-6)
    assert source.title == "Own"


def test_refusals(monkeypatch, model):
    with pytest.raises(UserError, match="^Own is not built; call it on an example"):
        adapter.source(Own(), X)
    own = Own()
    own(X)
    with pytest.raises(UserError, match="^Own does not take these arguments: "):
        adapter.source(own, X, size=3)
    with pytest.raises(UserError, match="^Sequential is not built"):
        adapter.source(keras.Sequential([keras.layers.Dense(2)]), X)
    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    with pytest.raises(UserError, match="^Keras runs on torch; set KERAS_BACKEND=jax before it is imported$"):
        adapter.source(model, X)
