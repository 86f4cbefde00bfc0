"""Where one array of a state lies on a mesh with an "fsdp" axis: the rule that placing and shrinking share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

FSDP = "fsdp"
SMALL = 2**16
"""Numbers; smaller arrays are copied to every device: cutting them saves nothing."""


def sharding_of(shape: Sequence[int], mesh: Mesh | AbstractMesh) -> NamedSharding:
    """Cut a large array over "fsdp" along its longest axis that it divides (the first of several); copy the others.

    Args:
      shape: of the array.
      mesh: has an axis "fsdp".
    """
    parts = mesh.shape[FSDP]
    cuttable = [axis for axis, n in enumerate(shape) if n % parts == 0]
    if parts == 1 or np.prod(shape, dtype=np.int64) < SMALL or not cuttable:
        return NamedSharding(mesh, PartitionSpec())
    axis = max(cuttable, key=lambda i: shape[i])
    return NamedSharding(mesh, PartitionSpec(*(FSDP if i == axis else None for i in range(len(shape)))))
