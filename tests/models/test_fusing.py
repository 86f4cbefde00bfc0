"""BatchNorms in the layers before them: the same outputs, the same products, fewer parameters."""

from functools import partial
from math import prod
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

import dms_jax
from dms_jax import UserError, export, models
from tests.counting import multiply_adds, numbers, random_structure, random_variables
from tests.helpers import BFLOAT16_ROUNDING, FLOAT32_LOGITS, FLOAT32_ROUNDING
from tests.models.small import NETWORKS, images, largest, space_of


def same(model, variables, x, left=0):
    """Outputs and multiply-adds are the same, and every fused BatchNorm has lost its own; `left` of them are there."""
    fused, small = export.fuse_batchnorm(model, variables, x)
    expected, found = jax.jit(model.apply)(variables, x), jax.jit(fused.apply)(small, x)
    assert largest(found - expected) < FLOAT32_LOGITS * max(1.0, largest(expected))
    assert multiply_adds(fused.apply, small, x) == multiply_adds(model.apply, variables, x)
    stats, kept = (dict[tuple[str, ...], Any](flatten_dict(v.get("batch_stats", {}))) for v in (variables, small))
    assert len(kept) == 2 * left
    return sum(leaf.size for path, leaf in stats.items() if path[-1] == "mean" and path not in kept)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_of_the_zoo(name):
    space = space_of(name)
    for kept in ({}, random_structure(space.groups, 1)):
        structure = space.structure(kept)
        model = space.model.clone(structure=structure)
        variables = dms_jax.shrink(space, random_variables(space), structure)
        gone = same(model, variables, images())
        _, fused = export.fuse_batchnorm(model, variables, images())
        assert numbers(variables["params"]) - numbers(fused["params"]) == gone  # 2 C less, and a bias of C
        assert (gone > 0) == ("batch_stats" in variables)


def test_yolov8n_has_the_published_size():
    model, x = models.create("yolov8n"), jax.ShapeDtypeStruct((1, 640, 640, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), x)
    fused = jax.eval_shape(lambda v: export.fuse_batchnorm(model, v, x)[1], variables)
    assert set(fused) == {"params"}
    # published: 3,151,904, with the 16 constants 0 to 15 that a distance is the mean of
    assert sum(prod(leaf.shape) for leaf in jax.tree.leaves(fused)) == 3_151_904 - 16


class Awkward(nn.Module):
    """BatchNorms that can go and BatchNorms that cannot."""

    @nn.compact
    def __call__(self, x):
        norm = partial(nn.BatchNorm, use_running_average=True, use_scale=False)
        x = norm(name="of_the_input")(x)
        y = nn.Conv(4, (3, 3), name="read_twice")(x)
        x = norm(name="of_one_reader")(y) + y
        shared = nn.Dense(4, name="runs_twice")
        x = norm(name="of_the_first")(shared(x)) + norm(name="of_the_second")(shared(x))
        x = nn.Conv(6, (2, 2), feature_group_count=2, name="biased")(x)
        x = nn.BatchNorm(use_running_average=True, use_bias=False, name="goes")(x)
        return nn.BatchNorm(use_running_average=True, name="goes_too")(nn.Dense(3, use_bias=False, name="dense")(x))


def test_what_cannot_be_fused_stays():
    model, x = Awkward(), images(size=8)
    variables = positive(model, x)
    assert same(model, variables, x, left=4) == 6 + 3
    fused, _ = export.fuse_batchnorm(model, variables, x)
    assert {norm for _, norm, _ in fused.fused} == {("goes",), ("goes_too",)}


class Normed(nn.Module):
    """A layer that is given, and a BatchNorm."""

    layer: Any
    norm: Any = nn.BatchNorm()

    @nn.compact
    def __call__(self, x, train=False):
        return self.norm(self.layer(x), use_running_average=not train)


class Wrapped(nn.Module):
    """A convolution whose kernel is another one when it is used."""

    wrapper: Any

    @nn.compact
    def __call__(self, x):
        call = {"update_stats": False} if self.wrapper is nn.SpectralNorm else {}
        return nn.BatchNorm(use_running_average=True)(self.wrapper(nn.Conv(4, (3, 3)))(x, **call))


class Tied(nn.Module):
    """A kernel that is read again behind the BatchNorm."""

    @nn.compact
    def __call__(self, x):
        dense = nn.Dense(4, use_bias=False)
        y = nn.BatchNorm(use_running_average=True)(dense(x))
        return y @ dense.variables["params"]["kernel"].T


class Standardized(nn.Conv):
    """A convolution that reads its kernel less the mean."""

    def param(self, name, *args, **kwargs):
        value: Any = super().param(name, *args, **kwargs)
        return value - jnp.mean(value, (0, 1, 2), keepdims=True) if name == "kernel" else value


class Rectified(nn.Dense):
    """A dense layer with more behind it."""

    @nn.compact
    def __call__(self, inputs):
        kernel: Any = self.param("kernel", nn.initializers.ones, (inputs.shape[-1], self.features))
        return nn.relu(inputs @ kernel - 3)


def by_signs(x, kernel, dimensions, precision=None, **_):
    return jax.lax.dot_general(x, jnp.sign(kernel - 1), dimensions)


def positive(model, x):
    """Variables of 0.5 to 1.5."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, jax.random.key(0), x)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.uniform(0.5, 1.5, leaf.shape), leaf.dtype), shapes)


@pytest.mark.parametrize(
    "model",
    [
        Wrapped(nn.WeightNorm),
        Wrapped(nn.SpectralNorm),
        Tied(),
        Normed(Standardized(4, (3, 3))),
        Normed(Rectified(4)),
        Normed(nn.Dense(4, dot_general=by_signs)),
        Normed(nn.Conv(4, (3, 3)), nn.BatchNorm(axis=1)),
    ],
    ids=["weight norm", "spectral norm", "tied", "standardized", "rectified", "signs", "of rows"],
)
def test_a_kernel_that_is_not_read_as_it_is_stays(model):
    x = images(size=8)
    variables = positive(model, x)
    fused, small = export.fuse_batchnorm(model, variables, x)
    assert not fused.fused
    assert largest(fused.apply(small, x) - model.apply(variables, x)) == 0


@pytest.mark.parametrize("norm", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("layer", [jnp.float32, jnp.bfloat16])
def test_dtypes_stay(layer, norm):
    model = Normed(
        nn.Conv(4, (3, 3), dtype=layer, param_dtype=layer, use_bias=False), nn.BatchNorm(dtype=norm, param_dtype=norm)
    )
    x = images(size=8)
    variables = positive(model, x)
    fused, small = export.fuse_batchnorm(model, variables, x)
    expected, found = model.apply(variables, x), fused.apply(small, x)
    assert len(fused.fused) == 1 and found.dtype == expected.dtype == norm  # type: ignore[union-attr]
    assert small["params"]["layer"]["kernel"].dtype == layer
    # kernel, sum, bias and result are rounded
    rounding = FLOAT32_ROUNDING if layer == norm == jnp.float32 else 4 * BFLOAT16_ROUNDING
    assert largest(found.astype(jnp.float32) - expected.astype(jnp.float32)) < rounding * largest(expected)  # type: ignore[union-attr]


def test_arguments_that_are_no_arrays_and_variables_in_boxes():
    boxed = nn.with_partitioning(nn.initializers.ones, (None, "model"))
    model, x = Normed(nn.Dense(4, kernel_init=boxed)), images(size=8)
    variables = model.init(jax.random.key(0), x)
    fused, small = export.fuse_batchnorm(model, variables, x, False)
    assert len(fused.fused) == 1
    expected: Any = model.apply(variables, x, False)
    assert largest(fused.apply(small, x, False) - expected) < FLOAT32_LOGITS
    assert export.fuse_batchnorm(fused, small, x) == (fused, small)


def test_what_cannot_be_fused_is_refused():
    model, x = Normed(nn.Dense(4)), images(size=8)
    variables = positive(model, x)
    with pytest.raises(UserError, match="^norm normalizes by the statistics of the batch, as in training; call"):
        export.fuse_batchnorm(model, variables, x, train=True)
    fused, small = export.fuse_batchnorm(model, variables, x)
    with pytest.raises(UserError, match="^norm normalizes by the statistics of the batch"):
        fused.apply(small, x, train=True)
    with pytest.raises(UserError, match="the variables have no batch_stats of norm; pass all that init returned"):
        export.fuse_batchnorm(model, {"params": variables["params"]}, x)
    with pytest.raises(UserError, match=r"expected a flax\.linen\.Module, not function"):
        export.fuse_batchnorm(by_signs, variables, x)  # type: ignore[arg-type]


def test_a_fused_network_is_exported(tmp_path):
    pytest.importorskip("flatbuffers")
    space = space_of("resnet_basic")
    variables, x = random_variables(space), images()
    fused, small = export.fuse_batchnorm(space.model, variables, x)
    path = export.stablehlo(tmp_path / "network", fused, small, x, platforms=("cpu",))
    found = jax.export.deserialize(bytearray(path.read_bytes())).call(x)
    assert largest(found - space.model.apply(variables, x)) < 10 * FLOAT32_LOGITS
