"""A cost as a sum of times of pieces, each a fit that never falls: smooth for a search, in steps for a projection."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import nnls

from dms_jax.budgets.polynomial import Monomial, Sum
from dms_jax.budgets.resource import Network
from dms_jax.program.frames import Node, Value

Shares: TypeAlias = dict[Monomial, float]
"""{variables: share}, of a number that is 1 in the full network."""


@dataclass(frozen=True)
class Outline:
    """What the time of a piece may depend on.

    Attributes:
      name: of the primitive that it begins with, "" for what comes before the first product.
      gates: variables of the gates in front of it.
      features: multiply-adds, and the sizes of what is read and made, each as shares of the full network's; those that
        do not depend on any group are left out.
      work: multiply-adds of the full network's; of what has none, numbers that it makes.
      node: the product that it begins with; None for what comes before the first.
    """

    name: str
    gates: tuple[int, ...]
    features: tuple[Shares, ...]
    work: float
    node: Node | None = None


def outlines(network: Network) -> list[Outline]:
    """Of all pieces in order, as `dms_jax.budgets.pieces.cut` cuts them."""
    terms: dict[Node, list[Sum]] = {}
    for term in network.program.products:
        out = term.node.outputs[0]
        if out in network.behind and not out.fixed:
            terms.setdefault(term.node, []).append(network.variables.term(term.axes))
    found: list[tuple[str, list[Node], list[Sum]]] = [("", [], [])]
    loops: dict[tuple[int, ...], int] = {}
    for node in network.program.nodes:
        loop = _loop(node)
        if node in terms and loop is not None:
            path, name = loop
            if path not in loops:
                loops[path] = len(found)
                found.append((name, [], []))
            found[loops[path]][1].append(node)
            found[loops[path]][2].extend(terms[node])
        elif node in terms:
            found.append((node.name, [node], list(terms[node])))
        elif loop is None and any(out in network.behind for out in node.outputs):
            found[-1][1].append(node)
    return [_outline(network, *each) for each in found]


def _loop(node: Node) -> tuple[tuple[int, ...], str] | None:
    """The outermost loop, choice or shard that an operation is in, and its name: it is one operation."""
    for i, eqn in enumerate(node.callers):
        if eqn.primitive.name in ("scan", "while", "cond", "shard_map"):
            return tuple(id(e) for e in node.callers[: i + 1]), eqn.primitive.name
    return None


def _outline(network: Network, name: str, nodes: Sequence[Node], sums: Sequence[Sum]) -> Outline:
    first = nodes[0].outputs[0] if name and nodes else None
    behind = network.behind[first] if first is not None else frozenset()
    gates = tuple(sorted(network.variables.of_gate[g] for g in behind if g in network.variables.of_gate))
    values: Iterable[Value] = dict.fromkeys(
        value
        for node in nodes
        for value in (*(node.inputs if node is nodes[0] else ()), *node.outputs)
        if not value.fixed
    )
    every = [*sums, *(network.variables.term(value.axes) for value in values)]
    features = {}
    for each in every:
        shares = _shares(each, network.variables.sizes)
        if any(shares):
            features.setdefault(tuple(sorted((m, round(s, 6)) for m, s in shares.items())), shares)
    work = sum(_whole(each, network.variables.sizes) for each in sums or every)
    return Outline(name, gates, tuple(features.values()), work, nodes[0] if name and nodes else None)


def _whole(terms: Sum, sizes: np.ndarray) -> float:
    return sum(float(c) * prod(float(sizes[i]) for i in monomial) for monomial, c in terms.items())


def _shares(terms: Sum, sizes: np.ndarray) -> Shares:
    whole = {monomial: float(c) * prod(float(sizes[i]) for i in monomial) for monomial, c in terms.items() if c}
    total = sum(whole.values())
    return {monomial: value / total for monomial, value in whole.items()} if total else {}


def evaluated(shares: Shares, counts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Of counts `[..., variables]`: the share of the full network's."""
    x = np.asarray(counts, np.float64) / sizes
    return sum((s * np.prod(x[..., list(m)], axis=-1) for m, s in shares.items()), np.zeros(x.shape[:-1]))


def fit(outline: Outline, counts: np.ndarray, times: np.ndarray, sizes: np.ndarray) -> Shares:
    """Milliseconds of a piece as {variables: milliseconds in the full network}, all of at least 0.

    Args:
      outline: of the piece.
      counts: `[samples, variables]`, the full network's first.
      times: `[samples]` milliseconds.
      sizes: `[variables]` of the full network.
    """
    features = [{(): 1.0}, *outline.features]
    columns = np.stack([evaluated(each, counts, sizes) for each in features], axis=-1)
    scale = np.maximum(times, 0.02 * max(times.max(), 1e-9))
    rows, values = columns / scale[:, None], times / scale
    if len(features) > 1:  # few samples: what is left open is taken for multiply-adds, or what is made
        ridge = np.delete(np.eye(len(features)), 1, axis=0) * (1e-3 / scale[0])
        rows, values = np.vstack([rows, ridge]), np.append(values, np.zeros(len(ridge)))
    weights, _ = nnls(rows, values)
    found: Shares = {}
    for weight, feature in zip(weights, features, strict=True):
        for monomial, share in feature.items():
            if weight * share > 0:
                found[monomial] = found.get(monomial, 0.0) + float(weight * share)
    return found


def gated(times: Shares, gates: Sequence[int]) -> Shares:
    """The same where gates are open, and nothing where one is closed."""
    return {tuple(sorted((*gates, *monomial))): value for monomial, value in times.items()}


@dataclass(frozen=True, eq=False)
class Steps:
    """sum over t of weights[t] * product over d of v[factors[t, d]] / sizes[factors[t, d]], weights of at least 0.

    Attributes:
      name, unit: of the resource.
      weights: `[terms]`.
      factors: `[terms, degree]` variable numbers; 0 is the constant 1.
      sizes: `[variables]` of the full network.
      multiples: `[variables]`: numbers of elements up to the next multiple cost the same.
      note: for people.
    """

    name: str
    unit: str
    weights: np.ndarray
    factors: np.ndarray
    sizes: np.ndarray
    multiples: np.ndarray
    note: str = ""

    @staticmethod
    def of(
        name: str, unit: str, times: Mapping[Monomial, float], sizes: np.ndarray, multiples: np.ndarray, note: str
    ) -> Steps:
        """From {variables: value in the full network}."""
        degree = max(map(len, times), default=0)
        rows = np.array([monomial + (0,) * (degree - len(monomial)) for monomial in times], np.int32)
        return Steps(name, unit, np.array([*times.values()]), rows.reshape(len(times), degree), sizes, multiples, note)

    @property
    def stepped(self) -> bool:
        """Whether more elements may cost the same."""
        return bool(np.any(self.multiples > 1))

    @property
    def multiple(self) -> int:
        """The largest of the multiples."""
        return int(self.multiples.max())

    @property
    def full(self) -> float:
        """That of the full network."""
        return self._full

    @cached_property
    def _full(self) -> float:
        return float(self.weights.sum())

    def exact(self, counts: np.ndarray) -> np.ndarray:
        """At integer counts `[..., variables]`, float64, on the steps."""
        counts = np.asarray(counts, np.float64)
        stepped = np.minimum(np.ceil(counts / self.multiples) * self.multiples, np.maximum(counts, self.sizes))
        terms = np.prod((stepped / self.sizes)[..., self.factors], axis=-1) * self.weights
        # neither the product of matrices nor another order in memory: one row has to round as many do
        return np.sum(np.ascontiguousarray(terms), axis=-1)

    def fraction(self, counts: jax.Array) -> jax.Array:
        """The share of the full network's at real counts `[variables]`, float32, without the steps."""
        shares = counts / jnp.asarray(self.sizes, jnp.float32)
        weights = jnp.asarray(self.weights / self.full, jnp.float32)
        return jnp.sum(weights * jnp.prod(shares[self.factors], axis=-1))
