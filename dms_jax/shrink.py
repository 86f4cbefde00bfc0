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
from dms_jax.moments import BEGIN, NotSliced, Templates, axes_of, factored, hole, kept_by_axis, least_factored, weighed
from dms_jax.placement import FSDP, sharding_of
from dms_jax.program.axes import Axis
from dms_jax.program.parameters import GONE, holes_filled, path_of
from dms_jax.program.sizes import Sizes
from dms_jax.reading import shown
from dms_jax.restart import Unsliced, restarted
from dms_jax.space import Leaf, SearchSpace
from dms_jax.structure import Structure


def shrink(
    space: SearchSpace, tree: Any, structure: Structure | Mapping[str, Sequence[int]], *, anew: Any = None
) -> Any:
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
      anew: the state of the small network's optimizer before its first step, `optimizer.init(small parameters)`, where
        `tree` is the state of one: what cannot be sliced (GaLore's projections, Adafactor's moments of arrays that are
        now too small to be factored) begins as there, together with its count. None: it is refused.

    Returns:
      The same tree, smaller: what a removed block held is left out of dictionaries, and None elsewhere.

    Warns:
      UserWarning: a part of the optimizer's state begins anew: which, and why.

    Raises:
      UserError: a structure of another network, an array in such a sub-tree whose axes cannot be told, or one outside
        of all such sub-trees that has the shape of one to slice (of several axes, where there are such sub-trees).
    """
    if not isinstance(space, SearchSpace):
        raise UserError(f"shrink takes (space, tree, structure), and its space is {shown(space)}; give a SearchSpace")
    cut = _Cut(space, space.kept(structure), strict=anew is None)
    small = cut.walk(tree, "")
    cut.check()
    small = _unwrapped(holes_filled(small))
    return small if anew is None else restarted(small, anew)


class _Cut:
    """Walks a tree down to the sub-trees that are shaped like parameters."""

    def __init__(self, space: SearchSpace, kept: Mapping[str, tuple[int, ...]], strict: bool):
        self.strict = strict  # what cannot be sliced is refused
        self.sizes, self.gone = space.sizes(kept), space.gone(kept)
        leaves = list(space.leaves.values())
        self.trained = [leaf for leaf in leaves if leaf.trained]
        self.templates = Templates(space)
        self.found = False  # any sub-tree
        self.strange: dict[int, str] = {}  # of arrays like one to slice outside of all: axes -> the first one's path

    def check(self) -> None:
        """Refuse a tree in which arrays outside of all trees of parameters look like parameters.

        A vector next to a tree of parameters may be as long as one by chance.
        """
        if not self.found and self.strange:
            raise UserError(
                f"nothing in this tree has the structure of the network's parameters, and "
                f"{next(iter(self.strange.values()))}: give all of the parameters under their own names, and nothing "
                "else beside them"
            )
        beside = next((said for axes, said in self.strange.items() if axes > 1), None)
        if beside is not None and self.strict:
            raise UserError(
                f"{beside}, but is in no tree of this network's parameters, so it would not be: shrink what belongs "
                "to this network by itself, and start its optimizer anew, optimizer.init(small parameters)"
            )

    def walk(self, node: Any, path: str) -> Any:
        node = self.templates.by_rows(node)
        found = self.templates.match(node)
        if found is not None:
            self.found = True
            flat, treedef = jax.tree_util.tree_flatten_with_path(node, is_leaf=hole)
            named = dict(flat)
            by_axis, least = kept_by_axis(found, named), least_factored(found, named, path)
            cut = [self._leaf(found.get(k), x, path + path_of(k), by_axis.get(k), least) for k, x in flat]
            return jax.tree_util.tree_unflatten(treedef, cut)
        if hasattr(node, "shape") or jax.tree_util.all_leaves([node]):
            return self._alone(node, path)
        small = jax.tree_util.tree_map_with_path(
            lambda keys, child: self.walk(child, f"{path}{path_of(keys)}/"), node, is_leaf=lambda x: x is not node
        )
        return weighed(node, small)

    def _leaf(self, leaf: Leaf | None, array: Any, path: str, axis: int | None = None, factored_from: int = 0) -> Any:
        if leaf is None:
            return array
        if leaf.gates & self.gone:
            return GONE
        if not hasattr(array, "shape"):
            return _Stays(array)
        try:
            axes = axes_of(leaf, tuple(array.shape), path) if axis is None else (leaf.axes[axis],)
            if axes is not None and len(axes) == len(leaf.axes) - 1 and factored(path):
                self._check_factored(leaf, path, factored_from)
        except NotSliced as error:
            if self.strict:
                raise
            return Unsliced(error.why)
        return array if axes is None else _sliced(self.sizes, axes, array)

    def _check_factored(self, leaf: Leaf, path: str, factored_from: int) -> None:
        """A moment is factored along the two largest axes if they are large: in the smaller network, too."""
        small = [len(self.sizes.positions(axis)) for axis in leaf.axes]
        if sorted(small)[-2] < factored_from:
            raise NotSliced(
                f"{path} is a moment of {leaf.path}, factored as its axes are large, which the smaller network's "
                f"may not be ({leaf.shape} becomes {tuple(small)})",
                f"start this optimizer anew, {BEGIN}",
            )
        if np.argsort(small)[-2:].tolist() != np.argsort(leaf.shape)[-2:].tolist():
            raise NotSliced(
                f"{path} is a moment of {leaf.path}, factored along its two largest axes, which are others in the "
                f"smaller network ({leaf.shape} becomes {tuple(small)})",
                f"start this optimizer anew, {BEGIN}",
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
        if len(shape) in (0, *self.strange) or dtype is None or not jnp.issubdtype(dtype, jnp.inexact):
            return
        for leaf in self.templates.whole.leaves.values():
            cut = leaf.gates & self.gone or any(self.sizes.changed(axis) for axis in leaf.axes)
            if cut and tuple(shape) == tuple(leaf.shape):
                said = f"{path.rstrip('/') or 'an array'} has the shape of {leaf.path}, which is sliced"
                self.strange.setdefault(len(shape), said)


@dataclass(frozen=True)
class _Stays:
    """Around what stands for an array that is not there: its dictionary stays, though it holds nothing else."""

    hole: Any


def _unwrapped(tree: Any) -> Any:
    return jax.tree.map(lambda x: x.hole if isinstance(x, _Stays) else x, tree)


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
