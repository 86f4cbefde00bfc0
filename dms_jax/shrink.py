"""From the variables of the full network to those of the smaller one, and the check that both compute the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dms_jax.errors import UserError
from dms_jax.space import Leaf, SearchSpace
from dms_jax.structure import Structure

_GONE = object()


def shrink(space: SearchSpace, variables: Any, structure: Structure) -> Any:
    """Slice a pytree of the full network's variables down to a structure.

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
    for axis, term in enumerate(leaf.axes):
        chosen = space.indices(term, kept)
        if len(chosen) == leaf.shape[axis]:
            continue
        if isinstance(array, jax.ShapeDtypeStruct):
            shape = (*array.shape[:axis], len(chosen), *array.shape[axis + 1 :])
            array = jax.ShapeDtypeStruct(shape, array.dtype)
        else:
            take = np.take if isinstance(array, np.ndarray) else jnp.take
            array = take(array, chosen, axis=axis)
    return array


def verify(space: SearchSpace, variables: Any, structure: Structure, example: Any) -> float:
    """The largest absolute difference between the masked full network and the shrunk one, over all outputs.

    Args:
      space: the full network's space.
      variables: its variables, without masks.
      structure: what to keep.
      example: one input array, or a tuple of all positional arguments; any batch size.

    Returns:
      max |masked - shrunk| in the outputs' own unit; about 1e-6 times their size in float32.
    """
    args = example if isinstance(example, tuple) else (example,)
    small = space.model.clone(structure=structure)
    masked = space.apply({**variables, "masks": space.masks(structure)}, *args)
    shrunk = space.apply(shrink(space, variables, structure), *args, model=small)
    pairs = zip(jax.tree.leaves(masked), jax.tree.leaves(shrunk), strict=True)
    return max(float(jnp.max(jnp.abs(a.astype(jnp.float32) - b.astype(jnp.float32)))) for a, b in pairs)
