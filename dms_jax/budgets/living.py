"""What a forward pass keeps at once, as polynomials: the largest sum of arrays that are there at one operation."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np

from dms_jax.budgets.polynomial import Monomial, Polynomial, Sum, add
from dms_jax.budgets.resource import Network
from dms_jax.program.frames import Node, Value
from dms_jax.program.operations import elementwise

SHARPNESS = 16
"""Of the soft maximum that a search follows: moments within a few percent of the largest take part."""

_IN_PLACE = frozenset(
    "alias broadcast_in_dim convert_element_type copy dms_name reshape squeeze expand_dims transpose rev".split()
)


@dataclass(frozen=True, eq=False)
class Peak:
    """constant(v) + max over moments of sum over t of weights[moment, t] * product over d of v[factors[t, d]].

    Attributes:
      name, unit: of the resource.
      always: what is there all the time.
      weights: `[moments, terms]`, of at least 0.
      factors: `[terms, degree]` variable numbers; 0 is the constant 1.
      note: for people.
      stepped: every element is in what is there all the time.
    """

    name: str
    unit: str
    always: Polynomial
    weights: np.ndarray
    factors: np.ndarray
    note: str = ""
    stepped: bool = False

    @property
    def full(self) -> float:
        """The value of the full network."""
        return self._full

    @cached_property
    def _full(self) -> float:
        return float(self.exact(self.always.sizes))

    def exact(self, counts: np.ndarray) -> np.ndarray:
        """Values at integer counts `[..., variables]`, float64."""
        terms = np.prod(np.asarray(counts, np.float64)[..., self.factors], axis=-1)
        return np.asarray(self.always.exact(counts), np.float64) + np.max(terms @ self.weights.T, axis=-1)

    def fraction(self, counts: jax.Array) -> jax.Array:
        """The share of the full network's at real counts `[variables]`, float32, with a soft maximum."""
        sizes = self.always.sizes
        scale = np.prod(sizes[self.factors].astype(np.float64), axis=-1)
        moments = self.weights * scale / self.full
        terms = jnp.prod((counts / jnp.asarray(sizes, jnp.float32))[self.factors], axis=-1)
        found = jnp.asarray(moments, jnp.float32) @ terms
        most = jax.lax.stop_gradient(jnp.maximum(jnp.max(found), 1e-12))
        soft = most * jnp.sum((found / most) ** SHARPNESS) ** (1 / SHARPNESS)
        whole = moments.sum(axis=1)
        above = np.sum((whole / max(whole.max(), 1e-300)) ** SHARPNESS) ** (1 / SHARPNESS)
        return self.always.fraction(counts) * (self.always.full / self.full) + soft / max(above, 1.0)


def moments(network: Network) -> tuple[np.ndarray, np.ndarray]:
    """Bytes of the arrays that are there while every operation runs.

    Elementwise operations and layouts take the place of their largest operand: they are fused, or run in place. What is
    made of parameters alone is not counted, nor what no output needs.

    Returns:
      weights `[moments, terms]` and factors `[terms, degree]` as `Peak` has them; moments that never have more than
      another one are left out.
    """
    made, spans = _stored(network)
    terms = {value: _bytes(network, node, value) for value, node in made.items()}
    starts = sorted({start for start, _ in spans.values()})
    found = (add(terms[v] for v, (start, end) in spans.items() if start <= at <= end) for at in starts)
    distinct = list({tuple(sorted(each.items())): each for each in found}.values()) or [{(): 0}]
    return _matrices(distinct)


def _stored(network: Network) -> tuple[dict[Value, Node], dict[Value, tuple[int, int]]]:
    """Arrays with memory of their own -> the operations that make them, and (first, last) operation they are there."""
    place: dict[Value, Value] = {}  # where a value lies
    made: dict[Value, Node] = {}
    spans: dict[Value, tuple[int, int]] = {}
    inputs = [value for value in network.program.inputs if value not in network.arrays]
    for number, node in enumerate(network.program.nodes):
        operands = [place[value] for value in node.inputs if value in place]
        for value in operands:
            spans[value] = spans[value][0], number
        given = operands or any(value in inputs or value in place for value in node.inputs)
        for out in node.outputs:
            if not given or out not in network.behind:
                continue
            if node.name in _IN_PLACE or node.name in elementwise.OPERATIONS:
                inputs += [out] if not operands else []
                place |= {out: max(operands, key=_size)} if operands else {}
            elif _size(out):
                place[out], made[out], spans[out] = out, node, (number, number)
    for value in network.program.outputs:
        if value in place:
            spans[place[value]] = spans[place[value]][0], len(network.program.nodes)
    return made, spans


def _bytes(network: Network, node: Node, value: Value) -> Sum:
    width = node.eqn.outvars[node.outputs.index(value)].aval.dtype.itemsize
    term = network.variables.term(value.axes, network.behind[value])
    return {monomial: coefficient * width for monomial, coefficient in term.items()}


def _size(value: Value) -> int:
    return int(np.prod([axis.size for axis in value.axes]))


def _matrices(sums: Iterable[Sum]) -> tuple[np.ndarray, np.ndarray]:
    sums = list(sums)
    monomials: dict[Monomial, int] = {}
    for each in sums:
        for monomial in each:
            monomials.setdefault(monomial, len(monomials))
    weights = np.zeros((len(sums), len(monomials)))
    for row, each in zip(weights, sums, strict=True):
        for monomial, coefficient in each.items():
            row[monomials[monomial]] = coefficient
    weights = np.unique(weights, axis=0)
    below = np.all(weights[:, None] <= weights[None], axis=-1)  # rows are distinct: one is below itself alone, or goes
    degree = max(map(len, monomials))
    factors = np.array([m + (0,) * (degree - len(m)) for m in monomials], np.int32).reshape(len(monomials), degree)
    return weights[below.sum(axis=1) == 1], factors
