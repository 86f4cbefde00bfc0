"""Shrinking what lies on a mesh: the values of one device, placed by `shardings`, and no whole copy on the way."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import dms_jax
from dms_jax import SearchSpace, models, placement
from dms_jax.shrink import _taker
from dms_jax.training import make_mesh, place, shardings, supervised
from tests.counting import random_variables

pytestmark = pytest.mark.skipif(jax.device_count() < 8, reason="needs eight devices; tests/conftest.py makes them")


@pytest.fixture(scope="module")
def case():
    """A small Llama, residual width searched too, and a structure that cuts every kind of axis."""
    model = models.create(
        "llama", vocabulary=64, width=32, layers=2, heads=8, kv_heads=4, head_dim=8, hidden=48, search_width=True
    )
    space = SearchSpace.from_model(model, jax.ShapeDtypeStruct((1, 8), jnp.int32))
    some = {"width": range(0, 32, 2), "layer0/feed_forward/hidden": range(33), "layer1/attention/heads": (1, 3)}
    some |= {"layer0/attention/queries": (1,)}
    kept = {name: tuple(elements) for name, elements in some.items()}
    return space, space.structure(kept), random_variables(space)


@pytest.mark.parametrize("fsdp", [2, 8])
def test_kept_where_shardings_puts_it(case, fsdp, monkeypatch):
    monkeypatch.setattr(placement, "SMALL", 64)
    space, structure, variables = case
    mesh = make_mesh(fsdp=fsdp)
    state = supervised.init(variables, optax.adamw(1e-3))
    whole = dms_jax.shrink(space, state, structure)
    cut = dms_jax.shrink(space, place(state, mesh), structure)
    jax.tree.map(np.testing.assert_array_equal, cut, whole)

    def lies(array: Any, where: NamedSharding) -> bool:
        return array.sharding.is_equivalent_to(where, array.ndim)

    assert jax.tree.all(jax.tree.map(lies, cut, shardings(cut, mesh)))
    assert any(not leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(cut))
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), place(state, mesh))
    smaller = dms_jax.shrink(space, shapes, structure)
    assert jax.tree.all(jax.tree.map(lambda a, b: a.shape == b.shape and lies(b, a.sharding), smaller, cut))


def test_an_array_cut_along_its_sharded_axis_is_never_whole():
    """XLA's own count: arguments, result and temporaries of a device are parts of the array, not all of it."""
    mesh = make_mesh(fsdp=8)
    shape, axes = (512, 1024), (0, 1)
    before = NamedSharding(mesh, PartitionSpec(None, "fsdp"))
    for kept in ((512, 640), (256, 640), (512, 641)):
        cut = tuple(i for i in axes if kept[i] < shape[i])
        sharding = placement.sharding_of(kept, mesh)
        indices = tuple(np.arange(kept[i]) for i in cut)
        compiled = _taker(cut, before, sharding).lower(
            jax.ShapeDtypeStruct(shape, jnp.float32, sharding=before), indices
        ).compile()  # fmt: skip
        memory: Any = compiled.memory_analysis()
        part = 4 * shape[0] * shape[1] / 8
        assert memory.output_size_in_bytes <= part
        assert memory.temp_size_in_bytes <= 2 * part  # what is received, and put in order
        assert "all-gather" not in compiled.as_text() and "all-reduce" not in compiled.as_text()


def test_a_mesh_of_other_axes_keeps_what_its_devices_divide(case):
    space, structure, variables = case
    mesh = jax.make_mesh((2, 4), ("rows", "columns"), axis_types=(AxisType.Auto,) * 2)
    spec = PartitionSpec("rows", "columns")
    kernel = variables["params"]["layer0"]["feed_forward"]["gate"]
    placed = jax.device_put(kernel, NamedSharding(mesh, spec))
    tree = jax.tree.map(lambda leaf: placed if leaf is kernel else leaf, variables)
    small = dms_jax.shrink(space, tree, structure)["params"]["layer0"]["feed_forward"]["gate"]
    assert small.sharding.is_equivalent_to(NamedSharding(mesh, PartitionSpec("rows", None)), 2)
    np.testing.assert_array_equal(small, np.asarray(kernel)[::2][:, :33])
