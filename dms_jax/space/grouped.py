"""Parameters whose axes are made of groups of elements: what stays of them in a structure, and as which masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from dms_jax import checks
from dms_jax.adapters.source import Source
from dms_jax.errors import UserError
from dms_jax.groups import Group
from dms_jax.program.axes import Axis
from dms_jax.program.discovery import Discovery
from dms_jax.program.exactness import Element
from dms_jax.program.frames import Program, Value, describe
from dms_jax.program.parameters import Parameters
from dms_jax.program.sizes import Sizes, elements_at, owners
from dms_jax.structure import Structure


@dataclass(frozen=True, eq=False)
class Leaf:
    """One array of the parameters.

    Attributes:
      path: "stage1/block0/conv1/kernel".
      shape: of the full network.
      axes: one a dimension.
      gates: (depth group, element) that it goes with: all of its uses are behind them.
      trained: whether an optimizer changes it.
    """

    path: str
    shape: tuple[int, ...]
    axes: tuple[Axis, ...]
    gates: frozenset[Element]
    trained: bool


@dataclass(frozen=True, eq=False)
class Found:
    """A network, and what was found in it.

    Attributes:
      source: of the network.
      example: shapes of its inputs.
      parameters: its leaves.
      discovery: groups and axes.
      model: what it was made of, where that is more than a function.
    """

    source: Source
    example: tuple[Any, ...]
    parameters: Parameters
    discovery: Discovery
    model: Any = None


class Grouped:
    """The parameters of one network and the groups that were found in it.

    Attributes:
      title: the network and what its MACs are counted for.
      groups: name -> `Group`, in the order of the network.
      leaves: path -> `Leaf`, for every array of the parameters.
      example: shapes of the inputs; MACs are those of one call with them.
    """

    def __init__(self, found: Found):
        self.source, self.example, self.parameters = found.source, found.example, found.parameters
        self._found = found.discovery
        self.groups: dict[str, Group] = self._found.groups

    @property
    def title(self) -> str:
        """The network and what its MACs are counted for: `ResNet, one forward pass of float32[1, 224, 224, 3]`."""
        shapes = [f"{x.dtype}{list(x.shape)}" for x in jax.tree.leaves(self.example) if hasattr(x, "shape")]
        return f"{self.source.title}, one forward pass of {', '.join(shapes)}"

    # --- what stays ---

    def kept(self, structure: Structure | Mapping[str, Sequence[int]] | None) -> dict[str, tuple[int, ...]]:
        """The kept elements of every group, checked.

        Raises:
          UserError: unknown groups, elements out of range, or fewer elements than must stay.
        """
        if not isinstance(structure, Structure):
            given: Any = {} if structure is None else structure  # which it checks itself
            structure = Structure(given)
        unknown = sorted(set(structure.kept) - set(self.groups))
        if unknown:
            raise UserError(
                f"the structure has group {unknown[0]!r}, which {self.source.title} does not have (its groups: "
                f"{', '.join(list(self.groups)[:4])}, ...): is it another model's?"
            )
        found = {}
        for name, group in self.groups.items():
            kept = structure.kept.get(name, tuple(range(group.size)))
            size = structure.sizes.get(name, group.size)
            if size != group.size or (kept and kept[-1] >= group.size):
                had = max(size, kept[-1] + 1 if kept else 0)
                raise UserError(
                    f"the structure's group {name!r} has {had} elements, the model's {group.size}: another size?"
                )
            if len(kept) < group.least:
                raise UserError(f"the structure keeps {len(kept)} of group {name!r}; at least {group.least} must stay")
            found[name] = kept
        return found

    def gone(self, kept: Mapping[str, Sequence[int]]) -> frozenset[Element]:
        """The gates that are closed in a structure."""
        depth = self._found.classes.depth
        return frozenset((n, i) for n in depth for i in range(self.groups[n].size) if i not in set(kept[n]))

    def sizes(self, kept: Mapping[str, Sequence[int]]) -> Sizes:
        """The axes of the parameters under kept elements."""
        found = {}
        for atom, (name, start) in self._owned.items():
            elements = np.asarray(kept[name], np.int64) - start
            elements = elements[(elements >= 0) & (elements < atom.size)]
            if len(elements) < atom.size:
                found[atom] = elements
        return Sizes(found)

    def _removed(self, kept: Mapping[str, Sequence[int]]) -> set[str]:
        """Groups that slice only parameters of removed blocks."""
        gone = [leaf for leaf in self.leaves.values() if any(i not in kept[name] for name, i in leaf.gates)]
        left = [leaf for leaf in self.leaves.values() if leaf not in gone]
        alive = {name for leaf in left for axis in leaf.axes for name in self.owners(axis)}
        alive |= {name for leaf in left for name, _ in leaf.gates}
        return {name for leaf in gone for axis in leaf.axes for name in self.owners(axis)} - alive

    def _checked_masks(self, masks: Any) -> Mapping[str, jax.Array]:
        for name, mask in checks.by_name("masks", masks, '{"stem": an array [N]}').items():
            if name not in self.groups:
                raise UserError(f"masks of {name!r}, which is no group of {self.title}: see space.groups")
            size, shape = self.groups[name].size, getattr(mask, "shape", None)
            if shape != (size,):
                raise UserError(f"the mask of {name!r} has shape {shape}; give [{size}], one number an element")
        return {name: jnp.asarray(mask) for name, mask in masks.items()}

    # --- masks ---

    def masks(self, structure: Structure | Mapping[str, Sequence[int]] | None = None) -> dict[str, jax.Array]:
        """{group: [N]} float32 of 0 and 1 for a structure; all ones for None."""
        kept = self.kept(structure)
        return {
            name: jnp.asarray(np.isin(np.arange(group.size), kept[name]), jnp.float32)
            for name, group in self.groups.items()
        }

    def by_group(self, flat: jax.Array) -> dict[str, jax.Array]:
        """`[elements]` laid end to end -> {group: [N]}."""
        pieces = jax.lax.split(flat, [group.size for group in self.groups.values()])
        return dict(zip(self.groups, pieces, strict=True))

    def flat(self, by_group: Mapping[str, jax.Array]) -> jax.Array:
        """{group: [N]} -> `[elements]` laid end to end."""
        return jnp.concatenate([by_group[name] for name in self.groups])

    def collection(self, flat: jax.Array) -> dict[str, Any]:
        """`[elements]` laid end to end -> the nested "masks" collection of a marked Linen module."""
        return unflatten_dict(self.by_group(flat), sep="/")

    def partition(self, tree: Any) -> tuple[Any, Any]:
        """(what is trained, the rest), each with None in the other's places; `partition.combine` undoes it."""
        return self.parameters.partition(tree)

    def arrays(self, tree: Any) -> Any:
        """The tree with None for what is no array: what a state can hold."""
        return self.parameters.only(tree)

    def whole(self, tree: Any) -> Any:
        """Undo `arrays`: parameters of any structure with the leaves that are no arrays back in their places."""
        return self.parameters.called(self.parameters.arrays(tree))

    @property
    def trained(self) -> Any:
        """The tree of `arrays` with booleans: what an optimizer changes. `shrink` slices it with the parameters."""
        return self.parameters.marks

    def magnitudes(self, params: Any) -> dict[str, jax.Array]:
        """{group: [N]} sum of |w| over the trained weights that go when an element goes."""
        totals = {name: jnp.zeros((group.size,), jnp.float32) for name, group in self.groups.items()}
        for leaf, array in zip(self.leaves.values(), self.parameters.arrays(params), strict=True):
            if not leaf.trained or array is None:
                continue
            weights = jnp.abs(array).astype(jnp.float32)
            for name, element in leaf.gates:
                totals[name] = totals[name].at[element].add(jnp.sum(weights))
            for axis, term in enumerate(leaf.axes):
                others = tuple(i for i in range(weights.ndim) if i != axis)
                for name in self.owners(term):
                    every, along = self.elements_at(term, name), jnp.sum(weights, axis=others)
                    for i, at in enumerate(every):
                        goes = (at >= 0) & np.all(every[:i] != at, axis=0)  # once with an element that it has twice
                        totals[name] = totals[name].at[at].add(jnp.where(goes, along, 0.0))
        return totals

    # --- axes ---

    @property
    def _owned(self) -> Mapping[Any, tuple[str, int]]:
        return self._found.classes.owned

    @cached_property
    def leaves(self) -> dict[str, Leaf]:
        """path -> `Leaf`, in the order of the tree."""
        p, classes = self.parameters, self._found.classes
        rows = zip(p.paths, p.shapes, classes.axes, classes.gates, p.trained, strict=True)
        return {path: Leaf(path, tuple(s.shape), axes, gates, train) for path, s, axes, gates, train in rows}

    @property
    def traced(self) -> tuple[Program, dict[str, Value]]:
        """The program that was read, and path -> the value in it, of every array of the parameters."""
        return self._found.program, dict(zip(self.parameters.paths, self._found.leaves, strict=True))

    def elements_at(self, axis: Axis, name: str) -> np.ndarray:
        """`[k, positions]`: the elements of a group that every position of an axis goes with, -1 for none.

        k is more than 1 where the axis is a product that has the group in several factors.
        """
        return elements_at(axis, self._owned, name)

    def owners(self, axis: Axis) -> list[str]:
        """The groups whose elements an axis is made of."""
        return owners(axis, self._owned)

    def indices(self, axis: Axis, kept: Mapping[str, Sequence[int]]) -> np.ndarray:
        """Which positions of an axis stay, ascending."""
        return self.sizes(kept).positions(axis)

    def ties(self, group: str, axis: Axis) -> list[str]:
        """The operations that tie a group to an axis, nearest the group's name first."""
        site = self._found.sites.get(group)
        return [] if site is None else [describe(why) for why in self._found.program.ties.path(site, axis)]
