"""Operations of real networks, each in a tiny model: masked == shrunk, costs == an independent count."""

# Linen's `apply` gives a value or a tuple, options come as dictionaries, and some arguments are wrong on purpose:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportIndexIssue=false, reportOptionalSubscript=false

from functools import partial
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dms_jax
from dms_jax import Searchable, SearchSpace, layers
from tests.counting import random_variables
from tests.helpers import FLOAT32_LOGITS
from tests.traced import Model, check

HERE = Path(__file__).name


def elementwise(x):
    y = jnp.tanh(x) * jax.nn.sigmoid(x) + jnp.exp(-jnp.square(x)) - jnp.where(x > 0, x, 0.1 * x)
    return jnp.clip(jnp.abs(y) ** 1.5, 0.0, 3.0) + jnp.maximum(x, 0) / 2 - jax.lax.rsqrt(1 + x**2) + jnp.sign(x)


ACTIVATIONS = {
    "many": elementwise,
    "gelu": nn.gelu,
    "gelu_erf": partial(nn.gelu, approximate=False),
    "silu": nn.silu,
    "relu6": nn.relu6,  # custom_jvp
    "hard_swish": nn.hard_swish,
    "softplus": nn.softplus,
    "elu": nn.elu,
    "mish": jax.nn.mish,
    "bfloat16": lambda x: x.astype(jnp.bfloat16).astype(jnp.float32),
    "stop_gradient": jax.lax.stop_gradient,
    "barrier": jax.lax.optimization_barrier,
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_elementwise(name):
    class Activated(Model):
        def middle(self, x, group):
            return group(ACTIVATIONS[name](x))

    check(Activated(), 2, 5, seeds=(0,))


def test_broadcasting_of_axes_of_size_one():
    class Broadcasting(Model):
        def middle(self, x, group):
            scale = self.param("scale", nn.initializers.normal(), (1, 1, group.size))
            gate = jax.nn.sigmoid(nn.Dense(1, name="gate")(group(x)))  # [B, T, 1]
            pooled = jnp.sum(x, axis=1, keepdims=True)  # [B, 1, C]
            return group(x * scale * gate + pooled)

    check(Broadcasting(), 1, 4, 5)
    check(Broadcasting(), 2, 4, 5, seeds=(0,))
    check(Broadcasting(), 1, 1, 1, seeds=(0,))


def test_transpose_and_axis_argument():
    class Transposed(Model):
        def middle(self, x, group):
            return jnp.swapaxes(group(jnp.swapaxes(x, 1, 2), axis=1), 1, 2)

    check(Transposed(), 2, 4, 5)


def test_concatenation_of_two_groups_and_a_constant_part():
    class Dense2(Searchable):
        @nn.compact
        def __call__(self, x):
            a, b = self.elements("a", 4), self.elements("b", 3)
            ya = nn.Dense(a.size, name="a_in")(x)
            yb = nn.Dense(b.size, name="b_in")(x)
            y = jnp.concatenate([a(ya), x, b(yb), a(ya), x[..., :1]], axis=-1)
            return nn.Dense(4, name="out")(nn.relu(nn.Dense(y.shape[-1] * 0 + 3, name="mix")(y)))

    check(Dense2(), 2, 5)


def test_axes_cut_at_neighbouring_places():
    """(4 ++ 4) added to (5 ++ 3): the fifth feature is the last of one layer and the first of another."""

    class Cut(Searchable):
        @nn.compact
        def __call__(self, x):
            group = self.elements("all", 8)
            counts = [sum(a <= i < b for i in group.kept) for a, b in ((0, 4), (4, 8), (0, 5), (5, 8))]
            parts = [nn.Dense(n, name=f"part{k}")(x) if n > 1 else None for k, n in enumerate(counts)]
            y = jnp.concatenate(parts[:2], axis=-1) + jnp.concatenate(parts[2:], axis=-1)
            return nn.Dense(3, name="out")(group(y))

    space = SearchSpace.from_model(Cut(), jnp.ones((2, 5)))
    assert "all[0:4] ++ all[4:5]" in space.explain("part2/kernel")
    assert "all[4:5] ++ all[5:8]" in space.explain("part1/kernel")
    structure = space.structure({"all": (0, 2, 4, 5, 7)})
    x = jax.random.normal(jax.random.key(0), (2, 5))
    assert dms_jax.verify(space, random_variables(space), structure, x) < FLOAT32_LOGITS


def test_a_group_laid_together_of_parts():
    """DenseNet: one group for a concatenation of two layers' features."""

    class Dense2(Searchable):
        first: int = 3

        @nn.compact
        def __call__(self, x):
            group = self.elements("both", 7)
            left = sum(i < self.first for i in group.kept)
            parts = [n for n in (left, group.size - left)]
            y = [nn.Dense(n, name=f"part{i}")(x) for i, n in enumerate(parts) if n]
            return nn.Dense(3, name="out")(group(jnp.concatenate(y, axis=-1)))

    space = SearchSpace.from_model(Dense2(), jax.ShapeDtypeStruct((2, 5), jnp.float32))
    assert "both[0:3]" in space.explain("part0/kernel")
    assert "both[3:7]" in space.explain("part1/kernel")
    structure = space.structure({"both": (1, 2, 6)})
    x = jax.random.normal(jax.random.key(0), (2, 5))
    assert dms_jax.verify(space, random_variables(space), structure, x) < FLOAT32_LOGITS


def test_pad():
    class Padded(Model):
        def middle(self, x, group):
            y = jnp.pad(group(x), ((0, 0), (1, 2), (0, 0)))
            return jnp.pad(group(nn.relu(y)), ((0, 0), (0, 0), (2, 1)), constant_values=1.5)

    check(Padded(), 2, 4, 5)


def test_residual_with_padded_channels():
    """The shortcut without parameters of small ResNets: of the padding, too, go the positions of what is beside it."""

    class Shortcut(Searchable):
        @nn.compact
        def __call__(self, x):
            old, new = self.elements("old", 3), self.elements("new", 4)
            y = old(nn.Dense(old.size, name="in")(x))
            z = nn.Dense(old.size + new.size, name="mid")(y) + jnp.pad(y, ((0, 0), (0, new.size)))
            z = jnp.concatenate([old(z[..., : old.size]), new(z[..., old.size :])], axis=-1)
            return nn.Dense(2, name="out")(z)

    assert set(check(Shortcut(), 2, 5).groups) == {"old", "new"}


POOLS = {
    "max": lambda x: nn.max_pool(x, (2, 2), (2, 2)),
    "average": lambda x: nn.avg_pool(x, (3, 3), (1, 1), "SAME"),
    "average_valid": lambda x: nn.avg_pool(x, (3, 3), (1, 1), "SAME", count_include_pad=False),
    "mean": lambda x: jnp.mean(x, axis=(1, 2), keepdims=True),
    "maximum": lambda x: jnp.max(x, axis=(1, 2)),
    "sum_pool": lambda x: jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, 2, 2, 1), (1, 1, 1, 1), "VALID"),
    "variance": lambda x: jnp.var(x, axis=(1, 2)),
    "nearest": lambda x: jax.image.resize(x, (x.shape[0], 12, 12, x.shape[-1]), "nearest"),
    "bilinear": lambda x: jax.image.resize(x, (x.shape[0], 9, 9, x.shape[-1]), "bilinear"),
    "subsampled": lambda x: x[:, ::2, 1::2],
    "flipped": lambda x: x[:, ::-1],
    "rolled": lambda x: jnp.roll(x, 1, axis=1),
    "cumulative": lambda x: jnp.cumsum(x, axis=1) + jax.lax.cummax(x, axis=2),
    "softmax": lambda x: jax.nn.softmax(x, axis=1),
    "sorted": lambda x: jnp.sort(x, axis=1),
    "flat": lambda x: x.reshape(x.shape[0], -1, x.shape[-1]),
    "patches": lambda x: x.reshape(x.shape[0], 3, 2, 3, 2, x.shape[-1]).transpose(0, 1, 3, 2, 4, 5),
    "repeated": lambda x: jnp.repeat(jnp.tile(x, (1, 2, 1, 1)), 2, axis=2),
    "stacked": lambda x: sum(jnp.unstack(jnp.stack([x, 2 * x], axis=1), axis=1)),
    "picked": lambda x: x[:, 0, jnp.array([0, 2, 1])],
    "one": lambda x: x[:, 3, 2],
    "expanded": lambda x: jnp.expand_dims(x, 1).squeeze(1),
    "logsumexp": lambda x: jax.nn.logsumexp(x, axis=(1, 2)),
    "argmax": lambda x: x * (jnp.argmax(x, axis=1, keepdims=True) > 2),
    "top_k": lambda x: jnp.moveaxis(jax.lax.top_k(jnp.moveaxis(x, 1, -1), 2)[0], -1, 1),
}


@pytest.mark.parametrize("name", POOLS)
def test_operations_on_other_axes(name):
    """Pooling, reductions, sorting, indexing, reshapes of axes that no group owns."""

    class Pooled(Model):
        def middle(self, x, group):
            return group(POOLS[name](x))

    check(Pooled(), 2, 6, 6, 4, seeds=(0, 1))


REDUCTIONS = {
    "sum": lambda x: jnp.sum(x, axis=-1, keepdims=True),
    "sum_of_squares": lambda x: jnp.sum(jnp.square(x), axis=-1, keepdims=True),
    "norm": lambda x: jnp.sqrt(jnp.sum(x * x, axis=-1, keepdims=True) + 1.0),
    "cumsum": lambda x: jnp.cumsum(x, axis=-1),
    "reverse_cumsum": lambda x: jax.lax.cumsum(x, axis=x.ndim - 1, reverse=True),
    "gram": lambda x: jnp.einsum("btc,bsc->bts", x, x) @ x,
}


@pytest.mark.parametrize("name", REDUCTIONS)
def test_sums_over_a_masked_axis(name):
    """A dropped element is a zero: it adds nothing."""

    class Reduced(Model):
        def middle(self, x, group):
            x = group(x)
            y = REDUCTIONS[name](x)
            return group(x / (2.0 + jnp.abs(y))) if y.shape[-1] in (1, x.shape[-1]) else y

    check(Reduced(), 2, 4, 5)


def test_flatten_into_a_dense_layer():
    class Flat(Model):
        def middle(self, x, group):
            return group(x).reshape(x.shape[0], -1)

    space = check(Flat(), 2, 3, 3, 4)
    assert space.leaves["last/kernel"].shape == (54, 3)


def test_embedding():
    class Embedded(Searchable):
        tied: bool = False

        @nn.compact
        def __call__(self, tokens):
            width = self.elements("width", 6)
            table = nn.Embed(7, width.size, name="table")
            x = width(table(tokens) + nn.Embed(4, width.size, name="place")(jnp.arange(tokens.shape[1]))[None])
            x = layers.RMSNorm(name="norm")(x, width)
            return table.attend(x) if self.tied else nn.Dense(7, name="head")(x)

    check(Embedded(), 2, 4, dtype=np.int32)
    check(Embedded(tied=True), 2, 4, dtype=np.int32)


@pytest.mark.parametrize("norm", ["LayerNorm", "RMSNorm"])
def test_mask_aware_norms(norm):
    class Normed(Model):
        def middle(self, x, group):
            return getattr(layers, norm)(name="norm")(x, group)

    check(Normed(), 2, 4, 5)


def test_norms_over_other_axes():
    class Normed(Model):
        def middle(self, x, group):
            x = nn.BatchNorm(use_running_average=True, name="batch")(x)
            x = nn.LayerNorm(reduction_axes=(1, 2), feature_axes=-1, name="instance")(x)
            return group(nn.relu(x))

    check(Normed(), 2, 4, 4, 5)
