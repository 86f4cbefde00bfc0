import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from dms_jax.training import batch_sharding, make_mesh, place, replicate, replicated, run_phase, shard_batch

pytestmark = pytest.mark.skipif(jax.device_count() < 2, reason="needs several devices")


def run_on(devices, steps=8):
    mesh = make_mesh(devices)
    return run_phase(
        "toy", toy.step, replicate(toy.init(), mesh), lambda i: shard_batch(toy.batch_of(i), mesh),
        jax.random.key(1), steps=steps,
    )  # fmt: skip


def test_all_devices_equal_one():
    one, all_of_them = run_on(jax.devices()[:1]), run_on(None)
    assert len(all_of_them.params["w/1"].devices()) == jax.device_count()
    # A sum over 8 parts rounds otherwise than a sum in one go: float32's 1e-7, grown over 8 steps.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6), one.params, all_of_them.params)


def test_batch_is_cut_and_state_is_not():
    mesh = make_mesh()
    n = mesh.size
    batch = shard_batch({"x": np.arange(4 * n).reshape(2 * n, 2), "i": np.arange(2 * n)}, mesh)
    assert batch["x"].sharding.is_equivalent_to(batch_sharding(mesh), 2)
    assert {s.data.shape for s in batch["x"].addressable_shards} == {(2, 2)}
    np.testing.assert_array_equal(batch["i"], np.arange(2 * n))
    tree = replicate({"a": jnp.ones(3)}, mesh)
    assert tree["a"].sharding == replicated(mesh)
    assert {s.data.shape for s in tree["a"].addressable_shards} == {(3,)}


def test_a_batch_the_devices_do_not_divide():
    mesh = make_mesh(jax.devices()[:2])
    with pytest.raises(ValueError, match="a batch of 5 cannot be cut over 2 devices; take a multiple of 2"):
        shard_batch({"x": np.zeros((5, 2))}, mesh)
    with pytest.raises(ValueError, match=r"these have shapes \(4, 2\), \(6,\)"):
        shard_batch({"x": np.zeros((4, 2)), "y": np.zeros(6)}, mesh)
    with pytest.raises(ValueError, match=r"these have shapes \(\), \(4, 2\)"):
        shard_batch({"x": np.zeros((4, 2)), "y": 1.0}, mesh)


def test_large_arrays_are_cut_over_fsdp():
    mesh = make_mesh(fsdp=4)
    assert dict(mesh.shape) == {"data": jax.device_count() // 4, "fsdp": 4}
    tree = {
        "kernel": jnp.ones((300, 512)),
        "odd": jnp.ones((301, 333)),
        "long": jnp.ones((2**16, 3)),
        "bias": jnp.ones(512),
        "step": jnp.zeros((), jnp.int32),
    }
    placed = place(tree, mesh)
    shapes = {name: array.addressable_shards[0].data.shape for name, array in placed.items()}
    assert shapes == {"kernel": (300, 128), "odd": (301, 333), "long": (2**14, 3), "bias": (512,), "step": ()}
    with pytest.raises(ValueError, match=r"fsdp=3 does not divide 8 devices"):
        make_mesh(fsdp=3)
