"""Keras models as their authors write them, through `from_keras`."""

from typing import Any

import jax
import keras
import pytest
from keras import layers

from dms_jax import SearchSpace, UserError
from tests.networks.network import fill, images, relaxed, tokens, vectors
from tests.outsiders.outsider import hold

ROWS, WORDS, IMAGES = vectors(4, 6), vectors(3, 5, 6), images(4, 8)


def block(x, width, hidden, name):
    y = layers.Dense(hidden, "gelu", name=f"{name}_up")(layers.LayerNormalization(name=f"{name}_norm")(x))
    return layers.add([x, layers.Dense(width, name=f"{name}_down")(y)])


def towers(x):
    """One tower in two places, gates, and a sum of what they give."""
    y = tower = keras.Input((6,))
    tower = keras.Model(y, layers.Dense(5, "relu", name="b")(layers.Dense(8, "relu", name="a")(y)), name="tower")
    gate = layers.Dense(5, "sigmoid", name="gate")(x)
    y = layers.multiply([tower(x), gate])
    y = layers.average([y, tower(layers.Rescaling(0.5)(x))])
    return layers.Dense(3, name="head")(layers.concatenate([y, layers.PReLU(name="act")(layers.Dense(4, name="c")(x))]))


def recurrent(x):
    x = layers.Bidirectional(layers.LSTM(5, return_sequences=True, name="lstm"), name="both")(x)
    x = layers.GRU(4, return_sequences=True, name="gru")(x)
    return layers.Dense(3, name="head")(layers.SimpleRNN(6, go_backwards=True, name="simple")(x))


def attention(x):
    x = layers.Dense(8, name="stem")(x)
    y = layers.LayerNormalization(name="norm")(x)
    x = x + layers.MultiHeadAttention(2, 6, name="a")(y, y, use_causal_mask=True)
    x = x + layers.GroupQueryAttention(2, 4, 2, name="b")(layers.RMSNormalization(name="rms")(x), x)
    return layers.Dense(3, name="head")(layers.GlobalAveragePooling1D()(block(x, 8, 9, "mlp")))


def convolutions(x):
    x = layers.Conv2D(8, 3, padding="same", name="a")(x)
    x = layers.ReLU()(layers.GroupNormalization(4, name="norm")(x))
    x = layers.SeparableConv2D(6, 3, padding="same", activation="relu", name="b")(layers.ZeroPadding2D()(x))
    x = layers.DepthwiseConv2D(3, padding="same", name="c")(x)
    x = layers.Conv2DTranspose(5, 2, strides=2, activation="relu", name="d")(layers.MaxPooling2D()(x))
    return layers.Dense(3, name="head")(layers.GlobalMaxPooling2D()(layers.UpSampling2D()(x)))


def tied(x):
    """An embedding that is read both ways."""
    embedding = layers.ReversibleEmbedding(11, 8, name="embedding")
    x = layers.EinsumDense("btd,de->bte", (None, 8), name="einsum")(block(embedding(x), 8, 9, "block"))
    return embedding(layers.UnitNormalization()(x), reverse=True)


PROGRAMS: dict[str, tuple[Any, Any, dict[str, int]]] = {
    "towers": (towers, ROWS, {"a": 8, "b": 5, "c": 4}),
    "recurrent": (
        recurrent,
        WORDS,
        {
            "both/forward_lstm/lstm_cell/part0": 5,
            "both/backward_lstm/lstm_cell/part0": 5,
            "gru/gru_cell/part0": 4,
            "simple/simple_rnn_cell": 6,
        },
    ),
    "attention": (
        attention,
        WORDS,
        {"stem": 8, "a/heads": 2, "b/heads": 2, "b/query/heads": 2, "mlp_up": 9, "depth": 3},
    ),
    "convolutions": (convolutions, IMAGES, {"a/part1": 2, "b": 6, "d": 5}),
    "tied": (tied, tokens(2, 5, 11), {"block_down": 8, "block_up": 9, "depth": 1}),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_program(name):
    function, x, groups = PROGRAMS[name]
    keras.utils.set_random_seed(0)
    with jax.numpy_rank_promotion("allow"):
        inputs = keras.Input(x.shape[1:], dtype=str(x.dtype))
        model = keras.Model(inputs, function(inputs))
        space = SearchSpace.from_keras(model, x)
    hold(space, fill(space.source.params, paths=space.source.paths), (x,), groups)


def test_training_that_the_space_was_not_told_of():
    """Batch statistics, dropout, and a vector that power iterations alone read."""
    with jax.numpy_rank_promotion("allow"):
        inputs = keras.Input(IMAGES.shape[1:])
        x = layers.Conv2D(6, 3, use_bias=False, name="conv")(inputs)
        x = layers.Dropout(0.3)(layers.BatchNormalization(name="norm")(x))
        up = layers.SpectralNormalization(layers.Dense(7, "relu", name="up"), power_iterations=2, name="spectral")
        model = keras.Model(inputs, layers.Dense(3, name="head")(up(layers.GlobalAveragePooling2D()(x))))
        space = SearchSpace.from_keras(model, IMAGES)
    params = fill(space.source.params, paths=space.source.paths)
    vector = next(path for path in space.leaves if path.endswith("vector_u"))
    assert space.owners(space.leaves[vector].axes[1]) == ["spectral/up"]

    def train(params, x, key):
        arrays = params["trainable"], params["non_trainable"]
        out, *state = model.stateless_call(*arrays, x, training=True)
        return out, {"non_trainable": state[0]}

    hold(space, params, (IMAGES,), {"conv": 6, "spectral/up": 7}, train)


def test_a_refusal_names_the_layer():
    """Keras calls the layers of a functional model: no line of the user's file is on the way."""
    inputs = keras.Input((5,))
    x = layers.Reshape((6, 1))(layers.Dense(6, name="stem")(inputs))
    x = layers.Flatten()(layers.MaxPooling1D(2, name="over_channels")(x))
    model = keras.Model(inputs, layers.Dense(3, name="head")(x))
    with pytest.raises(UserError, match=r"stem: .* because of reduce_window_max in over_channels"):
        relaxed(SearchSpace.from_keras)(model, jax.ShapeDtypeStruct((2, 5), "float32"))
