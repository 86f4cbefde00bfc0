"""Resources that are polynomials in the sizes of groups: exact on integers, differentiable in soft masks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from dms_jax.groups import Group
from dms_jax.program.axes import Atom, Axis, Concat, resolve

Monomial: TypeAlias = tuple[int, ...]  # variables multiplied, ascending, with repetition; () is 1
Sum: TypeAlias = dict[Monomial, int]


def size_of(axis: Axis, owner: Mapping[Atom, int]) -> Sum:
    """The size of an axis: constants, variables (`owner` numbers the atoms that belong to groups), sums, products."""
    axis = resolve(axis)
    if isinstance(axis, Atom):
        return {(owner[axis],): 1} if axis in owner else {(): axis.size}
    if isinstance(axis, Concat):
        return add(size_of(part, owner) for part in axis.parts)
    return multiply(size_of(factor, owner) for factor in axis.factors)


def add(sums: Iterable[Sum]) -> Sum:
    total: Sum = {}
    for terms in sums:
        for monomial, coefficient in terms.items():
            total[monomial] = total.get(monomial, 0) + coefficient
    return total


def multiply(sums: Iterable[Sum]) -> Sum:
    total: Sum = {(): 1}
    for terms in sums:
        total = add({tuple(sorted(a + b)): x * y} for a, x in total.items() for b, y in terms.items())
    return total


@dataclass(frozen=True, eq=False)
class Polynomial:
    """sum over t of coefficients[t] * product over d of v[factors[t, d]], where v[0] = 1.

    Attributes:
      name: of the resource: "macs".
      unit: what it is counted in, for people: "MACs".
      coefficients: exact integers.
      factors: `[terms, degree]` variable numbers; 0 is the constant 1.
      sizes: `[variables]` what every variable counts in the full network; sizes[0] = 1.
      note: for people.
      stepped: every element costs something.
    """

    name: str
    unit: str
    coefficients: tuple[int, ...]
    factors: np.ndarray
    sizes: np.ndarray
    note: str = ""
    stepped: bool = False

    @staticmethod
    def of(name: str, unit: str, terms: Sum, sizes: np.ndarray) -> Polynomial:
        degree = max((len(monomial) for monomial in terms), default=0)
        rows = [monomial + (0,) * (degree - len(monomial)) for monomial in terms]
        factors = np.array(rows, np.int32).reshape(len(terms), degree)
        return Polynomial(name, unit, tuple(terms.values()), factors, sizes)

    @property
    def full(self) -> int:
        """The value of the full network."""
        return self._full

    @cached_property
    def _full(self) -> int:
        return int(self.exact(self.sizes))

    @cached_property
    def _integers(self) -> np.ndarray:
        bound = sum(
            c * int(np.prod(self.sizes[row].astype(object)))
            for c, row in zip(self.coefficients, self.factors, strict=True)
        )
        return np.array(self.coefficients, np.int64 if bound < 2**62 else object)

    def exact(self, counts: np.ndarray) -> np.ndarray:
        """Values at integer counts `[..., variables]`, as exact integers `[...]`."""
        values = np.asarray(counts).astype(self._integers.dtype)[..., self.factors]
        return np.sum(self._integers * np.prod(values, axis=-1), axis=-1)

    def fraction(self, counts: jax.Array) -> jax.Array:
        """Values at real counts `[variables]` as a fraction of the full network's, float32, differentiable."""
        scale = np.prod(self.sizes[self.factors].astype(np.float64), axis=-1)
        weights = np.array([float(c) for c in self.coefficients]) * scale / float(self.full)
        relative = counts / jnp.asarray(self.sizes, jnp.float32)  # in [0, 1]: products cannot overflow float32
        return jnp.sum(jnp.asarray(weights, jnp.float32) * jnp.prod(relative[self.factors], axis=-1))


@dataclass(frozen=True, eq=False)
class Maximum:
    """The largest of several polynomials of one resource: a program that chooses costs what its dearest branch does."""

    several: tuple[Polynomial, ...]

    @property
    def name(self) -> str:
        return self.several[0].name

    @property
    def unit(self) -> str:
        return self.several[0].unit

    @property
    def stepped(self) -> bool:
        return True  # what the dearest branch does not use may cost nothing more

    @property
    def note(self) -> str:
        return ""

    @property
    def full(self) -> int:
        """The value of the full network."""
        return max(one.full for one in self.several)

    def exact(self, counts: np.ndarray) -> np.ndarray:
        """Values at integer counts `[..., variables]`, as exact integers `[...]`."""
        return np.max(np.stack([one.exact(counts) for one in self.several]), axis=0)

    def fraction(self, counts: jax.Array) -> jax.Array:
        """Values at real counts `[variables]` as a fraction of the full network's, float32, differentiable."""
        shares = [one.fraction(counts) * (one.full / self.full) for one in self.several if one.full]
        return jnp.max(jnp.stack(shares))


class Variables:
    """The variables of the cost polynomials: 0 is the constant 1, then a count for every owned atom and every gate."""

    def __init__(self, groups: Mapping[str, Group], owned: Mapping[Atom, tuple[str, int]]):
        self._groups = groups
        self.of_atom: dict[Atom, int] = {}
        self.of_gate: dict[tuple[str, int], int] = {}
        offsets, total = {}, 0
        for name, group in groups.items():
            offsets[name], total = total, total + group.size
        element = np.zeros(total, np.int32)  # which variable counts an element; 0 for none
        sizes = [1]
        for atom, (name, start) in owned.items():
            self.of_atom[atom] = len(sizes)
            element[offsets[name] + start : offsets[name] + start + atom.size] = len(sizes)
            sizes.append(atom.size)
        sliced = {name for name, _ in owned.values()}  # rows of stacked layers are counted like widths
        for name, group in groups.items():
            if group.rules.gates and name not in sliced:
                for i in range(group.size):
                    self.of_gate[(name, i)] = len(sizes)
                    element[offsets[name] + i] = len(sizes)
                    sizes.append(1)
        self.sizes, self._element = np.array(sizes, np.int64), element
        self.of_elements = {name: element[offsets[name] : offsets[name] + g.size] for name, g in groups.items()}

    def counts(self, kept: Mapping[str, Sequence[int]]) -> np.ndarray:
        flags = [np.isin(np.arange(group.size), kept[name]) for name, group in self._groups.items()]
        counts = np.bincount(self._element, np.concatenate(flags), len(self.sizes)).astype(np.int64)
        counts[0] = 1
        return counts

    def soft_counts(self, masks: jax.Array) -> jax.Array:
        counts = jax.ops.segment_sum(masks.astype(jnp.float32), jnp.asarray(self._element), len(self.sizes))
        return counts.at[0].set(1.0)

    def term(self, axes: Iterable[Axis], behind: Iterable[tuple[str, int]] = ()) -> Sum:
        """The product of some axes' sizes, where the gates in front of it are there."""
        factors = [size_of(axis, self.of_atom) for axis in axes]
        present: list[Sum] = [{(self.of_gate[gate],): 1} for gate in behind if gate in self.of_gate]
        return multiply([*factors, *present])
