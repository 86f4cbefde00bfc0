"""Linen modules as their authors write them, through `from_linen`."""

# Linen's `apply` and `init` are typed as values or tuples:
# pyright: reportArgumentType=false, reportCallIssue=false, reportIndexIssue=false

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from dms_jax import SearchSpace
from tests.networks.network import fill, images, relaxed, tokens, vectors
from tests.outsiders.outsider import hold

ROWS, WORDS, IMAGES = vectors(4, 6), vectors(3, 5, 6), images(4, 8)


class Block(nn.Module):
    hidden: int = 10

    @nn.compact
    def __call__(self, x, _=None):
        x = x + nn.Dense(x.shape[-1])(nn.gelu(nn.Dense(self.hidden)(nn.LayerNorm()(x))))
        return x if _ is None else (x, None)


class Layers(nn.Module):
    """A scan over layers that are made again on the way back, and two more of them."""

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(8)(x)
        layer = nn.remat(Block, prevent_cse=False, policy=jax.checkpoint_policies.checkpoint_dots)
        axes: Any = {"variable_axes": {"params": 0}, "split_rngs": {"params": True}}
        x, _ = nn.scan(layer, length=3, in_axes=nn.broadcast, **axes)(name="layers")(x, 0)
        return nn.Dense(3)(nn.jit(Block)(7, name="last")(x))


class Ensemble(nn.Module):
    @nn.compact
    def __call__(self, x):
        several = nn.vmap(nn.Dense, variable_axes={"params": 0}, split_rngs={"params": True}, in_axes=None, axis_size=4)
        h = nn.relu(several(7, name="several")(x))
        return nn.Dense(3)(h.mean(0))


class Recurrent(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Bidirectional(nn.RNN(nn.OptimizedLSTMCell(5)), nn.RNN(nn.GRUCell(4)))(x)
        (_, h), _ = nn.RNN(nn.LSTMCell(6), return_carry=True, reverse=True)(x, seq_lengths=jnp.array([5, 3, 2]))
        return nn.Dense(3)(h)


class Attention(nn.Module):
    """The mask is made of the shape of a slice: nobody reads the slice."""

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(8)(x)
        mask = nn.make_causal_mask(x[..., 0])
        x = x + nn.MultiHeadDotProductAttention(2, qkv_features=12, deterministic=True)(nn.LayerNorm()(x), mask=mask)
        x = x + nn.MultiHeadAttention(2, normalize_qk=True, use_bias=False)(nn.RMSNorm()(x))
        return nn.Dense(3)(x.mean(1))


class Convolutions(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.GroupNorm(4)(nn.Conv(8, (3, 3), padding="CIRCULAR")(x)))
        x = nn.relu(nn.Conv(12, (3, 3), strides=2, feature_group_count=4)(x))
        x = nn.relu(nn.InstanceNorm()(nn.ConvTranspose(6, (2, 2), strides=(2, 2), transpose_kernel=True)(x)))
        x = nn.relu(nn.WeightNorm(nn.Conv(5, (3, 3)))(x))
        return nn.Dense(3)(nn.max_pool(x, (2, 2), strides=(2, 2)).mean((1, 2)))


class Tied(nn.Module):
    """An embedding that is read both ways, and one block in two places."""

    def setup(self):
        self.embedding, self.block, self.norm = nn.Embed(11, 8), Block(), nn.LayerNorm()

    def __call__(self, x):
        return self.embedding.attend(self.norm(self.block(nn.relu(self.block(self.embedding(x))))))


class General(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.DenseGeneral((3, 4))(x))
        x = nn.PReLU()(nn.DenseGeneral((2, 5), axis=(-2, -1))(x))
        x = nn.relu(nn.Einsum((2, 5, 7), "...ij,ijk->...k")(x))
        a, b = nn.Dense(6, name="a"), nn.Dense(6, name="b")
        if self.is_initializing():
            _ = a(x), b(x)
        chosen = nn.switch(jnp.int32(x.sum() > 0), [lambda m, x: a(x), lambda m, x: b(x)], self, x)
        return nn.Dense(3)(nn.relu(chosen))


class Standardized(nn.Module):
    """Kernels that are made of parameters, and boxes around them."""

    @nn.compact
    def __call__(self, x):
        def standardized(variables):
            return jax.tree.map(lambda w: (w - w.mean(0, keepdims=True)) / (w.std(0, keepdims=True) + 1e-3), variables)

        layer = nn.map_variables(nn.Dense, "params", standardized, init=True)
        made = nn.with_partitioning(nn.initializers.lecun_normal(), (None, "model"))
        x = nn.relu(nn.Dense(7, kernel_init=made, name="boxed")(nn.relu(layer(9, use_bias=False, name="mapped")(x))))
        self.sow("intermediates", "features", x)
        return nn.Dense(3)(x)


PROGRAMS: dict[str, tuple[nn.Module, Any, dict[str, int]]] = {
    "layers": (
        Layers(),
        ROWS,
        {"Dense_0": 8, "layers/Dense_1": 10, "last/Dense_1": 7, "last/depth": 1, "layers/depth": 3},
    ),
    "ensemble": (Ensemble(), ROWS, {"several": 7, "several#2": 4}),
    "recurrent": (Recurrent(), WORDS, {"OptimizedLSTMCell_0/hi": 5, "GRUCell_0/ir": 4, "LSTMCell_0/ii": 6}),
    "attention": (
        Attention(),
        WORDS,
        {"Dense_0": 8, "MultiHeadDotProductAttention_0/heads": 2, "MultiHeadAttention_0/heads": 2, "depth": 2},
    ),
    "convolutions": (Convolutions(), IMAGES, {"Conv_0/part1": 2, "Conv_1/part1": 3, "ConvTranspose_0": 6, "Conv_2": 5}),
    "tied": (Tied(), tokens(2, 5, 11), {"block/Dense_0": 8, "block/Dense_1": 10, "depth": 2}),
    "general": (
        General(),
        WORDS,
        {
            "DenseGeneral_0": 3,
            "DenseGeneral_0#2": 4,
            "DenseGeneral_1": 2,
            "DenseGeneral_1#2": 5,
            "Einsum_0": 7,
            "a": 6,
        },
    ),
    "standardized": (Standardized(), ROWS, {"mapped": 9, "boxed": 7}),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_program(name):
    model, x, groups = PROGRAMS[name]
    shapes = relaxed(jax.eval_shape)(model.init, jax.random.key(0), x)
    shapes.pop("intermediates", None)
    params = fill(shapes)
    hold(relaxed(SearchSpace.from_linen)(model, params, x), params, (x,), groups)


class Training(nn.Module):
    """Batch statistics, dropout, a vector that power iterations alone read, and a head for training alone."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(nn.Conv(6, (3, 3), use_bias=False)(x)))
        x = nn.Dropout(0.3, broadcast_dims=(1, 2))(x, deterministic=not train).mean((1, 2))
        x = nn.relu(nn.SpectralNorm(nn.Dense(7))(x, update_stats=train))
        out = nn.Dense(3, name="head")(x)
        return (out, nn.Dense(2, name="auxiliary")(x)) if train else out


def test_training_that_the_space_was_not_told_of():
    model, key = Training(), jax.random.key(0)
    params = fill(relaxed(jax.eval_shape)(lambda: model.init({"params": key, "dropout": key}, IMAGES, train=True)))

    def train(params, x, key):
        return model.apply(params, x, train=True, rngs={"dropout": key}, mutable=["batch_stats"])

    space = relaxed(SearchSpace.from_linen)(model, params, IMAGES)
    assert space.owners(space.leaves["auxiliary/kernel"].axes[0]) == ["Dense_0"]
    hold(space, params, (IMAGES,), {"Conv_0": 6, "Dense_0": 7}, train)
