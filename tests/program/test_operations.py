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
from dms_jax import Searchable, SearchSpace, TracingError, layers
from tests.counting import random_variables
from tests.helpers import FLOAT32_LOGITS
from tests.traced import Model, check

HERE = Path(__file__).name


def test_dense():
    space = check(Model(), 2, 5)
    assert {name: group.size for name, group in space.groups.items()} == {"width": 6}
    assert "width: dot_general at" in space.explain("last/kernel")


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


CONVOLUTIONS = {
    "plain": dict(kernel_size=(3, 3)),
    "valid": dict(kernel_size=(3, 3), padding="VALID"),
    "strided": dict(kernel_size=(3, 3), strides=2, padding=((1, 1), (1, 1))),
    "dilated": dict(kernel_size=(3, 3), kernel_dilation=2),
    "circular": dict(kernel_size=(3, 3), padding="CIRCULAR"),
    "one": dict(kernel_size=(1, 1), use_bias=False),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolution(name):
    class Convolved(Model):
        def middle(self, x, group):
            out = self.elements("out", 5)
            return out(nn.relu(nn.Conv(out.size, name="conv", **CONVOLUTIONS[name])(group(x))))

    check(Convolved(), 2, 6, 6, 4)


def test_convolution_in_one_and_three_dimensions():
    class Convolved(Model):
        rank: int = 1

        def middle(self, x, group):
            return nn.Conv(4, (3,) * self.rank, name="conv")(group(x))

    check(Convolved(), 1, 6, 4, seeds=(0,))
    check(Convolved(rank=3), 1, 4, 4, 4, 2, seeds=(0,))


def test_depthwise_convolution_costs_n():
    class Depthwise(Model):
        def middle(self, x, group):
            n = group.size
            return group(nn.relu(nn.Conv(n, (3, 3), feature_group_count=n, name="depthwise")(x)))

    space = check(Depthwise(), 1, 6, 6, 4)
    one = space.resources({"width": (0,)})["macs"]
    assert one == 36 * (4 + 9 + 3)
    assert space.resources()["macs"] == 6 * one


def test_depthwise_convolution_with_multiplier():
    class Both(Model):
        def middle(self, x, group):
            n = group.size
            y = nn.Conv(2 * n, (3, 3), feature_group_count=n, use_bias=False, name="depthwise")(group(x))
            return nn.Dense(4, name="mix")(y)

    check(Both(), 1, 6, 6, 4)


def test_grouped_convolution_by_whole_groups():
    class Grouped(Searchable):
        @nn.compact
        def __call__(self, x):
            bundles = self.elements("bundles", 4)
            g = bundles.size
            y = nn.Conv(3 * g, (1, 1), name="first")(x)
            y = bundles(y.reshape(*y.shape[:-1], g, 3), axis=-2).reshape(y.shape)
            y = nn.Conv(5 * g, (3, 3), feature_group_count=g, name="grouped")(y)
            y = bundles(y.reshape(*y.shape[:-1], g, 5), axis=-2).reshape(y.shape)
            return nn.Dense(3, name="last")(jnp.sum(y, axis=(1, 2)))

    check(Grouped(), 1, 5, 5, 4)


def test_transposed_convolution():
    class Up(Model):
        strides: tuple[int, int] = (2, 2)

        def middle(self, x, group):
            out = self.elements("out", 5)
            return out(nn.ConvTranspose(out.size, (3, 3), self.strides, name="up")(group(x)))

    check(Up(), 1, 4, 4, 4)
    check(Up(strides=(1, 1)), 1, 4, 4, 4, seeds=(0,))


class Attention(Searchable):
    """Multi-head attention by einsum or DenseGeneral: heads, query/key and value dimensions."""

    general: bool = False

    @nn.compact
    def __call__(self, x):
        heads = self.elements("heads", 3, kind="heads")
        qk, v = self.elements("qk", 4), self.elements("v", 5)
        h = heads.size
        project = lambda n, name: nn.DenseGeneral((h, n), name=name)(x)  # noqa: E731
        q, k, value = project(qk.size, "query"), project(qk.size, "key"), project(v.size, "value")
        scores = jnp.einsum("bqhd,bkhd->bhqk", qk(q) / 2.0, k)
        weights = jax.nn.softmax(jnp.where(jnp.tril(jnp.ones(scores.shape[-2:], bool))[None, None], scores, -1e9))
        y = heads(v(jnp.einsum("bhqk,bkhd->bqhd", weights, value)), axis=-2)
        if self.general:
            return nn.DenseGeneral(6, axis=(-2, -1), name="out")(y)
        return nn.Dense(6, name="out")(y.reshape(*y.shape[:-2], h * v.size))


@pytest.mark.parametrize("general", [False, True])
def test_attention(general):
    space = check(Attention(general=general), 2, 4, 6)
    assert space.groups["heads"].sharpness == 12.0


def test_fused_query_key_value():
    class Fused(Searchable):
        @nn.compact
        def __call__(self, x):
            heads, dim = self.elements("heads", 3, kind="heads"), self.elements("dim", 4)
            h, d = heads.size, dim.size
            y = nn.Dense(3 * h * d, use_bias=False, name="qkv")(x).reshape(*x.shape[:-1], 3, h, d)
            q, k, v = (y[..., i, :, :] for i in range(3))
            w = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", dim(q), k))
            y = heads(dim(jnp.einsum("bhqk,bkhd->bqhd", w, v)), axis=2)
            return nn.Dense(6, name="out")(y.reshape(*y.shape[:-2], h * d))

    check(Fused(), 2, 4, 6)


def test_grouped_queries_and_rotary_pairs():
    class Grouped(Searchable):
        @nn.compact
        def __call__(self, x):
            heads, pairs = self.elements("heads", 2, kind="heads"), self.elements("pairs", 3)
            h, p, queries = heads.size, pairs.size, 2
            q = nn.DenseGeneral((h, queries, 2, p), name="q")(x)
            k = nn.DenseGeneral((h, 2, p), name="k")(x)
            angle = self.param("angle", nn.initializers.normal(), (p,))
            q, k = (self.rotate(t, angle) for t in (q, k))
            v = nn.DenseGeneral((h, 4), name="v")(x)
            w = jax.nn.softmax(jnp.einsum("bqhgcp,bkhcp->bhgqk", pairs(q), k))
            y = heads(jnp.einsum("bhgqk,bkhd->bqhgd", w, v), axis=2)
            return nn.Dense(5, name="out")(y.reshape(*y.shape[:2], -1))

        def rotate(self, t, angle):
            place = jnp.arange(t.shape[1], dtype=jnp.float32).reshape(1, -1, *(1,) * (t.ndim - 2))
            phase = place * angle.reshape((1,) * (t.ndim - 1) + (-1,))
            cos, sin = (jnp.squeeze(f(phase), -2) for f in (jnp.cos, jnp.sin))
            even, odd = t[..., 0, :], t[..., 1, :]
            return jnp.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-2)

    check(Grouped(), 2, 4, 6)


def test_swiglu_split_in_two_halves():
    class SwiGLU(Searchable):
        use_split: bool = True

        @nn.compact
        def __call__(self, x):
            hidden = self.elements("hidden", 5)
            y = nn.Dense(2 * hidden.size, name="both")(x)
            if self.use_split:
                gate, value = jnp.split(y, 2, axis=-1)
            else:
                gate, value = y[..., : hidden.size], y[..., hidden.size :]
            return nn.Dense(3, name="down")(hidden(nn.silu(gate) * value))

    for use_split in (True, False):
        space = check(SwiGLU(use_split=use_split), 2, 4)
        assert space.owners(space.leaves["both/kernel"].axes[1]) == ["hidden"]
        assert "hidden ++ hidden" in space.explain("both/kernel")


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
    """The shortcut without parameters of small ResNets: how much is padded is a number, so it stays."""

    class Shortcut(Searchable):
        @nn.compact
        def __call__(self, x):
            old, new = self.elements("old", 3), self.elements("new", 4)
            y = old(nn.Dense(old.size, name="in")(x))
            z = nn.Dense(old.size + new.size, name="mid")(y) + jnp.pad(y, ((0, 0), (0, new.size)))
            z = jnp.concatenate([old(z[..., : old.size]), new(z[..., old.size :])], axis=-1)
            return nn.Dense(2, name="out")(z)

    with pytest.raises(TracingError, match=f"group 'new'.* because of pad at .*{HERE}"):
        SearchSpace.from_model(Shortcut(), jnp.ones((2, 5)))


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
