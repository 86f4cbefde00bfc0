"""Trees that are shaped like parameters: which array goes with which leaf, and which of its axes it has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dms_jax.errors import UserError
from dms_jax.program.axes import UNIT, Atom, Axis, resolve
from dms_jax.program.unrolling import rows as rows_of
from dms_jax.space import Leaf, SearchSpace

BEGIN = "optimizer.init(small parameters), or what of it must be: give that as `anew`"
"""How, for people."""


class NotSliced(UserError):
    """An array that cannot be sliced.

    Args:
      why: it cannot.
      advice: what to do instead.
    """

    def __init__(self, why: str, advice: str):
        super().__init__(f"{why}: {advice}")
        self.why = why


@dataclass(frozen=True, eq=False)
class Template:
    """The structure of a tree of parameters.

    Attributes:
      leaves: key path -> leaf, of every array.
      keys: of everything in the tree; what is no array is static, or None.
      stacked: key path -> how many rows, of arrays that are laid out in rows and may come as they were.
    """

    leaves: Mapping[Any, Leaf]
    keys: frozenset[Any]
    stacked: Mapping[Any, int]

    @property
    def trained(self) -> bool:
        """Whether an optimizer keeps anything for it."""
        return any(leaf.trained for leaf in self.leaves.values())

    def parts(self) -> list[Template]:
        """Those of the collections, where the children of the tree are some: one of them holds all that is trained."""
        children = dict.fromkeys(keys[0] for keys in self.leaves if keys)
        if len({keys[0] for keys, leaf in self.leaves.items() if keys and leaf.trained}) != 1 or () in self.leaves:
            return []
        return [
            Template(
                {keys[1:]: leaf for keys, leaf in self.leaves.items() if keys[0] == child},
                frozenset(keys[1:] for keys in self.keys if keys[:1] == (child,)),
                {keys[1:]: count for keys, count in self.stacked.items() if keys[0] == child},
            )
            for child in children
            if (child,) not in self.leaves
        ]

    def match(self, keys: Sequence[Any]) -> dict[Any, Leaf] | None:
        """key path -> leaf for the key paths of a tree that has nothing else, and at least all that is trained."""
        starts = {k: next((k[:n] for n in range(len(k), -1, -1) if k[:n] in self.leaves), None) for k in keys}
        covered = {start for start in starts.values() if start is not None}
        needed = {k for k, leaf in self.leaves.items() if leaf.trained} or self.leaves.keys()
        if not covered or not needed <= covered or any(s is None and k not in self.keys for k, s in starts.items()):
            return None
        return {k: self.leaves[start] for k, start in starts.items() if start is not None}

    def has(self, keys: Any) -> bool:
        """Whether a key path is that of a leaf, or of something static, and not deeper."""
        return keys in self.leaves or keys in self.keys


class Templates:
    """The trees of one space's parameters: of all of them, and of every collection."""

    def __init__(self, space: SearchSpace):
        parameters = space.parameters
        leaves = dict(zip(parameters.keys, space.leaves.values(), strict=True))
        self.whole = Template(leaves, frozenset(_keys(parameters.template)), parameters.stacked)
        self.all = [self.whole, *self.whole.parts()]

    def by_rows(self, node: Any) -> Any:
        """Where stacked parameters are laid out in rows: the same of a tree in which they are still stacked."""
        for template in self.all if self.whole.stacked else ():
            keys = {k[:-1] if k[:-1] in template.stacked else k for k in template.leaves}
            flat, treedef = jax.tree_util.tree_flatten_with_path(node, is_leaf=hole)
            if keys <= {k for k, _ in flat} and treedef.num_leaves <= len(template.keys):
                counts = template.stacked
                rows = [rows_of(x, counts[k]) if k in counts and hasattr(x, "shape") else x for k, x in flat]
                return jax.tree_util.tree_unflatten(treedef, rows)
        return node

    def match(self, node: Any) -> dict[Any, Leaf] | None:
        """key path -> leaf, where a tree has the structure of the parameters; what is kept for one may lie deeper."""
        if hasattr(node, "shape") and self.whole.leaves.keys() != {()}:
            return None
        flat = dict(jax.tree_util.tree_flatten_with_path(node, is_leaf=hole)[0])
        deeper = None
        for template in self.all:
            found = template.match(list(flat))
            if found is None:
                continue
            if all(template.has(keys) for keys in flat):
                return found
            if deeper is None and template.trained:
                deeper = found
        # states of a chain are numbered as the parameters of a list are
        return None if deeper is None or type(node) in (list, tuple) and self._holds_parameters(node) else deeper

    def _holds_parameters(self, node: Any) -> bool:
        """Whether a part of a tree has exactly the structure of what is trained, and its shapes."""
        parts = jax.tree_util.tree_flatten(node, is_leaf=lambda x: x is not node)[0]
        for part in parts:
            if hasattr(part, "shape") or hole(part) or jax.tree_util.all_leaves([part]):
                continue
            flat = dict(jax.tree_util.tree_flatten_with_path(part, is_leaf=hole)[0])
            for template in self.all:
                found = template.match(list(flat)) if template.trained else None
                if found is not None and all(_fits(array, found.get(keys)) for keys, array in flat.items()):
                    return True
            if self._holds_parameters(part):
                return True
        return False


def kept_by_axis(found: Mapping[Any, Leaf], flat: Mapping[Any, Any]) -> dict[Any, int]:
    """Key paths of arrays that are kept one for every axis of a parameter, in order: of which axis they are."""
    several: dict[Any, list[Any]] = {}
    for keys in found:
        if keys and isinstance(keys[-1], jax.tree_util.SequenceKey):
            several.setdefault(keys[:-1], []).append(keys)
    axes: dict[Any, int] = {}
    for group in several.values():
        shapes = [tuple(getattr(flat[keys], "shape", ())) for keys in group]
        if len({id(found[keys]) for keys in group}) == 1 and shapes == [(n,) for n in found[group[0]].shape]:
            axes |= {keys: i for i, keys in enumerate(group)}
    return axes


def least_factored(found: Mapping[Any, Leaf], flat: Mapping[Any, Any], path: str) -> int:
    """The smallest second-largest axis with which a moment is factored for certain, as far as this tree says.

    optax factors where that axis has `min_dim_size_to_factor`, 128 if nothing else was said.
    """
    if not factored(path + "/"):
        return 0
    yes, no = [], [0]
    for keys, leaf in found.items():
        if len(leaf.shape) > 1 and hasattr(flat[keys], "shape"):
            known = yes if len(flat[keys].shape) == len(leaf.shape) - 1 and flat[keys].shape != (1,) else no
            known.append(sorted(leaf.shape)[-2])
    least = min(yes, default=0)
    return _FACTORED_FROM if max(no) < _FACTORED_FROM <= least else least


_FACTORED_FROM = 128


def _fits(array: Any, leaf: Leaf | None) -> bool:
    """Whether an array has the shape of a leaf, perhaps with others in front."""
    if leaf is None or not hasattr(array, "shape"):
        return leaf is None or hole(array)
    return tuple(array.shape)[max(0, len(array.shape) - len(leaf.shape)) :] == tuple(leaf.shape)


def _keys(tree: Any) -> list[Any]:
    return [keys for keys, _ in jax.tree_util.tree_flatten_with_path(tree, is_leaf=hole)[0]]


def hole(node: Any) -> bool:
    """What stands for an array that is not there: None, `optax.MaskedNode`, or a list of nothing (a scalar's axes)."""
    return node is None or (isinstance(node, list | tuple) and not node)


def factored(path: str) -> bool:
    """Whether an array is a factored moment, as optax calls them."""
    return any(name in path for name in (".v_row", ".v_col", "v_row/", "v_col/"))


def axes_of(leaf: Leaf, shape: tuple[int, ...], path: str) -> tuple[Axis, ...] | None:
    """The axes of an array that an optimizer keeps for a parameter; None: none of the parameter's.

    Its own shape; with leading axes in front (a history); one axis alone, others of size 1; or one axis missing (a
    factored moment).

    Raises:
      NotSliced: the shape does not say which axes these are.
    """
    own = leaf.shape
    if shape == own:
        return leaf.axes
    if all(n == 1 for n in shape):
        return None
    if len(shape) > len(own) and shape[len(shape) - len(own) :] == own:
        return (*(Atom(n) for n in shape[: len(shape) - len(own)]), *leaf.axes)
    if len(shape) == len(own) and all(n in (1, m) for n, m in zip(shape, own, strict=True)):
        return tuple(axis if n == m else UNIT for axis, n, m in zip(leaf.axes, shape, own, strict=True))
    missing = [i for i in range(len(own)) if own[:i] + own[i + 1 :] == shape]
    if len(missing) > 1 and factored(path):
        largest = np.argsort(own)  # optax's rule: rows lack the largest axis, columns the next
        missing = [int(largest[-1] if "v_row" in path else largest[-2])]
    choices = {tuple(id(resolve(a)) for a in leaf.axes[:i] + leaf.axes[i + 1 :]) for i in missing}
    if len(choices) == 1:
        return leaf.axes[: missing[0]] + leaf.axes[missing[0] + 1 :]
    raise NotSliced(
        f"{path} has shape {shape}; the network's {leaf.path} has {own}, and its axes do not say how to slice this",
        f"give parameters of this network, and start an optimizer of such states anew, {BEGIN}",
    )


def weighed(before: Any, after: Any) -> Any:
    """A part of an optimizer's state after slicing, with inner products of what was sliced computed again.

    L-BFGS keeps 1 / <s, y> of every step s and change of the gradient y. A pair that is left without curvature, or with
    a negative one, weighs 0, as one that is not there yet.

    Args:
      before: a node of the state.
      after: the same node, its children sliced.
    """
    if not _PAIRS <= set(getattr(after, "_fields", ())):
        return after
    steps, changes = jax.tree.leaves(after.diff_params_memory), jax.tree.leaves(after.diff_updates_memory)
    old, arrays = jax.tree.leaves(before.diff_params_memory), (jax.Array, np.ndarray)
    if len(old) == len(steps) and all(a is b for a, b in zip(old, steps, strict=True)):
        return after
    pairs = [(s, y) for s, y in zip(steps, changes, strict=True) if isinstance(s, arrays) and isinstance(y, arrays)]
    if not pairs:
        return after
    weights = after.weights_memory
    curvature = sum(jnp.sum(jnp.reshape(s * y, (len(weights), -1)), 1) for s, y in pairs)
    new = jnp.where(curvature > 0, 1 / jnp.where(curvature > 0, curvature, 1), 0)
    return after._replace(weights_memory=new.astype(weights.dtype))


_PAIRS = {"diff_params_memory", "diff_updates_memory", "weights_memory"}
