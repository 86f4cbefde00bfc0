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
from dms_jax import export, models
from tests.counting import multiply_adds, numbers, random_structure, random_variables
from tests.helpers import FLOAT32_LOGITS
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
    rng = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda leaf: jnp.asarray(rng.uniform(0.5, 1.5, leaf.shape), jnp.float32),
        jax.eval_shape(model.init, jax.random.key(0), x),
    )
    assert same(model, variables, x, left=4) == 6 + 3
    fused, _ = export.fuse_batchnorm(model, variables, x)
    assert {norm for _, norm in fused.fused} == {("goes",), ("goes_too",)}


def test_a_fused_network_is_exported(tmp_path):
    pytest.importorskip("flatbuffers")
    space = space_of("resnet_basic")
    variables, x = random_variables(space), images()
    fused, small = export.fuse_batchnorm(space.model, variables, x)
    path = export.stablehlo(tmp_path / "network", fused, small, x, platforms=("cpu",))
    found = jax.export.deserialize(bytearray(path.read_bytes())).call(x)
    assert largest(found - space.model.apply(variables, x)) < 10 * FLOAT32_LOGITS
