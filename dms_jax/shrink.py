"""From the variables of the full network to those of the smaller one, and the check that both compute the same."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.sharding import NamedSharding, PartitionSpec

from dms_jax.errors import UserError
from dms_jax.placement import FSDP, sharding_of
from dms_jax.program.axes import UNIT, Atom, Axis, resolve
from dms_jax.program.parameters import GONE, holes_filled, path_of
from dms_jax.program.sizes import Sizes
from dms_jax.program.unrolling import rows as rows_of
from dms_jax.reading import shown
from dms_jax.space import Leaf, SearchSpace
from dms_jax.structure import Structure


def shrink(space: SearchSpace, tree: Any, structure: Structure | Mapping[str, Sequence[int]]) -> Any:
    """Slice a pytree of the full network's parameters down to a structure.

    Arrays on a mesh stay on it, in one process or several. Where the mesh has an "fsdp" axis they lie as
    `dms_jax.training.shardings` puts the smaller ones; on another mesh an axis that is cut keeps its sharding where the
    devices divide its new size, and is copied where they do not. No device ever holds the whole of an array that was
    cut over devices, unless no other axis can be.

    Args:
      space: the full network's space.
      tree: the parameters, or any pytree with sub-trees of their structure: an optax state (moments are sliced with
        their parameters), a moving average of weights, a train state. A sub-tree is recognized by its whole structure:
        that of the parameters, of one of their collections, or of either with None (or `optax.MaskedNode`) in places;
        never by a name. Where it holds other arrays than the parameters themselves (factored moments, a history of
        updates), their axes say how they are sliced. Everything else (step counts, keys) is passed through. Leaves may
        be `jax.Array`, numpy or `jax.ShapeDtypeStruct`.
      structure: what to keep.

    Returns:
      The same tree, smaller: what a removed block held is left out of dictionaries, and None elsewhere.

    Raises:
      UserError: a structure of another network, an array in such a sub-tree whose axes cannot be told, or a tree
        without such a sub-tree that has arrays like those to slice.
    """
    if not isinstance(space, SearchSpace):
        raise UserError(f"shrink takes (space, tree, structure), and its space is {shown(space)}; give a SearchSpace")
    cut = _Cut(space, space.kept(structure))
    small = cut.walk(tree, "")
    cut.check()
    return _unwrapped(holes_filled(small))


@dataclass(frozen=True, eq=False)
class _Template:
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

    def parts(self) -> list[_Template]:
        """Those of the collections, where the children of the tree are some: one of them holds all that is trained."""
        children = dict.fromkeys(keys[0] for keys in self.leaves if keys)
        if len({keys[0] for keys, leaf in self.leaves.items() if keys and leaf.trained}) != 1 or () in self.leaves:
            return []
        return [
            _Template(
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


class _Cut:
    """Walks a tree down to the sub-trees that are shaped like parameters."""

    def __init__(self, space: SearchSpace, kept: Mapping[str, tuple[int, ...]]):
        self.sizes, self.gone = space.sizes(kept), space.gone(kept)
        leaves = list(space.leaves.values())
        self.trained = [leaf for leaf in leaves if leaf.trained]
        template = space.parameters.template
        whole = dict(zip(space.parameters.keys, leaves, strict=True))
        whole = _Template(whole, frozenset(_keys(template)), space.parameters.stacked)
        self.templates = [whole, *whole.parts()]
        self.found, self.strange = False, ""  # any sub-tree; the path of an array like one to slice outside of all

    def check(self) -> None:
        """Refuse a tree of which nothing is a tree of parameters, but some arrays look like them."""
        if not self.found and self.strange:
            raise UserError(
                f"nothing in this tree has the structure of the network's parameters, and {self.strange}: give all of "
                "the parameters under their own names, and nothing else beside them"
            )

    def walk(self, node: Any, path: str) -> Any:
        node = self._by_rows(node)
        found = self._like_parameters(node)
        if found is not None:
            self.found = True
            flat, treedef = jax.tree_util.tree_flatten_with_path(node, is_leaf=_hole)
            named = dict(flat)
            by_axis, factored = self._kept_by_axis(found, named), self._least_factored(found, named, path)
            cut = [self._leaf(found.get(k), x, path + path_of(k), by_axis.get(k), factored) for k, x in flat]
            return jax.tree_util.tree_unflatten(treedef, cut)
        if hasattr(node, "shape") or jax.tree_util.all_leaves([node]):
            return self._alone(node, path)
        return jax.tree_util.tree_map_with_path(
            lambda keys, child: self.walk(child, f"{path}{path_of(keys)}/"), node, is_leaf=lambda x: x is not node
        )

    def _by_rows(self, node: Any) -> Any:
        """Where stacked parameters are laid out in rows: the same of a tree in which they are still stacked."""
        for template in self.templates if self.templates[0].stacked else ():
            keys = {k[:-1] if k[:-1] in template.stacked else k for k in template.leaves}
            flat, treedef = jax.tree_util.tree_flatten_with_path(node, is_leaf=_hole)
            if keys <= {k for k, _ in flat} and treedef.num_leaves <= len(template.keys):
                counts = template.stacked
                rows = [rows_of(x, counts[k]) if k in counts and hasattr(x, "shape") else x for k, x in flat]
                return jax.tree_util.tree_unflatten(treedef, rows)
        return node

    def _like_parameters(self, node: Any) -> dict[Any, Leaf] | None:
        """key path -> leaf, where a tree has the structure of the parameters; what is kept for one may lie deeper."""
        if hasattr(node, "shape") and self.templates[0].leaves.keys() != {()}:
            return None
        flat = dict(jax.tree_util.tree_flatten_with_path(node, is_leaf=_hole)[0])
        deeper = None
        for template in self.templates:
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
            if hasattr(part, "shape") or _hole(part) or jax.tree_util.all_leaves([part]):
                continue
            flat = dict(jax.tree_util.tree_flatten_with_path(part, is_leaf=_hole)[0])
            for template in self.templates:
                found = template.match(list(flat)) if template.trained else None
                if found is not None and all(_fits(array, found.get(keys)) for keys, array in flat.items()):
                    return True
            if self._holds_parameters(part):
                return True
        return False

    def _kept_by_axis(self, found: Mapping[Any, Leaf], flat: Mapping[Any, Any]) -> dict[Any, int]:
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

    def _least_factored(self, found: Mapping[Any, Leaf], flat: Mapping[Any, Any], path: str) -> int:
        """The smallest second-largest axis with which a moment is factored for certain, as far as this tree says.

        optax factors where that axis has `min_dim_size_to_factor`, 128 if nothing else was said.
        """
        if not _factored(path + "/"):
            return 0
        yes, no = [], [0]
        for keys, leaf in found.items():
            if len(leaf.shape) > 1 and hasattr(flat[keys], "shape"):
                known = yes if len(flat[keys].shape) == len(leaf.shape) - 1 and flat[keys].shape != (1,) else no
                known.append(sorted(leaf.shape)[-2])
        least = min(yes, default=0)
        return _FACTORED_FROM if max(no) < _FACTORED_FROM <= least else least

    def _leaf(self, leaf: Leaf | None, array: Any, path: str, axis: int | None = None, factored_from: int = 0) -> Any:
        if leaf is None:
            return array
        if leaf.gates & self.gone:
            return GONE
        if not hasattr(array, "shape"):
            return _Stays(array)
        axes = _axes_of(leaf, tuple(array.shape), path) if axis is None else (leaf.axes[axis],)
        if axes is not None and len(axes) == len(leaf.axes) - 1 and _factored(path):
            self._check_factored(leaf, path, factored_from)
        return array if axes is None else _sliced(self.sizes, axes, array)

    def _check_factored(self, leaf: Leaf, path: str, factored_from: int) -> None:
        """A moment is factored along the two largest axes if they are large: in the smaller network, too."""
        small = [len(self.sizes.positions(axis)) for axis in leaf.axes]
        if sorted(small)[-2] < factored_from:
            raise UserError(
                f"{path} is a moment of {leaf.path}, factored as its axes are large, which the smaller network's "
                f"may not be ({leaf.shape} becomes {tuple(small)}): start this optimizer anew, optimizer.init(small "
                "parameters)"
            )
        if np.argsort(small)[-2:].tolist() != np.argsort(leaf.shape)[-2:].tolist():
            raise UserError(
                f"{path} is a moment of {leaf.path}, factored along its two largest axes, which are others in the "
                f"smaller network ({leaf.shape} becomes {tuple(small)}): start this optimizer anew, "
                "optimizer.init(small parameters)"
            )

    def _alone(self, array: Any, path: str) -> Any:
        """An array outside of all such trees: all trained parameters end to end, or nothing of theirs."""
        total = sum(math.prod(leaf.shape) for leaf in self.trained)
        if getattr(array, "shape", None) != (total,) or total == 1:
            self._note(array, path)
            return array
        self.found = True
        pieces, start = [], 0
        for leaf in self.trained:
            size = math.prod(leaf.shape)
            if not leaf.gates & self.gone:
                piece = array[start : start + size].reshape(leaf.shape)
                pieces.append(_sliced(self.sizes, leaf.axes, piece).reshape(-1))
            start += size
        return np.concatenate(pieces) if isinstance(array, np.ndarray) else jnp.concatenate(pieces)

    def _note(self, array: Any, path: str) -> None:
        shape, dtype = getattr(array, "shape", ()), getattr(array, "dtype", None)
        if self.strange or not shape or dtype is None or not jnp.issubdtype(dtype, jnp.inexact):
            return
        for leaf in self.templates[0].leaves.values():
            cut = leaf.gates & self.gone or any(self.sizes.changed(axis) for axis in leaf.axes)
            if cut and tuple(shape) == tuple(leaf.shape):
                self.strange = f"{path.rstrip('/') or 'an array'} has the shape of {leaf.path}, which is sliced"


_FACTORED_FROM = 128


def _fits(array: Any, leaf: Leaf | None) -> bool:
    """Whether an array has the shape of a leaf, perhaps with others in front."""
    if leaf is None or not hasattr(array, "shape"):
        return leaf is None or _hole(array)
    return tuple(array.shape)[max(0, len(array.shape) - len(leaf.shape)) :] == tuple(leaf.shape)


def _keys(tree: Any) -> list[Any]:
    return [keys for keys, _ in jax.tree_util.tree_flatten_with_path(tree, is_leaf=_hole)[0]]


@dataclass(frozen=True)
class _Stays:
    """Around what stands for an array that is not there: its dictionary stays, though it holds nothing else."""

    hole: Any


def _unwrapped(tree: Any) -> Any:
    return jax.tree.map(lambda x: x.hole if isinstance(x, _Stays) else x, tree)


def _hole(node: Any) -> bool:
    """None and `optax.MaskedNode` stand for an array that is not there."""
    return node is None or (isinstance(node, tuple) and not node and hasattr(node, "_fields"))


def _factored(path: str) -> bool:
    """Whether an array is a factored moment, as optax calls them."""
    return any(name in path for name in (".v_row", ".v_col", "v_row/", "v_col/"))


def _axes_of(leaf: Leaf, shape: tuple[int, ...], path: str) -> tuple[Axis, ...] | None:
    """The axes of an array that an optimizer keeps for a parameter; None: none of the parameter's.

    Its own shape; with leading axes in front (a history); one axis alone, others of size 1; or one axis missing (a
    factored moment).

    Raises:
      UserError: the shape does not say which axes these are.
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
    if len(missing) > 1 and _factored(path):
        largest = np.argsort(own)  # optax's rule: rows lack the largest axis, columns the next
        missing = [int(largest[-1] if "v_row" in path else largest[-2])]
    choices = {tuple(id(resolve(a)) for a in leaf.axes[:i] + leaf.axes[i + 1 :]) for i in missing}
    if len(choices) == 1:
        return leaf.axes[: missing[0]] + leaf.axes[missing[0] + 1 :]
    raise UserError(
        f"{path} has shape {shape}; the network's {leaf.path} has {own}, and its axes do not say how to slice this: "
        "give parameters of this network, and start an optimizer of such states anew, optimizer.init(small parameters)"
    )


def _sliced(sizes: Sizes, axes: Sequence[Axis], array: Any) -> Any:
    chosen = {i: sizes.positions(axis) for i, axis in enumerate(axes) if sizes.touched(axis)}
    chosen = {i: at for i, at in chosen.items() if len(at) < array.shape[i]}
    if not chosen:
        return array
    shape = tuple(len(chosen[i]) if i in chosen else n for i, n in enumerate(array.shape))
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
