"""Devices: a mesh of two axes. Batches are cut over both, large parameters over "fsdp", everything else is copied."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from dms_jax.errors import UserError, one_line
from dms_jax.placement import FSDP, sharding_of

DATA = "data"


def make_mesh(devices: Sequence[Any] | None = None, *, fsdp: int = 1) -> Mesh:
    """Return a mesh with the axes `"data"` and `"fsdp"` over `devices`.

    The axes are automatic: XLA's partitioner derives the collectives from the shardings of a step's inputs, so
    the step is written as if for one device (and BatchNorm needs no axis name).

    Args:
        devices: `jax.Device`s; all those of every process by default.
        fsdp: over how many devices large parameters and optimizer states are cut; 1 copies them everywhere.

    Raises:
        UserError: `fsdp` does not divide the number of devices.
    """
    devices = jax.devices() if devices is None else list(devices)
    if fsdp < 1 or len(devices) % fsdp:
        raise UserError(f"fsdp={fsdp} does not divide {len(devices)} devices; take one of its divisors")
    shape = (len(devices) // fsdp, fsdp)
    return jax.make_mesh(shape, (DATA, FSDP), axis_types=(AxisType.Auto,) * 2, devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding that keeps a whole copy on every device of `mesh`."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Return the sharding that cuts the leading axis over the devices of `mesh`."""
    return NamedSharding(mesh, PartitionSpec((DATA, FSDP)))


def shardings(tree: Any, mesh: Mesh | AbstractMesh) -> Any:
    """Return where every array of a state lies: large ones cut over "fsdp" along their longest axis that it divides.

    Args:
        tree: arrays or `jax.ShapeDtypeStruct`s; parameters, optimizer states, a whole `SearchState`.
        mesh: from `make_mesh`, or abstract: the same axes, of no devices.
    """
    return jax.tree.map(lambda leaf: sharding_of(leaf.shape, mesh), tree)


def place(tree: Any, mesh: Mesh) -> Any:
    """Put a state on the devices as `shardings` says; arrays that lie there already are returned as they are."""
    return jax.device_put(tree, shardings(tree, mesh))


def shard_batch(batch: Any, mesh: Mesh) -> Any:
    """Put a batch on the devices, its leading axis cut over them.

    With several processes each hands in its own part, and the global batch is those parts one after another.

    Args:
        batch: a pytree of arrays `[B, ...]`, B the same in every leaf: this process's examples.
        mesh: from `make_mesh`.

    Returns:
        The same tree of `jax.Array`s `[B * number of processes, ...]`, same dtypes.

    Raises:
        ValueError: a leaf has no leading axis, leaves disagree about B, or this process's devices do not
            divide B.
    """
    devices = len(mesh.local_devices)
    sizes = {np.shape(leaf)[0] if np.ndim(leaf) else None for leaf in jax.tree.leaves(batch)}
    if None in sizes or len(sizes) > 1:
        given = sorted(str(np.shape(leaf)) for leaf in jax.tree.leaves(batch))
        raise ValueError(f"the leaves of a batch share their leading axis; these have shapes {', '.join(given)}")
    if any(size % devices for size in sizes if size is not None):
        raise ValueError(f"a batch of {sizes.pop()} cannot be cut over {devices} devices; take a multiple of {devices}")
    sharding = batch_sharding(mesh)
    if jax.process_count() == 1:
        return jax.device_put(batch, sharding)
    return jax.tree.map(lambda leaf: jax.make_array_from_process_local_data(sharding, np.asarray(leaf)), batch)


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Put a whole copy of every array of `tree` on every device; every process hands in the same values.

    A leaf that lies there already is returned as it is, not copied: donating the result then consumes the
    argument.
    """
    return jax.device_put(tree, replicated(mesh))


def on_devices(batches: Callable[[int], Any], mesh: Mesh) -> Callable[[int], Any]:
    """Batches by step, put on the devices: cut over them, or on one device as they are, whatever their leaves.

    Raises:
        UserError: from the function: a batch that cannot be cut over several devices.
    """

    def batch(step: int) -> Any:
        if mesh.size == 1:
            return jax.device_put(batches(step), replicated(mesh))
        try:
            return shard_batch(batches(step), mesh)
        except ValueError as error:
            raise UserError(f"{one_line(error)}; or run on one: devices=jax.devices()[:1]") from error

    return batch
