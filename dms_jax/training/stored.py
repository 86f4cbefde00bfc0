"""A state as a checkpoint holds it: a flat table from the path of a leaf to its array."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np


def leaves_of(tree: Any) -> dict[str, Any]:
    """Path -> leaf, typed PRNG keys by their data.

    Raises:
      TypeError: a leaf is no array of numbers.
    """
    leaves = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
    for name, leaf in leaves.items():
        if not hasattr(leaf, "dtype"):
            raise TypeError(f"state{name} is a {type(leaf).__name__}; a checkpoint holds arrays of numbers")
        if _is_key(leaf):
            abstract = isinstance(leaf, jax.ShapeDtypeStruct)
            leaves[name] = jax.eval_shape(jax.random.key_data, leaf) if abstract else jax.random.key_data(leaf)
    return leaves


def as_key(array: Any, like: Any) -> Any:
    """What was read, as a typed key where the example has one."""
    if not _is_key(like):
        return array
    return jax.random.wrap_key_data(array, impl=jax.random.key_impl(jax.numpy.empty((), like.dtype)))


def describe(leaf: Any) -> list[Any]:
    """Dtype and shape, as JSON holds them."""
    return [str(leaf.dtype), list(leaf.shape)]


def target(leaf: Any) -> Any:
    """What Orbax is to restore a leaf to: NumPy as NumPy, and an array with the sharding asked for."""
    if isinstance(leaf, np.ndarray | np.generic):
        return np.asarray(leaf)
    sharding = leaf.sharding or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def empty(leaf: Any) -> Any:
    """An array without elements, which Orbax does not store."""
    return np.zeros(leaf.shape, leaf.dtype) if isinstance(leaf, np.ndarray) else jax.numpy.zeros(leaf.shape, leaf.dtype)


def _is_key(leaf: Any) -> bool:
    return jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)
