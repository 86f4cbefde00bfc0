"""Products of real networks, each in a tiny model: masked == shrunk, costs == an independent count."""

# Linen's `apply` gives a value or a tuple, options come as dictionaries, and some arguments are wrong on purpose:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportIndexIssue=false, reportOptionalSubscript=false

from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from dms_jax import Searchable
from tests.traced import Model, check

HERE = Path(__file__).name


def test_dense():
    space = check(Model(), 2, 5)
    assert {name: group.size for name, group in space.groups.items()} == {"width": 6}
    assert "width: dot_general at" in space.explain("last/kernel")


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
