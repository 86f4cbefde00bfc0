"""Bytes of the keys and values that a decoder keeps: of every causal attention, at a length and a batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp

from dms_jax import checks
from dms_jax.budgets.causal import constant, entries, hides_the_future
from dms_jax.budgets.polynomial import Polynomial, Sum, add
from dms_jax.budgets.resource import Cost, Network
from dms_jax.errors import TracingError, UserError
from dms_jax.program.axes import UNIT, Axis, resolve
from dms_jax.program.frames import Node, Value, describe
from dms_jax.program.operations import attention
from dms_jax.program.sizes import same

_DTYPES = ("float32", "bfloat16", "float16", "float8_e4m3fn", "int8")
_RESHAPED = frozenset(
    "alias broadcast_in_dim convert_element_type copy dms_name reshape squeeze tile transpose".split()
)


class Kept(NamedTuple):
    """Keys or values of one attention.

    Attributes:
      value: the array, before it is repeated for the queries that share it.
      dtype: of its numbers.
      time: the axis of its positions.
      repeats: the loops around it: layers of a scan.
      product: what reads it.
    """

    value: Value
    dtype: Any
    time: Axis
    repeats: tuple[Axis, ...]
    product: Node


class Read(NamedTuple):
    """What a product of attention reads: the loops around it, the axis of positions, keys and values."""

    product: Node
    repeats: tuple[Axis, ...]
    time: Axis
    values: list[Value]


@dataclass(frozen=True)
class Cache:
    """Bytes of keys and values.

    Args:
      length: positions that are kept; None: those of the example.
      batch: sequences at once; None: those of the example.
      dtype: of the numbers kept; None: that which attention reads.

    Raises:
      UserError: a length or batch that is no whole number of at least 1, or another dtype.
    """

    length: int | None = field(
        default=None, metadata={"help": "Positions that a decoder keeps, for --cache.", "default": "the example's"}
    )
    batch: int | None = field(
        default=None, metadata={"help": "Sequences at once, for --cache.", "default": "the example's"}
    )
    dtype: Literal["float32", "bfloat16", "float16", "float8_e4m3fn", "int8"] | None = field(
        default=None, metadata={"help": "Dtype of keys and values, for --cache.", "default": "the network's"}
    )

    def __post_init__(self):
        for name in ("length", "batch"):
            if getattr(self, name) is not None:
                checks.whole(f"{name} of cache", getattr(self, name), 1)
        if self.dtype not in (None, *_DTYPES):
            raise UserError(f"dtype {self.dtype!r} of cache is not possible; give one of {', '.join(_DTYPES)}")

    def __call__(self, network: Network) -> Cost | None:
        """Bytes as a polynomial; None where no attention is causal.

        Raises:
          TracingError: the batch is part of an axis of a key or value, so that another one cannot be put in.
        """
        found = list(_kept(network))
        if not found:
            return None
        terms = add(self._term(network, kept) for kept in found)
        return Polynomial.of("cache", "bytes", terms, network.variables.sizes)

    def _term(self, network: Network, kept: Kept) -> Sum:
        first = _first(network)
        axes = [axis for axis in map(resolve, kept.value.axes) if not same(axis, kept.time)]
        if first is UNIT:
            batch = self.batch or 1
        else:
            batch = self.batch or first.size
            there = any(same(first, axis) for axis in axes)
            if self.batch is not None and not there:
                raise TracingError(
                    f"the batch of the cache cannot be {self.batch}: what {describe(kept.product)} reads has no axis "
                    "of the example's batch"
                )
            batch = batch if there else 1
            axes = [axis for axis in axes if not same(axis, first)]
        numbers = batch * (self.length or kept.time.size) * jnp.dtype(self.dtype or kept.dtype).itemsize
        term = network.variables.term((*kept.repeats, *axes), network.behind[kept.value])
        return {monomial: coefficient * numbers for monomial, coefficient in term.items()}


def _first(network: Network) -> Axis:
    """The leading axis of the first input."""
    given = [value for value in network.program.inputs if value not in network.arrays and value.axes]
    return resolve(given[0].axes[0]) if given else UNIT


def _kept(network: Network) -> Iterator[Kept]:
    """Keys and values of every causal attention that reaches an output, once where several read the same."""
    made = {out: node for node in network.program.nodes for out in node.outputs}
    seen: set[Value] = set()
    for node, repeats, time, candidates in (*_written_out(network, made), *_fused(network)):
        for value in candidates:
            kept = _smallest(network, made, value, time)
            if kept not in seen:
                seen.add(kept)
                yield Kept(kept, _dtype(made, kept), time, repeats, node)


def _fused(network: Network) -> Iterator[Read]:
    """Attention that is one operation: its queries, keys and values are the first three operands."""
    found = {}
    for p in network.program.products:
        if p.node.name == attention.FORWARD and p.node.outputs[0] in network.behind:
            found[p.node] = tuple(p.axes[:-5])  # behind them scores, of four axes, and the features
    for node, repeats in found.items():
        if "CAUSAL" in str(node.eqn.params["mask_type"]):
            _, positions = attention.heads_and_positions(node.eqn)
            yield Read(node, repeats, resolve(node.inputs[1].axes[positions]), node.inputs[1:3])


def _written_out(network: Network, made: dict[Value, Node]) -> Iterator[Read]:
    """Two products with a causal softmax in between."""
    repeats = {
        p.node: p.axes[: len(p.axes) - len(p.node.outputs[0].axes) - len(p.node.eqn.params["dimension_numbers"][0][0])]
        for p in network.program.products
        if p.node.name == "dot_general" and p.node.outputs[0] in network.behind
    }
    both = [node for node in repeats if not any(_is_parameter(network, made, value) for value in node.inputs)]
    for node in both:
        for side in (0, 1):
            scores = next((n for n in _scores(network, made, node.inputs[side]) if n in both), None)
            if scores is None:
                continue
            values, (place, *_) = node.inputs[1 - side], node.eqn.params["dimension_numbers"][0][1 - side]
            time = resolve(values.axes[place])
            # queries may have the same axes: there are never fewer of them than of keys
            keys = [_smallest(network, made, v, time) for v in scores.inputs if _has(v, time)]
            yield Read(node, tuple(repeats[node]), time, [*sorted(keys, key=entries)[:1], values])


def _is_parameter(network: Network, made: dict[Value, Node], value: Value) -> bool:
    """Whether an operand is a parameter in some layout."""
    return any(value in network.arrays for value in _back(made, value))


def _scores(network: Network, made: dict[Value, Node], weights: Value) -> list[Node]:
    """The products that a causal softmax is of, where `weights` is one."""
    products, exponential, causal, look, seen = [], False, False, [weights], {weights}
    while look:
        value = look.pop()
        node = made.get(value)
        mask = constant(made, value) if len(value.axes) > 1 else None
        if mask is not None:  # what is the same in every call is whole: a causal part of it alone says nothing
            causal |= hides_the_future(mask)
            continue
        if node is None:
            continue
        if node.name == "dot_general":
            products.append(node)
            continue
        if node.name == "gather":  # of biases, by distances
            continue
        exponential |= node.name == "exp"
        new = [value for value in node.inputs if value not in seen]
        seen.update(new)
        look.extend(new)
    return products if exponential and causal else []


def _has(value: Value, axis: Axis) -> bool:
    """Whether one of an array's axes has these positions, whole and in this order."""
    return any(same(one, axis) for one in value.axes)


def _smallest(network: Network, made: dict[Value, Node], value: Value, time: Axis) -> Value:
    """The smallest array that `value` is a repetition or another layout of, with the positions as one axis."""
    best = value
    for at in _origins(made, value):
        whole = _has(at, time) and at in network.behind and at not in network.arrays
        if whole and entries(at) < entries(best):
            best = at
    return best


def _origins(made: Mapping[Value, Node], value: Value) -> list[Value]:
    """As `_back`, through what picks positions of an array, too, or has parts of one array alone."""
    found: list[Value] = []
    while value not in found:
        found += _back(made, value)
        node = made.get(found[-1])
        if node is None or node.name not in ("gather", "concatenate", "stack"):
            break
        first, *others = (_origins(made, part) for part in node.inputs[: 1 if node.name == "gather" else None])
        both = [at for at in first if all(at in other for other in others)]
        if not both:
            break
        value = both[0]
    return found


def _back(made: Mapping[Value, Node], value: Value, through: frozenset[str] = _RESHAPED) -> Iterator[Value]:
    """An array and what it is another layout of, nearest first; what a loop carries leads back to itself."""
    seen: set[Value] = set()
    while value not in seen:
        seen.add(value)
        yield value
        node = made.get(value)
        if node is None or node.name not in through:
            return
        value = node.inputs[0]


def _dtype(made: dict[Value, Node], value: Value) -> Any:
    *_, value = _back(made, value, frozenset({"alias"}))
    node = made.get(value)
    return jnp.dtype(jnp.float32) if node is None else node.eqn.outvars[node.outputs.index(value)].aval.dtype


resource = Cache()
