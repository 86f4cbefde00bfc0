"""A pytree of parameters as a list of arrays: what is sliced, what is trained, and what each leaf is called."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dms_jax.errors import UserError
from dms_jax.program import unrolling
from dms_jax.reading import shown


def is_array(leaf: Any) -> bool:
    """Whether a leaf of a tree is an array, concrete or abstract."""
    return hasattr(leaf, "shape") and hasattr(leaf, "dtype")


def path_of(keys: Sequence[Any]) -> str:
    """A key path for people: "encoder/layer0/kernel"."""
    texts = [str(key) for key in keys]
    if texts and texts[-1] == ".value":  # of a variable object, which holds one array
        texts = texts[:-1]
    parts = (re.sub(r"^[\[.]?'?|'?\]?$", "", text) for text in texts)
    return "/".join(part for part in parts if part) or "parameter"


@dataclass(frozen=True, eq=False)
class Parameters:
    """The leaves of one tree of parameters that are arrays, in its own order.

    Attributes:
      template: the tree, with `jax.ShapeDtypeStruct` for arrays; other leaves as they are.
      paths: of every array.
      keys: their key paths.
      shapes: `jax.ShapeDtypeStruct` of every array.
      trained: of every array.
      whole: the tree as the network's functions take it, where `template` has rows for stacked arrays.
      stacked: key path of every stacked array that is laid out in rows -> how many.
    """

    template: Any
    paths: tuple[str, ...]
    keys: tuple[Any, ...]
    shapes: tuple[jax.ShapeDtypeStruct, ...]
    trained: tuple[bool, ...]
    whole: Any
    stacked: Mapping[Any, int]

    @staticmethod
    def of(
        params: Any, trainable: Any = None, paths: Sequence[str] | None = None, unroll: Sequence[str] = ()
    ) -> Parameters:
        """Read a tree.

        Args:
          params: the tree; arrays or `jax.ShapeDtypeStruct`.
          trainable: a predicate on paths, a tree of booleans like `params`, or None: all floating-point arrays.
          paths: names of all leaves in the order of flattening; None: from their keys.
          unroll: patterns on paths: stacked arrays that become tuples of rows.

        Raises:
          UserError: there are no arrays, or `trainable` fits another tree.
        """
        flat, treedef = jax.tree_util.tree_flatten_with_path(params)
        template = [_shape(leaf) if is_array(leaf) else leaf for _, leaf in flat]
        there = [i for i, (_, leaf) in enumerate(flat) if is_array(leaf)]
        if not there:
            raise UserError("the parameters hold no arrays; give the network's own, or their shapes")
        names = [path_of(keys) for keys, _ in flat] if paths is None else list(paths)
        if len(names) != len(flat):
            raise UserError(f"{len(names)} paths for {len(flat)} leaves of the parameters; give one a leaf")
        shapes = [template[i] for i in there]
        called = _unique([names[i] for i in there])
        trained = list(_trained(params, trainable, [names[i] for i in there], there, shapes))
        unrolling.check(unroll, called)
        whole = jax.tree_util.tree_unflatten(treedef, template)
        stacked: dict[Any, int] = {}
        rows: list[tuple[str, Any, jax.ShapeDtypeStruct, bool]] = []
        for i, path, shape, train in zip(there, called, shapes, trained, strict=True):
            keys, pattern = flat[i][0], unrolling.matching(path, unroll)
            if pattern is None:
                rows.append((path, keys, shape, train))
                continue
            if not shape.shape:
                raise UserError(
                    f"{path} is a scalar and has no rows to unroll; give a narrower pattern than {pattern!r}"
                )
            stacked[keys] = count = shape.shape[0]
            template[i] = each = unrolling.rows(shape, count)
            for row, one in enumerate(each):
                key = (*keys, jax.tree_util.SequenceKey(row))
                rows.append((unrolling.row_path(path, row, pattern), key, one, train))
        return Parameters(
            jax.tree_util.tree_unflatten(treedef, template),
            tuple(path for path, _, _, _ in rows),
            tuple(keys for _, keys, _, _ in rows),
            tuple(shape for _, _, shape, _ in rows),
            tuple(train for _, _, _, train in rows),
            whole,
            stacked,
        )

    def __len__(self) -> int:
        return len(self.paths)

    def arrays(self, tree: Any) -> list[Any]:
        """The arrays of a tree of this structure; None where one is not there.

        Raises:
          UserError: a tree of another structure.
        """
        found = self.laid_out(dict(jax.tree_util.tree_flatten_with_path(tree)[0]))
        known = set(self.keys)
        strange = next((keys for keys, leaf in found.items() if is_array(leaf) and keys not in known), None)
        if strange is not None:
            raise UserError(f"these are parameters of another network: {path_of(strange)} is not among this one's")
        return [found.get(keys) for keys in self.keys]

    def full(self, tree: Any) -> list[Any]:
        """The arrays of a tree of the full network: all of them, of its shapes.

        Raises:
          UserError: one is missing, or has another shape.
        """
        arrays = self.arrays(tree)
        for path, array, shape in zip(self.paths, arrays, self.shapes, strict=True):
            if not is_array(array):
                raise UserError(f"{path} is missing; give the parameters of the full network, all of them")
            if tuple(array.shape) != tuple(shape.shape):
                raise UserError(
                    f"{path} has shape {tuple(array.shape)}, the full network's {tuple(shape.shape)}: these are "
                    "parameters of another network, or of a smaller one"
                )
        return arrays

    def laid_out(self, leaves: dict[Any, Any]) -> dict[Any, Any]:
        """Key paths to leaves, with rows for the arrays that are still stacked."""
        for keys, count in self.stacked.items():
            if is_array(leaves.get(keys)):
                rows = unrolling.rows(leaves.pop(keys), count)
                leaves |= {(*keys, jax.tree_util.SequenceKey(i)): row for i, row in enumerate(rows)}
        return leaves

    def tree(self, arrays: Sequence[Any]) -> Any:
        """The tree of some arrays: those that are None are left out of dictionaries, and None elsewhere."""
        rest = iter(GONE if array is None else array for array in arrays)
        return holes_filled(jax.tree.map(lambda leaf: next(rest) if is_array(leaf) else leaf, self.template))

    def called(self, arrays: Sequence[Any]) -> Any:
        """The tree of some arrays as the network's functions take it: stacked arrays whole, if their rows are."""
        there = all(x is not None and x.shape == s.shape for x, s in zip(arrays, self.shapes, strict=True))
        if not (self.stacked and there):
            return self.tree(arrays)
        named = dict(zip(self.keys, arrays, strict=True))
        for keys, count in self.stacked.items():
            named[keys] = jnp.stack([named[(*keys, jax.tree_util.SequenceKey(i))] for i in range(count)])
        flat, treedef = jax.tree_util.tree_flatten_with_path(self.whole)
        return jax.tree_util.tree_unflatten(treedef, [named.get(keys, leaf) for keys, leaf in flat])

    def partition(self, tree: Any) -> tuple[Any, Any]:
        """(what is trained, what is not), each the whole tree with None in the other's places."""
        arrays = self.arrays(tree)
        train = [x if t else None for x, t in zip(arrays, self.trained, strict=True)]
        rest = [None if t else x for x, t in zip(arrays, self.trained, strict=True)]
        return self._filled(train), self._filled(rest)

    def only(self, tree: Any) -> Any:
        """The tree with None for leaves that are no arrays."""
        return self._filled(self.arrays(tree))

    def only_full(self, tree: Any) -> Any:
        """`only`, of a tree of the full network. Raises as `full` does."""
        return self._filled(self.full(tree))

    @property
    def marks(self) -> Any:
        """The tree of `only` with booleans: whether a leaf is trained."""
        return self._filled(self.trained)

    def _filled(self, arrays: Sequence[Any]) -> Any:
        rest = iter(arrays)
        return jax.tree.map(lambda leaf: next(rest) if is_array(leaf) else None, self.template)


def new_values(parameters: Parameters, out_tree: Any, shapes: Sequence[Sequence[Any]]) -> list[int | None]:
    """Of every output of a function: the leaf whose new value it is, by path (name or key path) and shape, or None.

    Args:
      parameters: the leaves.
      out_tree: of the outputs.
      shapes: of the outputs.
    """
    numbered = jax.tree.unflatten(out_tree, list(range(out_tree.num_leaves)))
    known = {path_of(keys): i for i, keys in enumerate(parameters.keys)}
    known |= {path: i for i, path in enumerate(parameters.paths)}
    found: list[int | None] = []
    for (keys, _), shape in zip(jax.tree_util.tree_flatten_with_path(numbered)[0], shapes, strict=True):
        parts = path_of(keys).split("/")
        ends = ("/".join(parts[i:]) for i in range(len(parts)))  # the longest first
        leaf = next((known[end] for end in ends if end in known), None)
        same = leaf is not None and tuple(parameters.shapes[leaf].shape) == tuple(shape)
        found.append(leaf if same else None)
    return found


GONE = object()
"""Stands for an array that went with a removed block."""


def holes_filled(tree: Any) -> Any:
    """What is `GONE`, and what holds nothing else, is left out of dictionaries; it is None elsewhere."""
    if tree is GONE:
        return None
    if not any(leaf is GONE for leaf in jax.tree.leaves(tree)):
        return tree
    if isinstance(tree, Mapping):
        # its children as JAX has them: an `nnx.State` gives out others than it holds
        children = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda x: x is not tree)[0]
        left = {keys[0].key: holes_filled(child) for keys, child in children if not _all_gone(child)}
        return type(tree)(left)  # type: ignore[call-arg]
    return jax.tree.map(holes_filled, tree, is_leaf=lambda x: x is GONE or isinstance(x, Mapping))


def _all_gone(tree: Any) -> bool:
    leaves = jax.tree.leaves(tree)
    return bool(leaves) and all(leaf is GONE for leaf in leaves)


def _shape(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(tuple(leaf.shape), leaf.dtype)


def _trained(
    params: Any, trainable: Any, paths: Sequence[str], there: Sequence[int], shapes: Sequence[jax.ShapeDtypeStruct]
) -> Iterable[bool]:
    inexact = [jnp.issubdtype(shape.dtype, jnp.inexact) for shape in shapes]
    if trainable is None:
        return inexact
    marks = jax.tree.leaves(trainable, is_leaf=lambda x: x is None)
    if callable(trainable) and not all(mark is None or isinstance(mark, bool | np.bool_) for mark in marks):
        return [bool(trainable(path)) and real for path, real in zip(paths, inexact, strict=True)]
    places = [path_of(keys) for keys, _ in jax.tree_util.tree_flatten_with_path(params)[0]]
    for leaves in (lambda x: x is None), None:  # None is no leaf of a tree that has it in place of a static one
        found = jax.tree_util.tree_flatten_with_path(trainable, is_leaf=leaves)[0]
        if len(found) == len(places):
            break
    if len(found) != len(places):
        raise UserError(
            f"`trainable` has {len(found)} leaves, the parameters {len(places)}; give a tree of booleans like them"
        )
    for place, (keys, mark) in zip(places, found, strict=True):
        if path_of(keys) != place:
            raise UserError(
                f"`trainable` has {path_of(keys)!r} where the parameters have {place!r}; give a tree like them"
            )
        if not (mark is None or isinstance(mark, bool | np.bool_)):
            raise UserError(f"`trainable` says {shown(mark)} of {place!r}; give True or False")
    return [bool(found[i][1]) and real for i, real in zip(there, inexact, strict=True)]


def _unique(names: Sequence[str]) -> list[str]:
    seen: dict[str, int] = {}
    found = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        found.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return found
