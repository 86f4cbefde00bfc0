"""Operations of real networks, each in a tiny model: masked == shrunk, costs == an independent count, or an error."""

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
from tests.counting import multiply_adds, numbers, random_structure, random_variables, shapes
from tests.helpers import FLOAT32_LOGITS

HERE = Path(__file__).name


def check(model, *shape, seeds=(0,), dtype=np.float32):
    """Laws 1 and 2 for random structures, the smallest and the full one. Returns the space."""
    x = np.random.default_rng(0).normal(size=shape).astype(dtype)
    if dtype == np.int32:
        x = np.random.default_rng(0).integers(0, 7, shape).astype(dtype)
    space = SearchSpace.from_model(model, jax.ShapeDtypeStruct(x.shape, x.dtype))
    variables = random_variables(space)
    masked = jax.jit(model.apply)
    least = {name: tuple(range(group.size - group.least, group.size)) for name, group in space.groups.items()}
    for kept in (*(random_structure(space.groups, seed) for seed in seeds), least, {}):
        structure = space.structure(kept)
        small = model.clone(structure=structure)
        shrunk = dms_jax.shrink(space, variables, structure)
        made = jax.eval_shape(lambda key, small=small: small.init(key, x), jax.random.key(0))
        assert shapes(shrunk) == shapes({name: tree for name, tree in made.items() if name != "masks"})
        counted = {"macs": multiply_adds(small.apply, shrunk, x), "params": numbers(shrunk["params"])}
        assert space.resources(structure) == counted
        if kept:
            expected = masked({**variables, "masks": space.masks(structure)}, x)
            difference = jnp.max(jnp.abs(expected - jax.jit(small.apply)(shrunk, x)))
            assert difference < FLOAT32_LOGITS * max(1.0, float(jnp.max(jnp.abs(expected))))
    return space


class Model(Searchable):
    """Dense to 6 searched features, something with them, Dense to 3; subclasses say what."""

    size: int = 6

    def dense(self, x, features, name):
        return nn.Dense(features, name=name)(x)

    @nn.compact
    def __call__(self, x):
        group = self.elements("width", self.size)
        return self.dense(self.middle(self.dense(x, group.size, "first"), group), 3, "last")

    def middle(self, x, group):
        return group(x)


# --- what works -----------------------------------------------------------------------------------------------


def test_dense():
    space = check(Model(), 2, 5)
    assert {name: group.size for name, group in space.groups.items()} == {"width": 6}
    assert "width: dot_general at" in space.explain("params/last/kernel")


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
        assert space.owners(space.leaves[("params", "both", "kernel")].axes[1]) == ["hidden"]
        assert "hidden ++ hidden" in space.explain("params/both/kernel")


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
    assert "all[0:4] ++ all[4:5]" in space.explain("params/part2/kernel")
    assert "all[4:5] ++ all[5:8]" in space.explain("params/part1/kernel")
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
    assert "both[0:3]" in space.explain("params/part0/kernel")
    assert "both[3:7]" in space.explain("params/part1/kernel")
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
    assert space.leaves[("params", "last", "kernel")].shape == (54, 3)


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


class Residual(Searchable):
    """x + Dense(mid(relu(Dense(x))))."""

    features: int = 5

    @nn.compact
    def __call__(self, x):
        mid = self.elements("mid", self.features)
        y = nn.relu(nn.Dense(mid.size, name="up")(x))
        return nn.Dense(x.shape[-1], name="down")(mid(y))


class Deep(Searchable):
    """Gated residual blocks, perhaps wrapped."""

    wrap: str = "none"

    @nn.compact
    def __call__(self, x):
        block = {"none": Residual, "remat": nn.remat(Residual)}[self.wrap]
        depth = self.elements("depth", 3)
        for i in depth.kept:
            x = x + depth.gate(i) * block(name=f"block{i}")(x)
        return nn.Dense(2, name="head")(x)


@pytest.mark.parametrize("wrap", ["none", "remat"])
def test_depth_and_inherited_structures(wrap):
    space = check(Deep(wrap=wrap), 2, 4)
    assert space.groups["depth"].kind == "depth" and space.groups["depth"].least == 0
    assert list(space.groups) == ["depth", "block0/mid", "block1/mid", "block2/mid"]
    assert space.leaves[("params", "block1", "up", "kernel")].gates == {("depth", 1)}
    assert space.leaves[("params", "head", "kernel")].gates == frozenset()
    small = space.structure({"depth": (1,)})
    assert small.removed == {"block0/mid", "block2/mid"}
    assert "goes with the gates: depth[1]" in space.explain("params/block1/down/bias")


def test_one_block_alone():
    class Single(Searchable):
        @nn.compact
        def __call__(self, x):
            depth = self.elements("depth", 1)
            for i in depth.kept:
                x = x + depth.gate(i) * Residual(name=f"block{i}")(x)
            return nn.Dense(2, name="head")(x)

    space = check(Single(), 2, 4)
    assert space.groups["depth"].kind == "depth" and space.groups["depth"].sharpness == 8.0


def test_gates_inside_gates():
    class Inner(Searchable):
        @nn.compact
        def __call__(self, x):
            depth = self.elements("depth", 2)
            for i in depth.kept:
                x = x + depth.gate(i) * Residual(name=f"inner{i}")(x)
            return nn.Dense(x.shape[-1], name="mix")(x)

    class Outer(Searchable):
        @nn.compact
        def __call__(self, x):
            depth = self.elements("depth", 2)
            for i in depth.kept:
                x = x + depth.gate(i) * Inner(name=f"outer{i}")(x)
            return nn.Dense(2, name="head")(x)

    space = check(Outer(), 2, 4, seeds=range(5))
    leaf = space.leaves[("params", "outer1", "inner0", "up", "kernel")]
    assert leaf.gates == {("depth", 1), ("outer1/depth", 0)}
    assert space.leaves[("params", "outer1", "mix", "kernel")].gates == {("depth", 1)}


def test_a_parameter_used_outside_its_block_stays():
    class Shared(Searchable):
        @nn.compact
        def __call__(self, x):
            depth = self.elements("depth", 2)
            shared = nn.Dense(x.shape[-1], name="shared")
            y = shared(x)
            for i in depth.kept:
                y = y + depth.gate(i) * nn.Dense(x.shape[-1], name=f"own{i}")(shared(y))
            return y

    space = check(Shared(), 2, 4)
    assert space.leaves[("params", "shared", "kernel")].gates == frozenset()
    full, less = space.resources()["macs"], space.resources({"depth": (0,)})["macs"]
    assert full - less == 2 * 2 * 16  # the second use goes, the parameter does not


class Body(Searchable):
    """A scanned layer: groups are shared by all layers, so their masks are broadcast."""

    @nn.compact
    def __call__(self, x, _):
        mid = self.elements("mid", 5)
        y = nn.Dense(x.shape[-1], name="down")(mid(nn.relu(nn.Dense(mid.size, name="up")(x))))
        return x + y, None


@pytest.mark.parametrize("remat", [False, True])
def test_scan_over_layers(remat):
    class Scanned(Searchable):
        @nn.compact
        def __call__(self, x):
            width = self.elements("width", 4)
            x = nn.Dense(width.size, name="in")(x)
            body = nn.remat(Body, prevent_cse=False) if remat else Body
            stack = nn.scan(
                body, variable_axes={"params": 0}, variable_broadcast="masks", split_rngs={"params": True}, length=3
            )
            x, _ = stack(name="layers")(x, None)
            return nn.Dense(2, name="head")(width(x))

    # `width` is read by the scanned layers without its mask: shrinking it would change them, masking would not
    space = SearchSpace.from_model(Scanned(), jax.ShapeDtypeStruct((2, 6), jnp.float32))
    x = np.random.default_rng(0).normal(size=(2, 6)).astype(np.float32)
    structure = space.structure({"layers/mid": (0, 3)})
    assert dms_jax.verify(space, random_variables(space), structure, x) < FLOAT32_LOGITS
    small = space.model.clone(structure=structure)
    variables = dms_jax.shrink(space, random_variables(space), structure)
    assert space.resources(structure) == {
        "macs": multiply_adds(small.apply, variables, x),
        "params": numbers(variables["params"]),
    }
    assert space.leaves[("params", "layers", "up", "kernel")].shape == (3, 4, 5)


def test_scan_by_hand():
    class Recurrent(Searchable):
        @nn.compact
        def __call__(self, x):
            state = self.elements("state", 5)
            n = state.size
            w = self.param("w", nn.initializers.normal(), (n, n))
            u = self.param("u", nn.initializers.normal(), (x.shape[-1], n))

            def step(h, x_t):
                h = state(jnp.tanh(h @ w + x_t @ u))
                return h, h

            h, hs = jax.lax.scan(step, jnp.zeros((x.shape[0], n)), jnp.swapaxes(x, 0, 1))
            return nn.Dense(3, name="out")(h) + nn.Dense(3, name="mean")(jnp.mean(hs, axis=0))

    check(Recurrent(), 2, 4, 3)


def test_fixed_loops_count_every_turn():
    class Looped(Model):
        def middle(self, x, group):
            w = self.param("w", nn.initializers.normal(), (group.size, group.size))
            return jax.lax.fori_loop(0, 4, lambda _, y: group(jnp.tanh(y @ w)), group(x))

    space = check(Looped(), 1, 5)
    assert space.resources()["macs"] == 5 * 6 + 4 * 36 + 6 * 3


def test_while():
    class While(Model):
        def middle(self, x, group):
            return jax.lax.while_loop(lambda y: jnp.sum(jnp.square(y)) > 1.0, lambda y: y / 2, group(x))

    check(While(), 2, 5)


def test_cond():
    class Branching(Model):
        def middle(self, x, group):
            wide = self.param("wide", nn.initializers.normal(), (group.size, 8))
            thin = self.param("thin", nn.initializers.normal(), (group.size, 2))
            x = group(x)
            dear, cheap = (lambda x: jnp.sum(x @ wide, -1)), (lambda x: jnp.sum(x @ thin, -1))
            return x * jax.lax.cond(jnp.sum(x) > 0, dear, cheap, x)[:, None]

    space = check(Branching(), 2, 5)
    assert space.resources()["macs"] == 2 * (5 * 6 + 6 * 8 + 6 * 3)


def test_switch_ties_branches():
    class Switch(Model):
        def middle(self, x, group):
            other = self.param("other", nn.initializers.normal(), (group.size,))
            y = jax.lax.switch(
                jnp.argmax(jnp.sum(x, axis=-1)) % 2,
                [lambda x: x + 1, lambda x: x * other[None], lambda x: jnp.zeros_like(x)],
                x,
            )
            return group(y)

    check(Switch(), 2, 5)


@jax.custom_jvp
def bent(x):
    return jnp.where(x > 0, x, x * 0.5)


bent.defjvp(lambda primals, tangents: (bent(*primals), tangents[0]))


@jax.custom_vjp
def straight(x, y):
    return jnp.round(x * 4) / 4 + y


straight.defvjp(lambda x, y: (straight(x, y), None), lambda _, g: (g, g))


def test_custom_derivatives():
    class Custom(Model):
        def middle(self, x, group):
            return group(straight(bent(x), x))

    check(Custom(), 2, 5)


_TABLE = np.linspace(0.5, 1.5, 5).astype(np.float32)


@jax.jit
def _nested(x, y):
    return jax.jit(lambda a: jnp.tanh(a) * y)(x) + jnp.sum(_TABLE)


def test_nested_jit_with_constants():
    class Nested(Model):
        def middle(self, x, group):
            scaled = jax.jit(lambda t: t * _TABLE[None, :, None])(x)  # a closed-over array inside a nested program
            return group(_nested(scaled, x) + jax.checkpoint(lambda t: t * _TABLE[None, :, None])(x))

    check(Nested(), 2, 5, 3)


def test_several_inputs_and_outputs():
    class Two(Searchable):
        @nn.compact
        def __call__(self, a, b):
            group = self.elements("mid", 4)
            y = group(nn.Dense(group.size, name="a")(a) + nn.Dense(group.size, name="b")(b["x"]))
            return {"one": nn.Dense(2, name="one")(y), "two": (nn.Dense(3, name="two")(y),)}

    args = (np.ones((2, 3), np.float32), {"x": np.ones((2, 5), np.float32)})
    space = SearchSpace.from_model(Two(), *args)
    structure = space.structure({"mid": (1, 3)})
    assert dms_jax.verify(space, random_variables(space), structure, args) < FLOAT32_LOGITS


def test_partitioned_parameters():
    class Boxed(Model):
        def dense(self, x, features, name):
            init = nn.with_partitioning(nn.initializers.lecun_normal(), (None, "model"))
            return nn.Dense(features, kernel_init=init, name=name)(x)

    space = SearchSpace.from_model(Boxed(), jnp.ones((2, 5)))
    variables = Boxed().init(jax.random.key(0), jnp.ones((2, 5)))
    small = dms_jax.shrink(space, {"params": variables["params"]}, space.structure({"width": (0, 2)}))
    assert small["params"]["first"]["kernel"].value.shape == (5, 2)
    assert small["params"]["first"]["kernel"].names == (None, "model")


def test_an_operation_without_a_rule_that_no_group_reaches():
    class Spectral(Model):
        def middle(self, x, group):
            spectrum = jnp.abs(jnp.fft.fft(jnp.zeros((8,)) + 1.0))
            singular = jnp.linalg.svd(self.param("square", nn.initializers.normal(), (4, 4)), compute_uv=False)
            return group(x) * jnp.sum(spectrum) * jnp.max(singular)

    check(Spectral(), 2, 5)


def test_a_search_space_of_a_smaller_network():
    model = Deep()
    space = SearchSpace.from_model(model, jnp.ones((2, 4)))
    small = model.clone(structure=space.structure({"depth": (0, 2), "block0/mid": (1, 2, 4)}))
    again = SearchSpace.from_model(small, jnp.ones((2, 4)))
    assert {name: group.size for name, group in again.groups.items()} == {
        "depth": 2,
        "block0/mid": 3,
        "block2/mid": 5,
    }
    assert again.resources() == space.resources(small.structure)


# --- what cannot be, and says so -------------------------------------------------------------------------------


def refused(middle, *shape, match, group="width"):
    """The error names the group, the operation and the line of this file."""

    class Refused(Model):
        pass

    Refused.middle = lambda self, x, group: middle(x, group)
    with pytest.raises(TracingError, match=match) as caught:
        SearchSpace.from_model(Refused(), jax.ShapeDtypeStruct(shape or (2, 4, 5), jnp.float32))
    message = str(caught.value)
    assert f"group '{group}'" in message and "\n" not in message
    return message


BROKEN = {
    "sort": (lambda x, g: jnp.sort(g(x), axis=-1), "sort"),
    "softmax": (lambda x, g: jax.nn.softmax(g(x)), "reduce_max"),
    "max": (lambda x, g: x * jnp.max(g(x), axis=-1, keepdims=True), "reduce_max"),
    "product": (lambda x, g: x * jnp.prod(g(x), axis=-1, keepdims=True), "reduce_prod"),
    "argmax": (lambda x, g: x * jnp.argmax(g(x), axis=-1, keepdims=True), "argmax"),
    "cumprod": (lambda x, g: jnp.cumprod(g(x), axis=-1), "cumprod"),
    "mean": (lambda x, g: g(x) - jnp.mean(g(x), axis=-1, keepdims=True), "mean over its full size"),
    "mean_by_hand": (lambda x, g: g(x) - jnp.sum(g(x), -1, keepdims=True) / 6, "mean over its full size"),
    "mean_by_factor": (lambda x, g: g(x) - (1 / 6) * jnp.sum(g(x), -1, keepdims=True), "mean over its full size"),
    "variance": (lambda x, g: g(x) / (1 + jnp.var(g(x), axis=-1, keepdims=True)), "mean over its full size"),
    "iota": (lambda x, g: g(x) + jnp.arange(6.0)[None, None], "iota"),
    "constant": (lambda x, g: g(x) + np.linspace(0, 1, 6, dtype=np.float32)[None, None], "constant array"),
    "fft": (lambda x, g: jnp.abs(jnp.fft.fft(g(x))), "fft"),
    "svd": (lambda x, g: g(x) * jnp.linalg.svd(g(x), compute_uv=False)[..., :1, None], "svd"),
    "strided": (lambda x, g: g(x)[..., ::2], "slice"),
    "pick": (lambda x, g: g(x)[..., 3:4] * x, "slice"),
    "pick_scalar": (lambda x, g: g(x)[..., 3], "slice"),
    "take": (lambda x, g: jnp.take(g(x), jnp.array([0, 3]), axis=-1), "gather"),
    "flip": (lambda x, g: g(x)[..., ::-1], "rev"),
    "window": (lambda x, g: jax.lax.reduce_window(g(x), 0.0, jax.lax.add, (1, 1, 2), (1,) * 3, "SAME"), "window"),
    "top_k": (lambda x, g: jax.lax.top_k(g(x), 2)[0], "top_k"),
    "unstack": (lambda x, g: jnp.unstack(g(x), axis=-1)[0], "unstack"),
    "dynamic": (lambda x, g: jax.lax.dynamic_slice_in_dim(g(x), 1, 3, axis=-1), "dynamic_slice"),
    "one_hot": (lambda x, g: g(x) * jax.nn.one_hot(2, 6)[None, None], "iota"),
    "identity": (lambda x, g: g(x) @ jnp.eye(6), "iota|constant"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_operations_that_give_positions_a_meaning(name):
    middle, operation = BROKEN[name]
    message = refused(lambda x, g: jnp.atleast_2d(middle(x, g)), match=operation)
    if name != "constant":  # a constant comes from no operation
        assert HERE in message, message
        line = int(message.split(f"{HERE}:")[1].split(" ")[0])
        assert f'"{name}"' in Path(__file__).read_text().splitlines()[line - 1]


@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.RMSNorm, partial(nn.GroupNorm, num_groups=1)])
def test_plain_normalisation_over_a_masked_axis(norm):
    message = refused(lambda x, g: g(norm(name="norm")(x)), match=None)
    assert HERE in message


def test_group_norm_over_pieces_of_the_axis():
    message = refused(lambda x, g: nn.GroupNorm(num_groups=2, name="norm")(g(x)), match="splits its axis into 2 x 3")
    assert "declare a group for one of the factors" in message


def test_reshape_that_splits_the_axis():
    refused(lambda x, g: jnp.sum(g(x).reshape(*x.shape[:-1], 3, 2), -1), match="splits its axis into 3 x 2")


def test_grouped_convolution_splits_the_axis():
    refused(
        lambda x, g: nn.Conv(4, (3, 3), feature_group_count=2, name="grouped")(g(x)),
        1, 4, 4, 5,
        match="splits its axis into 2 x 3",
    )  # fmt: skip


class TwoGroups(Searchable):
    @nn.compact
    def __call__(self, x):
        a, b = self.elements("a", 6), self.elements("b", 6)
        y = nn.Dense(a.size, name="one")(x) + nn.Dense(b.size, name="two")(x)
        return nn.Dense(3, name="out")(b(a(y)))


def test_two_groups_on_one_axis():
    with pytest.raises(TracingError, match="its axis is also that of group 'a'.*declare one group"):
        SearchSpace.from_model(TwoGroups(), jnp.ones((2, 5)))


def test_elements_of_one_group_tied_together():
    refused(lambda x, g: g(x + jnp.roll(x, 2, axis=-1)), match="two of its own elements are tied together")


def test_product_inside_a_while_loop():
    class While(Model):
        def middle(self, x, group):
            w = self.param("w", nn.initializers.normal(), (group.size, group.size))
            return jax.lax.while_loop(lambda y: jnp.sum(y) > 1.0, lambda y: group(y @ w), x)

    with pytest.raises(TracingError, match=f"dot_general at .*{HERE}.* inside a `while` loop.*use `jax.lax.scan`"):
        SearchSpace.from_model(While(), jnp.ones((2, 5)))


def test_a_group_that_slices_nothing():
    class Idle(Searchable):
        @nn.compact
        def __call__(self, x):
            self.elements("idle", 4)
            return nn.Dense(3)(x)

    with pytest.raises(TracingError, match="group 'idle' slices no parameter"):
        SearchSpace.from_model(Idle(), jnp.ones((2, 5)))


def test_masking_the_input_itself():
    class Input(Searchable):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(3)(self.elements("features", 5)(x))

    with pytest.raises(TracingError, match="group 'features'"):  # the input does not shrink with the network
        SearchSpace.from_model(Input(), jnp.ones((2, 5)))


def test_masking_the_output():
    class Output(Searchable):
        @nn.compact
        def __call__(self, x):
            group = self.elements("classes", 5)
            return group(nn.Dense(group.size)(x))

    with pytest.raises(TracingError, match="group 'classes'"):  # the outputs of both networks would differ in shape
        SearchSpace.from_model(Output(), jnp.ones((2, 5)))


def test_a_single_feature_beside_others():
    """An axis of size 1 says nothing about positions, so a group cannot own it."""

    class Beside(Searchable):
        @nn.compact
        def __call__(self, x):
            group = self.elements("both", 4)
            y = jnp.concatenate([nn.Dense(1, name="one")(x), nn.Dense(3, name="three")(x)], axis=-1)
            return nn.Dense(2, name="out")(group(y))

    with pytest.raises(TracingError, match="group 'both'.*concatenate"):
        SearchSpace.from_model(Beside(), jnp.ones((2, 5)))


def test_a_model_without_groups():
    with pytest.raises(dms_jax.UserError, match="Dense declares no groups"):
        SearchSpace.from_model(nn.Dense(3), jnp.ones((2, 5)))


unmasked = pytest.mark.xfail(reason="readers of an axis that is not zero where masked are not found yet", strict=True)


@unmasked
def test_a_reader_without_the_mask():
    """What reads a group's axis unmasked would see less in the shrunk network than in the masked one."""
    refused(lambda x, g: nn.Dense(4, name="masked")(g(x)) + nn.Dense(4, name="unmasked")(x), match="without its mask")


@unmasked
def test_a_masked_value_that_is_no_longer_zero():
    refused(lambda x, g: jnp.sum(jnp.exp(g(x)), axis=-1, keepdims=True) * x, match="without its mask")
