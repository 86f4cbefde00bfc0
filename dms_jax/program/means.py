"""Means over axes of groups: they count kept elements."""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from numbers import Integral
from typing import Any

import jax

from dms_jax.program.axes import UNIT, Atom, Axis
from dms_jax.program.frames import Node, Program, Value
from dms_jax.program.sizes import owners


@dataclass(frozen=True, eq=False)
class Mean:
    """A sum divided by how many were summed: operand `operand` of `node` is that number (or its inverse)."""

    node: Node
    operand: int
    axes: tuple[Axis, ...]
    size: int

    @property
    def inverse(self) -> bool:
        return self.node.name == "mul"


def means(program: Program, owned: Mapping[Atom, tuple[str, int]]) -> list[Mean]:
    """Divisions of a sum by the size of what was summed, where that has elements of groups; in derivatives, too.

    A matrix product is a sum (of squares, say, or with weights that shrink as the width grows), and what multiplies a
    sum before it is divided makes it no other.

    On its way back a derivative divides by the same number again, at the same line: there it is the number of a mean
    where it was one ahead. Where nothing is left of what it is the derivative of, its own form has to tell.
    """
    found = _Means(owned)
    for node in program.nodes:
        found.visit(node)
    return list(found.means.values())


_JAX = os.path.dirname(jax.__file__) + os.sep


class _Means:
    def __init__(self, owned: Mapping[Atom, tuple[str, int]]):
        self.owned = owned
        self.means: dict[Node, Mean] = {}
        self.summed: dict[Value, list[tuple[Axis, ...]]] = {}  # over which axes a value is a sum, the likeliest first
        self.divided: dict[Value, tuple[Node, int, float]] = {}
        self.ahead: dict[Any, Mean | None] = {}  # line of a division -> the mean that it is, or None

    def visit(self, node: Node) -> None:
        over = _summed(node)
        if any(axis is not UNIT for axis in over):
            before = [] if isinstance(over, _Contracted) else self.summed.get(node.inputs[0], [])
            both = [(*over, *axes) for axes in before if not isinstance(axes, _Contracted)]  # a sum of sums
            self.summed[node.outputs[0]] = [over, *both][:_SUMS]
        elif node.name in _MOVED:
            source, out = node.inputs[0], node.outputs[0]
            if source in self.summed:
                self.summed[out] = self.summed[source]
            if source in self.divided:
                self.divided[out] = self.divided[source]
                if node.name == "broadcast_in_dim" and _of_derivative(node):
                    divider, number, by = self.divided[source]  # d(sum x / N) / dx = 1 / N, for all x
                    if _line(divider, by) not in self.ahead:
                        self.note(divider, number, [_repeated(node)], by)
        elif node.name in ("div", "mul"):
            self.divide(node)
            self.multiple(node)
        elif node.name in ("neg", "add", "add_any", "sub"):
            self.multiple(node)

    def divide(self, node: Node) -> None:
        number = 1 if node.name == "div" or node.inputs[1].constant is not None else 0
        total, constant = node.inputs[1 - number], node.inputs[number].constant
        if not constant:
            return
        by = constant if node.name == "div" else 1 / constant
        self.divided[node.outputs[0]] = (node, number, by)
        line = _line(node, by)
        if not _of_derivative(node):
            self.note(node, number, self.summed.get(total, []), by)
            self.ahead[line] = self.means.get(node)
        elif line not in self.ahead:
            self.note(node, number, self.summed.get(total, []), by)
        elif (mean := self.ahead[line]) is not None:
            self.means[node] = Mean(node, number, mean.axes, mean.size)

    def multiple(self, node: Node) -> None:
        """A multiple of a sum, or what adds up several over the same axes, is a sum yet to be divided."""
        sums = [self.summed.get(value, []) for value in node.inputs]
        if node in self.means or not any(sums):
            return
        if node.name in ("add", "add_any", "sub"):
            found = [axes for axes in sums[0] if any(_same(axes, others) for others in sums[1])]
        else:  # what divides is no factor
            found = sums[0] if node.name != "mul" else [*sums[0], *sums[1]]
        if found:  # plain sums before those of products, which most activations are
            found = sorted(found, key=lambda axes: isinstance(axes, _Contracted))
            self.summed[node.outputs[0]] = found[:_SUMS]

    def note(self, node: Node, number: int, sums: Sequence[tuple[Axis, ...]], by: float) -> None:
        for axes in sums:
            size = math.prod(axis.size for axis in axes)
            if size > 1 and math.isclose(by, size, rel_tol=1e-5) and any(owners(axis, self.owned) for axis in axes):
                self.means.setdefault(node, Mean(node, number, axes, size))
                return


class _Contracted(tuple[Axis, ...]):
    """Axes that a matrix product sums over."""


_MOVED = frozenset(
    """alias broadcast_in_dim convert_element_type copy copy_p dms_name layout_constraint mesh_cast name
    pcast pvary reduce_precision reduce_sum reshape reshard sharding_constraint squeeze
    stop_gradient transpose""".split()
)
"""What leaves the numbers of its (first) operand as they are, wherever it moves them: `jax.vmap` transposes, say."""

_SUMS = 4  # that are kept of one value


def _summed(node: Node) -> tuple[Axis, ...]:
    """The axes that an operation sums over."""
    if node.name in ("reduce_sum", "psum") and len(node.inputs) == 1:
        axes = node.eqn.params["axes"]
        if all(isinstance(i, Integral) for i in axes):  # names are a mesh's; `jax.vmap` makes numbers of its own
            return tuple(node.inputs[0].axes[i] for i in axes)
    if node.name == "dot_general":
        (contracted, _), _ = node.eqn.params["dimension_numbers"]
        return _Contracted(node.inputs[0].axes[i] for i in contracted)
    return ()


def _same(a: tuple[Axis, ...], b: tuple[Axis, ...]) -> bool:
    return len(a) == len(b) and all(map(operator.is_, a, b))


def _line(node: Node, by: float) -> Any:
    """Where in the user's and the frameworks' files a division stands, and by what it divides."""
    traceback = node.eqn.source_info.traceback
    frames = traceback.frames if traceback is not None else ()
    places = ((frame.file_name, frame.line_num) for frame in frames if not frame.file_name.startswith(_JAX))
    return round(by, 6), tuple(islice(places, 3))


def _of_derivative(node: Node) -> bool:
    """Whether a node is the transpose of one that was differentiated."""
    eqns = (node.eqn, *node.callers)
    return any("transpose" in str(getattr(eqn.source_info, "name_stack", "")) for eqn in eqns)


def _repeated(node: Node) -> tuple[Axis, ...]:
    """The axes of a broadcast that its operand does not have."""
    source, (out,) = node.inputs[0].axes, node.outputs
    dims = dict(zip(node.eqn.params["broadcast_dimensions"], source, strict=True))
    return tuple(axis for i, axis in enumerate(out.axes) if i not in dims or dims[i].size != axis.size)
