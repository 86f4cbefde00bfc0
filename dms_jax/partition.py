"""Which leaves of a tree are trained: taken apart, put together again, and given new values by a loss.

A space knows what is trained (`SearchSpace.trained`). Where there is none, Flax Linen's rule holds: what lies under
"params" is trained, other collections (batch_stats) are not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from dms_jax.errors import UserError

Path: TypeAlias = tuple[Any, ...]  # of keys, as `jax.tree_util.tree_flatten_with_path` gives them


def numbers(tree: Any) -> str:
    """`7,162 numbers`, of all arrays of a tree."""
    count = sum(np.size(leaf) for leaf in jax.tree.leaves(tree))
    return f"{count:,} number{'' if count == 1 else 's'}"


def under_params(path: Path) -> bool:
    """Whether a path leads into the "params" collection."""
    return bool(path) and getattr(path[0], "key", getattr(path[0], "name", None)) == "params"


def partition(tree: Any, trained: Any = under_params) -> tuple[Any, Any]:
    """Split a tree in two of its own structure, with None in the other's places.

    Args:
      tree: any pytree.
      trained: a tree of booleans like it, or a function from a leaf's path to whether it is trained.

    Returns:
      What is trained, and the rest.

    Raises:
      UserError: the tree of booleans is another tree's.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
    chosen = [trained(path) for path, _ in leaves] if _is_rule(trained) else jax.tree.leaves(trained)
    if len(chosen) != len(leaves):
        raise UserError(f"what is trained is told of {len(chosen)} leaves, the tree has {len(leaves)}; tell it of all")
    one = [leaf if yes else None for (_, leaf), yes in zip(leaves, chosen, strict=True)]
    other = [None if yes else leaf for (_, leaf), yes in zip(leaves, chosen, strict=True)]
    return structure.unflatten(one), structure.unflatten(other)


def _is_rule(trained: Any) -> bool:
    """Whether it is a function of paths, and no module that holds booleans."""
    return callable(trained) and jax.tree_util.all_leaves([trained])


def combine(trained: Any, rest: Any) -> Any:
    """Undo `partition`: every leaf from the tree that has it."""
    return jax.tree.map(lambda a, b: b if a is None else a, trained, rest, is_leaf=lambda x: x is None)


def merged(rest: Any, changes: Any, where: str = "") -> Any:
    """A tree with new values for some of its leaves.

    Args:
      rest: what is not trained, None elsewhere, as `partition` gives it.
      changes: a partial tree: dictionaries may leave keys out, and None stands for no change.
      where: the path so far, for errors.

    Returns:
      `rest`, of the same structure and dtypes.

    Raises:
      UserError: a value for what is trained, or what is not there, or of another shape.
    """
    if not jax.tree.leaves(changes):
        return rest
    if isinstance(rest, Mapping) and isinstance(changes, Mapping):
        children, structure = _children(rest)
        new = _children(changes)[0]
        for key, child in new.items():
            if key not in children and jax.tree.leaves(child):
                raise UserError(f'the loss gives "state" for {where}{key}, which is not among the variables')
        return structure.unflatten([merged(leaf, new.get(k), f"{where}{k}/") for k, leaf in children.items()])
    return _merged_node(rest, changes, where)


def _children(node: Mapping[Any, Any]) -> tuple[dict[Any, Any], Any]:
    """key -> child as the pytree has it (a mapping may hand out views of its children), and what puts them together."""
    pairs, structure = jax.tree_util.tree_flatten_with_path(node, is_leaf=lambda x: x is not node)
    return {getattr(path[0], "key", path[0]): child for path, child in pairs}, structure


def _merged_node(rest: Any, changes: Any, where: str) -> Any:
    """`merged` of a leaf, and of nodes whose children are all there: lists, modules, dataclasses."""
    path = where.rstrip("/") or "the whole tree"
    inner, structure = jax.tree.flatten(rest, is_leaf=lambda x: x is not rest)
    new, other = jax.tree.flatten(changes, is_leaf=lambda x: x is not changes)
    if structure != other:
        why = f"which is a {type(rest).__name__}, as a {type(changes).__name__}"
        if rest is None:
            why = "which is trained; make the space with `trainable=`, a predicate on paths, that leaves it out"
        raise UserError(f'the loss gives "state" for {path}, {why}')
    if inner and inner[0] is rest:  # a leaf
        if jnp.shape(changes) != jnp.shape(rest):
            raise UserError(
                f'the loss gives "state" for {path} of shape {jnp.shape(changes)}; the variable has {jnp.shape(rest)}'
            )
        return jnp.asarray(changes, rest.dtype)
    pairs = zip(inner, new, strict=True)
    return structure.unflatten([merged(a, b, f"{where}{i}/") for i, (a, b) in enumerate(pairs)])


def without_masks(variables: Any) -> Any:
    """Variables without their "masks" collection, which belongs to a search."""
    if isinstance(variables, Mapping) and "params" in variables and "masks" in variables:
        return {name: tree for name, tree in variables.items() if name != "masks"}
    return variables


def owned(tree: Any, others: Any = None) -> Any:
    """Copies of arrays, so that donating them takes nothing from anybody; if `others` are given, of theirs alone."""
    shared = None if others is None else {id(leaf) for leaf in jax.tree.leaves(others)}
    return jax.tree.map(lambda leaf: jnp.copy(leaf) if shared is None or id(leaf) in shared else leaf, tree)
