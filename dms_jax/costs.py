"""Costs as polynomials in the sizes of groups: exact on integers, differentiable in soft masks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from dms_jax.axes import Atom, Axis, Concat, resolve

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
      coefficients: exact integers.
      factors: `[terms, degree]` variable numbers; 0 is the constant 1.
      sizes: `[variables]` what every variable counts in the full network; sizes[0] = 1.
    """

    coefficients: tuple[int, ...]
    factors: np.ndarray
    sizes: np.ndarray

    @staticmethod
    def of(terms: Sum, sizes: np.ndarray) -> Polynomial:
        degree = max((len(monomial) for monomial in terms), default=0)
        rows = [monomial + (0,) * (degree - len(monomial)) for monomial in terms]
        factors = np.array(rows, np.int32).reshape(len(terms), degree)
        return Polynomial(tuple(terms.values()), factors, sizes)

    @cached_property
    def full(self) -> int:
        """The value of the full network."""
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
