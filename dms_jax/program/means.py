"""Means over axes of groups: they count kept elements."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from numbers import Integral
from typing import Any

import jax

from dms_jax.errors import TracingError
from dms_jax.program.axes import UNIT, Atom, Axis
from dms_jax.program.frames import Node, Program, Value, describe
from dms_jax.program.sizes import owners


@dataclass(frozen=True, eq=False)
class Mean:
    """A sum divided by how many were summed: operand `operand` of `node` is that number, or has it as a factor.

    Attributes:
      node, operand: where the number is.
      axes: over which the sum is.
      size: of them together.
      by: what the sum is divided by here: `size`, or what was left of it.
      inverse: whether the operand is 1 / `by`.
    """

    node: Node
    operand: int
    axes: tuple[Axis, ...]
    size: int
    by: float
    inverse: bool

    def of(self, count: Any) -> Any:
        """What the sum is divided by here, of so many."""
        return count if math.isclose(self.by, self.size, rel_tol=1e-5) else count * (self.by / self.size)


def means(program: Program, owned: Mapping[Atom, tuple[str, int]]) -> list[Mean]:
    """Divisions of a sum by the size of what was summed, where that has elements of groups; in derivatives, too.

    A matrix product is a sum (of squares, say, or with weights that shrink as the width grows), what multiplies a sum
    before it is divided makes it no other, and it may be divided by one size after the other.

    On its way back a derivative divides by the same number again, at the same line: there it is the number of a mean
    where it was one ahead. Where nothing is left of what it is the derivative of, its own form has to tell. In a
    derivative that a user wrote, N (g - sum(g) / N) say, it is that of the mean of which it is the derivative.

    Raises:
      TracingError: of a derivative, where one line divides by how many were summed, and by a number that happens to be
        the same (of another group, say: a function that every layer calls), and nothing tells which of them is which.
    """
    found = _Means(owned)
    for node in program.nodes:
        found.visit(node)
    for node, line in found.open.items():
        raise TracingError(
            f"{describe(node)} divides by how many were summed, and elsewhere by a number ({line[0]:g}) that happens "
            "to be the same, or counts something else: its derivative does not tell which; write them in two lines, or "
            "take the gradient after `shrunk`"
        )
    if program.ahead is not None:
        found.same_numbers(program, program.ahead)
    return list(found.means.values())


_JAX = os.path.dirname(jax.__file__) + os.sep


@dataclass(frozen=True)
class _Sum:
    """A value that is a sum over axes, divided by `done` since; `products`: that a matrix product sums over."""

    axes: tuple[Axis, ...]
    products: bool = False
    done: float = 1.0

    @property
    def size(self) -> int:
        return math.prod(axis.size for axis in self.axes)

    def divided(self, by: float) -> _Sum:
        return replace(self, done=self.done * by)

    def same(self, other: _Sum) -> bool:
        pairs = zip(self.axes, other.axes, strict=False)
        return len(self.axes) == len(other.axes) and all(a is b for a, b in pairs)


class _Means:
    def __init__(self, owned: Mapping[Atom, tuple[str, int]]):
        self.owned = owned
        self.means: dict[Node, Mean] = {}
        self.summed: dict[Value, list[_Sum]] = {}  # the likeliest first
        self.divided: dict[Value, tuple[Node, int, float]] = {}
        self.counts: dict[Value, tuple[float, tuple[Axis, ...]]] = {}  # sums of ones: how many, along which axes
        self.ahead: dict[Any, Mean | None] = {}  # line of a division -> the mean that it is, or None
        self.unclear: set[Any] = set()  # lines whose divisions are both
        self.open: dict[Node, Any] = {}  # divisions on the way back of such lines, of which nothing has told yet

    def visit(self, node: Node) -> None:
        sums = self.sums(node)
        if sums:
            self.summed[node.outputs[0]] = sums[:_SUMS]
        elif node.name in _MOVED:
            self.moved(node)
        elif node.name in ("div", "mul"):
            self.divide(node)
            self.multiple(node)
        elif node.name in ("neg", "add", "add_any", "sub"):
            self.multiple(node)
        if node.name in _PRODUCTS:
            self.weigh(node)
        if node.transposed and node.name in ("broadcast_in_dim", "dot_general"):
            self.repeated(node)

    def sums(self, node: Node) -> list[_Sum]:
        """What a reduction or a product sums over, together with what was summed before."""
        over = _summed(node)
        if not any(axis is not UNIT for axis in over):
            return []
        if node.name in _PRODUCTS:
            number = next((1 / v.constant for v in node.inputs if v.constant), 1.0)
            return [_Sum(over, True, number)]
        of = node.inputs[0]
        if node.name == "reduce_sum" and of.constant:
            self.counts[node.outputs[0]] = (of.constant * math.prod(axis.size for axis in over), over)
        before = [s for s in self.summed.get(of, []) if not s.products]
        return [_Sum(over), *(_Sum((*over, *s.axes), False, s.done) for s in before)]

    def moved(self, node: Node) -> None:
        source, out = node.inputs[0], node.outputs[0]
        for known in (self.summed, self.divided, self.counts):
            if source in known:
                known[out] = known[source]  # type: ignore[index]

    def repeated(self, node: Node) -> None:
        """d(sum x / N) / dx = 1 / N, for all x: what it is repeated over was summed."""
        for operand, source in enumerate(node.inputs):
            if source not in self.divided:
                continue
            divider, number, by = self.divided[source]
            again = _Sum(_repeated(node, operand))
            if divider in self.open and math.isclose(by, again.size, rel_tol=1e-5):
                del self.open[divider]
                self.note(divider, number, [again], by)
            elif node.name == "broadcast_in_dim" and _line(divider, by) not in self.ahead:
                self.note(divider, number, [again], by)

    def number(self, value: Value) -> float | None:
        """A number that is known: a constant, or of ones that nothing is taken out of."""
        if value.constant is None and value in self.counts:
            count, axes = self.counts[value]
            return None if any(owners(axis, self.owned) for axis in axes) else count
        return value.constant

    def divide(self, node: Node) -> None:
        number = 1 if node.name == "div" or self.number(node.inputs[1]) is not None else 0
        total, constant = node.inputs[1 - number], self.number(node.inputs[number])
        if constant and (total.constant is None or node.transposed):  # no number made of numbers
            by = constant if node.name == "div" else 1 / constant
            self.divided[node.outputs[0]] = (node, number, by)
            self.one_of(node, number, self.summed.get(total, []), by)

    def weigh(self, node: Node) -> None:
        """A product with an array of 1 / N is a mean."""
        number = next((i for i, v in enumerate(node.inputs) if v.constant and len(v.axes)), None)
        if number is not None:
            by = 1 / (node.inputs[number].constant or 1)
            self.one_of(node, number, [s.divided(1 / by) for s in self.summed.get(node.outputs[0], [])], by)

    def one_of(self, node: Node, number: int, sums: Sequence[_Sum], by: float) -> None:
        """Whether a number is that of a mean: by its sums, or in a derivative by what it was ahead."""
        line = _line(node, by)
        if not node.transposed:
            self.note(node, number, sums, by)
            mean = self.means.get(node)
            if line in self.ahead and not _alike(mean, self.ahead[line]):
                self.unclear.add(line)
            self.ahead[line] = mean
        elif line in self.unclear:
            self.open[node] = line
        elif line not in self.ahead:
            self.note(node, number, sums, by)
        elif (mean := self.ahead[line]) is not None:
            self.means[node] = replace(mean, node=node, operand=number, inverse=node.name != "div")

    def multiple(self, node: Node) -> None:
        """A multiple of a sum, or what adds up several over the same axes, is a sum yet to be divided."""
        sums = [self.summed.get(value, []) for value in node.inputs]
        if node in self.means or not any(sums):
            return
        if node.name in ("add", "add_any", "sub"):
            alike = [(s, next((other for other in sums[1] if s.same(other)), None)) for s in sums[0]]
            found = [s if s.done == other.done else replace(s, done=1.0) for s, other in alike if other is not None]
        else:  # what divides is no factor
            found = sums[0] if node.name != "mul" else [*sums[0], *sums[1]]
        if node.outputs[0] in self.divided:
            found = [s.divided(self.divided[node.outputs[0]][2]) for s in found]
        if found:  # plain sums before those of products, which most activations are
            self.summed[node.outputs[0]] = sorted(found, key=lambda s: s.products)[:_SUMS]

    def note(self, node: Node, number: int, sums: Sequence[_Sum], by: float) -> None:
        for s in sums:
            whole = math.isclose(by, s.size, rel_tol=1e-5) or math.isclose(by * s.done, s.size, rel_tol=1e-5)
            if s.size > 1 and whole and any(owners(axis, self.owned) for axis in s.axes):
                self.means.setdefault(node, Mean(node, number, s.axes, s.size, by, node.name != "div"))
                return

    def same_numbers(self, program: Program, ahead: Program) -> None:
        """Numbers of means in a derivative of the user's own, where it has them elsewhere."""
        known = {mean.node: mean for mean in means(ahead, self.owned)}
        sizes: dict[int, Mean | None] = {}
        for mean in known.values():
            other = sizes.setdefault(mean.size, mean)
            if other is not None and not _Sum(other.axes).same(_Sum(mean.axes)):
                sizes[mean.size] = None  # over other axes, too: no telling
        for node in ahead.nodes:
            for _, size, _ in _numbers(node, sizes) if node not in known else ():
                sizes[size] = None  # ahead it is something else, too
        for node in program.nodes:
            for i, size, inverse in _numbers(node, sizes) if node not in self.means else ():
                mean = sizes[size]
                if mean is not None:
                    self.means[node] = Mean(node, i, mean.axes, size, size, inverse)


def _numbers(node: Node, sizes: Iterable[int]) -> Iterator[tuple[int, int, bool]]:
    """(operand, N, whether it is 1 / N) of what an operation multiplies or divides by."""
    for i, value in enumerate(node.inputs) if node.name in ("mul", "div") else ():
        number = value.constant or 0.0
        for size in sizes:
            inverse = math.isclose(number * size, 1, rel_tol=1e-5)
            if inverse or math.isclose(number, size, rel_tol=1e-5):
                yield i, size, inverse


_MOVED = frozenset(
    """alias broadcast_in_dim convert_element_type copy copy_p dms_name layout_constraint mesh_cast name
    pcast pvary reduce_precision reduce_sum reshape reshard sharding_constraint squeeze
    stop_gradient transpose""".split()
)
"""What leaves the numbers of its (first) operand as they are, wherever it moves them: `jax.vmap` transposes, say."""

_PRODUCTS = ("dot_general", "conv_general_dilated")
_SUMS = 4  # that are kept of one value


def _summed(node: Node) -> tuple[Axis, ...]:
    """The axes that an operation sums over; of convolutions, of those with one number alone."""
    if node.name in ("reduce_sum", "psum") and len(node.inputs) == 1:
        axes = node.eqn.params["axes"]
        if all(isinstance(i, Integral) for i in axes):  # names are a mesh's; `jax.vmap` makes numbers of its own
            return tuple(node.inputs[0].axes[i] for i in axes)
    if node.name == "dot_general":
        (contracted, _), _ = node.eqn.params["dimension_numbers"]
        return tuple(node.inputs[0].axes[i] for i in contracted)
    if node.name == "conv_general_dilated" and node.inputs[1].constant is not None:
        return tuple(node.inputs[1].axes[i] for i in node.eqn.params["dimension_numbers"].rhs_spec[1:])
    return ()


def _line(node: Node, by: float) -> Any:
    """Where in the user's and the frameworks' files a division stands, and by what it divides."""
    traceback = node.eqn.source_info.traceback
    frames = traceback.frames if traceback is not None else ()
    places = ((frame.file_name, frame.line_num) for frame in frames if not frame.file_name.startswith(_JAX))
    return round(by, 6), node.name in _PRODUCTS, tuple(islice(places, 3))


def _alike(a: Mean | None, b: Mean | None) -> bool:
    """Whether both are means over the same axes, or neither is one."""
    if a is None or b is None:
        return a is b
    return _Sum(a.axes).same(_Sum(b.axes))


def _repeated(node: Node, operand: int) -> tuple[Axis, ...]:
    """The axes of a broadcast, or of a product that sums nothing, that an operand does not have."""
    if node.name == "dot_general":
        contracted, batched = node.eqn.params["dimension_numbers"]
        taken, other = {*contracted[1 - operand], *batched[1 - operand]}, node.inputs[1 - operand].axes
        return () if contracted[operand] else tuple(axis for i, axis in enumerate(other) if i not in taken)
    source, (out,) = node.inputs[operand].axes, node.outputs
    dims = dict(zip(node.eqn.params["broadcast_dimensions"], source, strict=True))
    return tuple(axis for i, axis in enumerate(out.axes) if i not in dims or dims[i].size != axis.size)
