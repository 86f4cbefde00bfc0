"""Bytes of the keys and values that a decoder keeps: of every causal attention, at a length and a batch."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np

from dms_jax import checks
from dms_jax.budgets.polynomial import Polynomial, Sum, add
from dms_jax.budgets.resource import Cost, Network
from dms_jax.errors import TracingError, UserError
from dms_jax.program.axes import UNIT, Axis, resolve
from dms_jax.program.frames import Node, Value, describe
from dms_jax.program.operations import attention

_DTYPES = ("float32", "bfloat16", "float16", "float8_e4m3fn", "int8")
_RESHAPED = frozenset(
    "alias broadcast_in_dim convert_element_type copy dms_name reshape squeeze tile transpose".split()
)
_LARGE = 1 << 24
"""Entries of a mask that is looked at; what it was broadcast from is smaller."""
_NEVER = 100.0
"""Scores that are so far below another are no part of a softmax: exp(-100) is 0 in float32."""


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
        axes = [axis for axis in map(resolve, kept.value.axes) if axis is not kept.time]
        if first is UNIT:
            batch = self.batch or 1
        else:
            batch = self.batch or first.size
            if self.batch is not None and first not in axes:
                raise TracingError(
                    f"the batch of the cache cannot be {self.batch}: what {describe(kept.product)} reads has no axis "
                    "of the example's batch"
                )
            batch = batch if first in axes else 1
            axes = [axis for axis in axes if axis is not first]
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
            keys = [_smallest(network, made, v, time) for v in scores.inputs if time in map(resolve, v.axes)]
            yield Read(node, tuple(repeats[node]), time, [*sorted(keys, key=_size)[:1], values])


def _is_parameter(network: Network, made: dict[Value, Node], value: Value) -> bool:
    """Whether an operand is a parameter in some layout."""
    return any(value in network.arrays for value in _back(made, value))


def _scores(network: Network, made: dict[Value, Node], weights: Value) -> list[Node]:
    """The products that a causal softmax is of, where `weights` is one."""
    products, exponential, causal, look, seen = [], False, False, [weights], {weights}
    while look:
        value = look.pop()
        node = made.get(value)
        mask = _evaluated(made, value) if len(value.axes) > 1 else None
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


def _evaluated(made: Mapping[Value, Node], value: Value) -> np.ndarray | None:
    """An array that is made of constants alone; None where it is not, or is large."""
    known: dict[Value, Any] = {}
    look = [value] if _size(value) <= _LARGE else []
    while look:
        at, node = look[-1], made.get(look[-1])
        if at in known:
            look.pop()
        elif node is None and at.array is not None:
            known[at] = at.array
        elif node is None or (node.eqn is None) or not (at.fixed or node.name == "alias"):
            return None
        elif (unknown := next((x for x in node.inputs if x not in known), None)) is not None:
            if unknown in look or _size(unknown) > _LARGE:
                return None  # a loop carries it
            look.append(unknown)
        elif node.name == "alias":
            (source,) = node.inputs
            if [axis.size for axis in source.axes] != [axis.size for axis in at.axes]:
                return None  # a slice of what a loop goes through
            known[at] = known[source]
        else:
            found = node.eqn.primitive.bind(*(known[x] for x in node.inputs), **node.eqn.params)
            known |= zip(node.outputs, found if node.eqn.primitive.multiple_results else [found], strict=True)
    return np.asarray(known[value]) if value in known else None


def hides_the_future(mask: np.ndarray) -> bool:
    """Whether a mask or a bias of scores leaves to every position itself, and hides all that come later from it.

    First keys that all may look at, as those of a prompt or a picture, are no part of that.

    Args:
      mask: any two of its axes may be those of queries and keys; there may be more keys, which then come first. What
        is hidden has one and the same value, or one that is at least 100 below the largest.
    """
    mask = np.squeeze(mask)
    for queries, keys in itertools.permutations(range(mask.ndim), 2):
        n, m = mask.shape[queries], mask.shape[keys]
        found = np.moveaxis(mask, (queries, keys), (-2, -1))
        distance = np.arange(m) - (m - n) - np.arange(n)[:, None]
        hidden = found == found[..., :1, -1:]
        if np.issubdtype(mask.dtype, np.floating):
            hidden |= found < found.max() - _NEVER
        ahead = np.any((~hidden & (distance > 0)).reshape(-1, m), axis=0)
        first = int(np.flatnonzero(ahead)[-1]) + 1 if ahead.any() else 0
        every = not np.any(hidden[..., :first]) and not np.any(hidden[..., distance == 0])
        if n <= m and first <= m - 2 and every and not np.all(hidden[..., distance < 0]):
            return True
    return False


def _smallest(network: Network, made: dict[Value, Node], value: Value, time: Axis) -> Value:
    """The smallest array that `value` is a repetition or another layout of, with the positions as one axis."""
    best = value
    for at in _origins(made, value):
        whole = time in map(resolve, at.axes) and at in network.behind and at not in network.arrays
        if whole and _size(at) < _size(best):
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


def _size(value: Value) -> int:
    return prod(axis.size for axis in value.axes)


resource = Cache()
