"""From the variables of the full network to those of the smaller one, and the check that both compute the same."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.sharding import NamedSharding, PartitionSpec

from dms_jax.errors import UserError
from dms_jax.placement import FSDP, sharding_of
from dms_jax.space import Leaf, SearchSpace
from dms_jax.structure import Structure

_GONE = object()


def shrink(space: SearchSpace, variables: Any, structure: Structure) -> Any:
    """Slice a pytree of the full network's variables down to a structure.

    Arrays on a mesh stay on it, in one process or several. Where the mesh has an "fsdp" axis they lie as
    `dms_jax.training.shardings` puts the smaller ones; on another mesh an axis that is cut keeps its sharding where the
    devices divide its new size, and is copied where they do not. No device ever holds the whole of an array that was
    cut over devices, unless no other axis can be.

    Args:
      space: the full network's space.
      variables: any pytree with sub-trees shaped like the model's collections: `{"params": ..., "batch_stats": ...}`,
        an optax state (moments are sliced with their parameters), a moving average of weights, a train state. Leaves
        are matched by the end of their path and may be `jax.Array`, numpy or `jax.ShapeDtypeStruct`. What has no
        matching path (step counts, keys) is passed through; a "masks" collection is dropped.
      structure: what to keep.

    Returns:
      The same tree, smaller: removed blocks are gone, kept ones keep their names.

    Raises:
      UserError: a structure of another model, or an array whose path is a variable's and whose shape is not.
    """
    kept = space.kept(structure)
    by_end: dict[tuple[str, ...], Leaf] = {leaf.path[1:]: leaf for leaf in space.leaves.values()}

    def find(path: tuple[str, ...]) -> Leaf | None:
        for start in range(len(path)):
            leaf = space.leaves.get(path[start:]) or by_end.get(path[start:])
            if leaf is not None:
                return leaf
        return None

    def walk(node: Any, path: tuple[str, ...]) -> Any:
        if isinstance(node, Mapping):
            dropped = "masks" if "params" in node else None  # the collection; a layer may have the name, too
            inner = {key: walk(child, (*path, str(key))) for key, child in node.items() if key != dropped}
            left = {key: child for key, child in inner.items() if child is not _GONE}
            return type(node)(left) if left or not node else _GONE  # type: ignore[call-arg]
        if hasattr(node, "shape"):
            leaf = find(path)
            return node if leaf is None else _slice(space, leaf, node, kept, "/".join(path))
        if jax.tree_util.all_leaves([node]):  # a Python number
            return node
        if not jax.tree.leaves(node) and _gone(find(path), kept):  # optax.MaskedNode stands for a parameter
            return _GONE
        return jax.tree.map(
            lambda child: walk(child, path), node, is_leaf=lambda x: x is not node and isinstance(x, Mapping)
        )

    return walk(variables, ())


def _gone(leaf: Leaf | None, kept: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether a variable lies in a removed block."""
    return leaf is not None and any(element not in kept[name] for name, element in leaf.gates)


def _slice(space: SearchSpace, leaf: Leaf, array: Any, kept: Mapping[str, tuple[int, ...]], path: str) -> Any:
    if _gone(leaf, kept):
        return _GONE
    if tuple(array.shape) != leaf.shape:
        if array.shape == () or leaf.shape == ():
            return array
        raise UserError(f"{path} has shape {tuple(array.shape)}; the model's {'/'.join(leaf.path)} has {leaf.shape}")
    chosen = {axis: space.indices(term, kept) for axis, term in enumerate(leaf.axes)}
    chosen = {axis: indices for axis, indices in chosen.items() if len(indices) < leaf.shape[axis]}
    if not chosen:
        return array
    shape = tuple(len(chosen[i]) if i in chosen else n for i, n in enumerate(leaf.shape))
    sharding = _kept_sharding(array, shape)
    if isinstance(array, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(shape, array.dtype, sharding=sharding)
    if isinstance(array, np.ndarray):
        return _take(np.take, array, chosen)
    if sharding is None:
        return _take(jnp.take, array, chosen)
    return _taker(tuple(chosen), array.sharding, sharding)(array, tuple(chosen.values()))


def _take(take: Any, array: Any, chosen: Mapping[int, np.ndarray]) -> Any:
    for axis, indices in chosen.items():
        array = take(array, indices, axis=axis)
    return array


def _kept_sharding(array: Any, shape: tuple[int, ...]) -> NamedSharding | None:
    """Where a smaller array belongs, if the larger one lies on a mesh."""
    there = None if isinstance(array, Tracer) else getattr(array, "sharding", None)
    if not isinstance(there, NamedSharding):
        return None
    if FSDP in there.mesh.shape:
        return sharding_of(shape, there.mesh)
    spec = [*there.spec, *[None] * (len(shape) - len(there.spec))]
    divided = [there.shard_shape(array.shape)[i] for i in range(len(shape))]
    fits = [n % (whole // part) == 0 for n, whole, part in zip(shape, array.shape, divided, strict=True)]
    return NamedSharding(there.mesh, PartitionSpec(*(s if fit else None for s, fit in zip(spec, fits, strict=True))))


@cache
def _taker(axes: tuple[int, ...], before: NamedSharding, after: NamedSharding) -> Any:
    """`(array, indices of every axis) -> array`, jitted; compiled once for all arrays of one shape and size.

    XLA gathers along an axis that is cut over devices by making the whole result on each of them, so before an axis is
    gathered along, the devices exchange parts until another one is cut.
    """

    def cut(array: jax.Array, indices: tuple[np.ndarray, ...]) -> jax.Array:
        where = before
        for number, (axis, chosen) in enumerate(zip(axes, indices, strict=True)):
            where = _elsewhere(array.shape, where, axis, axes[number + 1 :])
            array = jax.lax.with_sharding_constraint(array, where)
            array = jax.lax.with_sharding_constraint(jnp.take(array, chosen, axis=axis), where)
        return array

    return jax.jit(cut, out_shardings=after)


def _elsewhere(shape: tuple[int, ...], where: NamedSharding, axis: int, later: tuple[int, ...]) -> NamedSharding:
    """`where`, unless it cuts `axis`: then a sharding that cuts another one, best of those that stay as they are."""
    spec = [*where.spec, *[None] * (len(shape) - len(where.spec))]
    if spec[axis] is None:
        return where
    parts = shape[axis] // where.shard_shape(shape)[axis]
    free = [i for i, n in enumerate(shape) if i != axis and spec[i] is None and n % parts == 0]
    spec[axis], moved = None, spec[axis]
    if free:
        spec[max(free, key=lambda i: (i not in later, shape[i]))] = moved
    return NamedSharding(where.mesh, PartitionSpec(*spec))


def difference(a: Any, b: Any) -> float:
    """The largest absolute difference between two trees of arrays; infinity where one alone is not finite."""
    pairs = list(zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))
    return max((_difference(np.asarray(x), np.asarray(y)) for x, y in pairs), default=0.0)


def _difference(x: np.ndarray, y: np.ndarray) -> float:
    wide = np.complex128 if np.iscomplexobj(x) or np.iscomplexobj(y) else np.float64
    if x.shape != y.shape:
        return float("inf")
    if not x.size:
        return 0.0
    x, y = x.astype(wide), y.astype(wide)
    same = (x == y) | (np.isnan(x) & np.isnan(y))
    with np.errstate(invalid="ignore"):
        apart = np.where(same, 0.0, np.abs(x - y))
    return float(np.max(np.where(np.isnan(apart), np.inf, apart)))


def verify(space: SearchSpace, params: Any, structure: Structure, example: Any) -> float:
    """`space.verify` for one input array, or a tuple of all inputs."""
    return space.verify(params, structure, *(example if isinstance(example, tuple) else (example,)))
