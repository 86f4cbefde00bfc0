"""Haiku functions as their authors write them, through `from_haiku`."""

# Haiku gives out more than it declares:
# pyright: reportAttributeAccessIssue=false, reportPrivateImportUsage=false

import haiku as hk
import jax
import jax.numpy as jnp
import pytest

from dms_jax import SearchSpace
from tests.networks.network import fill, images, relaxed, tokens, vectors
from tests.outsiders.outsider import hold

ROWS, WORDS, IMAGES = vectors(4, 6), vectors(3, 5, 6), images(4, 8)
relu = jax.nn.relu


def block(x, hidden):
    return x + hk.Linear(x.shape[-1])(jax.nn.gelu(hk.Linear(hidden)(hk.LayerNorm(-1, True, True)(x))))


def layers(x):
    """Layers of one stack, and one that is made again on the way back."""
    x = hk.experimental.layer_stack(3)(lambda x: block(x, 10))(hk.Linear(8)(x))
    return hk.Linear(3)(hk.remat(lambda x: block(x, 7))(x))


def recurrent(x):
    core = hk.deep_rnn_with_skip_connections([hk.LSTM(5), hk.GRU(4)])
    return hk.Linear(3)(hk.dynamic_unroll(core, x.swapaxes(0, 1), core.initial_state(3))[0].mean(0))


def attention(x):
    made = {"w_init": hk.initializers.VarianceScaling(), "model_size": 8}
    x = hk.Linear(8)(x)
    y = hk.LayerNorm(-1, True, True)(x)
    x = x + hk.MultiHeadAttention(2, 4, **made)(y, y, y, jnp.tril(jnp.ones((1, 1, 5, 5), bool)))
    y = hk.RMSNorm(-1)(x)
    return hk.Linear(3)((x + hk.MultiHeadAttention(4, 2, value_size=3, **made)(y, y, y)).mean(1))


def convolutions(x):
    x = relu(hk.GroupNorm(4)(hk.Conv2D(8, 3)(x)))
    x = relu(hk.SeparableDepthwiseConv2D(1, 3)(hk.DepthwiseConv2D(1, 3)(x)))
    x = relu(hk.Conv2D(12, 3, stride=2, feature_group_count=4)(x))
    x = relu(hk.InstanceNorm(True, True)(hk.Conv2DTranspose(6, 2, stride=2)(x)))
    return hk.nets.MLP([5, 3])(hk.max_pool(x, (1, 2, 2, 1), (1, 2, 2, 1), "SAME").mean((1, 2)))


def tied(x):
    embedding = hk.Embed(11, 8)
    return hk.Bias()(block(embedding(x), 9) @ embedding.embeddings.T)


PROGRAMS = {
    "layers": (
        layers,
        ROWS,
        {
            "linear": 8,
            "__layer_stack_no_per_layer/linear_1": 10,
            "linear_3": 7,
            "depth": 1,
            "__layer_stack_no_per_layer/depth": 3,
        },
    ),
    "recurrent": (recurrent, WORDS, {"lstm/linear/part0": 5, "gru/part0": 4}),
    "attention": (
        attention,
        WORDS,
        {"linear": 8, "multi_head_attention/heads": 2, "multi_head_attention_1/heads": 4, "depth": 2},
    ),
    "convolutions": (
        convolutions,
        IMAGES,
        {"conv2_d/part1": 2, "conv2_d_1/part1": 3, "conv2_d_transpose": 6, "mlp/~/linear_0": 5},
    ),
    "tied": (tied, tokens(2, 5, 11), {"linear": 8, "linear_1": 9, "depth": 1}),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_program(name):
    function, x, groups = PROGRAMS[name]
    transformed = hk.without_apply_rng(hk.transform(function))
    params = fill(relaxed(jax.eval_shape)(transformed.init, jax.random.key(0), x))
    hold(relaxed(SearchSpace.from_haiku)(transformed, params, x), params, (x,), groups)


def training(x, is_training=False, head=True):
    """Batch statistics and moving averages with what they are made of, dropout, power iterations."""
    x = relu(hk.BatchNorm(True, True, 0.9)(hk.Conv2D(6, 3, with_bias=False)(x), is_training)).mean((1, 2))
    x = hk.dropout(hk.next_rng_key(), 0.3, x) if is_training else x
    x = x - hk.ExponentialMovingAverage(0.9)(x.mean(0, keepdims=True), update_stats=is_training)
    w = hk.get_parameter("w", (6, 7), init=hk.initializers.RandomNormal())
    x = relu(x @ hk.SpectralNorm()(w, update_stats=is_training))
    out = hk.Linear(3)(x)
    return (out, hk.Linear(2, name="auxiliary")(x)) if is_training and head else out


@pytest.mark.parametrize("told", [{"is_training": False}, {}])
def test_training_that_the_space_was_not_told_of(told):
    """Without a keyword nobody knows how it is told that it trains; of moving averages it is known all the same."""
    transformed, head = hk.transform_with_state(training), bool(told)

    def init(key):
        return transformed.init(key, IMAGES, is_training=True, head=head)

    params, state = jax.eval_shape(init, jax.random.key(0))
    params = fill({"params": params, "state": state})
    params["state"] = jax.tree.map(lambda x: abs(x) + 1, params["state"])

    def train(params, x, key):
        given = params["params"], params["state"], key, x
        out, state = transformed.apply(*given, is_training=True, head=head)
        return out, {"state": state}

    space = relaxed(SearchSpace.from_haiku)(transformed, params, IMAGES, **told)
    hold(space, params, (IMAGES,), {"conv2_d": 6, "~": 7}, train)
