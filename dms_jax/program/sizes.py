"""Sizes and kept positions of axes, once some atoms have lost elements or stand for other sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from dms_jax.errors import TracingError
from dms_jax.program.axes import UNIT, Atom, Axis, Concat, Product, atoms, resolve


@dataclass(frozen=True, eq=False)
class Sizes:
    """The axes of a program at other sizes.

    Attributes:
      kept: atom -> ascending positions that stay.
      free: atom -> another size (an integer or a symbolic dimension), for axes of inputs: the batch.
      as_full: random numbers are those that the full network draws, where positions stay: to compare the two. Else a
        draw of another size is another draw.
    """

    kept: Mapping[Atom, np.ndarray]
    free: Mapping[Atom, Any] = field(default_factory=dict)
    as_full: bool = False

    @property
    def whole(self) -> Sizes:
        """The full network's sizes, for the same inputs."""
        return Sizes({}, self.free)

    def size(self, axis: Axis) -> Any:
        """How many positions an axis has."""
        axis = resolve(axis)
        if isinstance(axis, Atom):
            return len(self.kept[axis]) if axis in self.kept else self.free.get(axis, axis.size)
        if isinstance(axis, Concat):
            return sum((self.size(part) for part in axis.parts[1:]), self.size(axis.parts[0]))
        return prod((self.size(factor) for factor in axis.factors[1:]), start=self.size(axis.factors[0]))

    def shape(self, value: Any) -> tuple[Any, ...]:
        """The shape of a value."""
        return tuple(self.size(axis) for axis in value.axes)

    def touched(self, axis: Axis) -> bool:
        """Whether an axis has atoms that lost elements."""
        return any(atom in self.kept for atom in atoms(resolve(axis)))

    def changed(self, axis: Axis) -> bool:
        """Whether an axis has atoms that lost elements or are of another size."""
        return any(atom in self.kept or atom in self.free for atom in atoms(resolve(axis)))

    def positions(self, axis: Axis) -> np.ndarray:
        """Which positions of the axis, as it was traced, stay; ascending."""
        axis = resolve(axis)
        if isinstance(axis, Concat):
            starts = np.cumsum([0, *(part.size for part in axis.parts)])
            return np.concatenate(
                [self.positions(part) + start for part, start in zip(axis.parts, starts[:-1], strict=True)]
            )
        if isinstance(axis, Product):
            total = np.zeros(1, np.int64)
            for factor in axis.factors:
                total = (total[:, None] * factor.size + self.positions(factor)[None, :]).reshape(-1)
            return total
        return np.asarray(self.kept[axis]) if axis in self.kept else np.arange(axis.size)

    def bounds(self, axis: Axis, start: int, stop: int) -> tuple[Any, Any]:
        """Where positions [start:stop] of an axis begin and end; the whole axis stays whole."""
        if start == 0 and stop == axis.size:
            return 0, self.size(axis)
        if self.touched(axis):
            positions = self.positions(axis)
            return int(np.searchsorted(positions, start)), int(np.searchsorted(positions, stop))
        return start, stop  # of a batch: its first positions stay the first


def elements_at(axis: Axis, owned: Mapping[Atom, tuple[str, int]], name: str) -> np.ndarray:
    """`[k, positions]`: the elements of a group that every position of an axis goes with, -1 for none.

    k is 1 at least, and more where the axis is a product that has the group in several factors: position (i, j) of
    n x n goes with element i, and with element j.
    """
    axis = resolve(axis)
    if isinstance(axis, Concat):
        parts = [elements_at(part, owned, name) for part in axis.parts]
        most = max(map(len, parts))
        return np.concatenate([np.pad(at, ((0, most - len(at)), (0, 0)), constant_values=-1) for at in parts], 1)
    if isinstance(axis, Product):
        found, before = [], 1
        for factor in axis.factors:
            at, before = elements_at(factor, owned, name), before * factor.size
            if np.any(at >= 0):
                after = axis.size // max(before, 1)
                found.append(np.tile(np.repeat(at, after, 1), (1, before // factor.size)))
        return np.concatenate(found) if found else np.full((1, axis.size), -1)
    owner, start = owned.get(axis, ("", 0))
    return np.arange(start, start + axis.size)[None] if owner == name else np.full((1, axis.size), -1)


def owners(axis: Axis, owned: Mapping[Atom, tuple[str, int]]) -> list[str]:
    """The groups whose elements an axis is made of."""
    return list(dict.fromkeys(owned[atom][0] for atom in atoms(resolve(axis)) if atom in owned))


def same(a: Axis, b: Axis) -> bool:
    """Whether two axes are of the same positions in the same order."""
    a, b = resolve(a), resolve(b)
    if isinstance(a, Atom) or isinstance(b, Atom):
        return a is b
    parts = [axis.parts if isinstance(axis, Concat) else axis.factors for axis in (a, b)]
    return type(a) is type(b) and len(parts[0]) == len(parts[1]) and all(map(same, *parts))


def bind(values: Sequence[Any], shapes: Sequence[Sequence[Any]]) -> dict[Atom, Any]:
    """Which atoms of inputs have other sizes than they were traced with.

    Raises:
      TracingError: an axis that is made of several, whose new size does not say which of them changed.
    """
    free: dict[Atom, Any] = {}
    for value, shape in zip(values, shapes, strict=True):
        for axis, size in zip(value.axes, shape, strict=True):
            axis = resolve(axis)
            if isinstance(size, int) and size == axis.size:
                continue
            head = axis.factors[0] if isinstance(axis, Product) else axis
            rest = prod(factor.size for factor in axis.factors[1:]) if isinstance(axis, Product) else 1
            if not isinstance(head, Atom) or head is UNIT:
                raise TracingError(f"an input axis of size {axis.size} cannot have size {size}: it is cut into parts")
            free[head] = size // rest
    return free
