"""Means over axes of groups: they count kept elements."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
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
        self.summed: dict[Value, tuple[Axis, ...]] = {}
        self.divided: dict[Value, tuple[Node, int, float]] = {}
        self.ahead: dict[Any, Mean | None] = {}  # line of a division -> the mean that it is, or None

    def visit(self, node: Node) -> None:
        over = [node.inputs[0].axes[i] for i in node.eqn.params["axes"]] if node.name == "reduce_sum" else []
        if any(axis is not UNIT for axis in over):
            self.summed[node.outputs[0]] = tuple(over)
        elif node.name in ("broadcast_in_dim", "reshape", "squeeze", "convert_element_type", "alias", "reduce_sum"):
            source, out = node.inputs[0], node.outputs[0]
            if source in self.summed:
                self.summed[out] = self.summed[source]
            if source in self.divided:
                self.divided[out] = self.divided[source]
                if node.name == "broadcast_in_dim" and _of_derivative(node):
                    divider, number, by = self.divided[source]  # d(sum x / N) / dx = 1 / N, for all x
                    if _line(divider, by) not in self.ahead:
                        self.note(divider, number, _repeated(node), by)
        elif node.name in ("div", "mul"):
            self.divide(node)

    def divide(self, node: Node) -> None:
        number = 1 if node.name == "div" or node.inputs[1].constant is not None else 0
        total, constant = node.inputs[1 - number], node.inputs[number].constant
        if not constant:
            return
        by = constant if node.name == "div" else 1 / constant
        self.divided[node.outputs[0]] = (node, number, by)
        line = _line(node, by)
        if not _of_derivative(node):
            self.note(node, number, self.summed.get(total, ()), by)
            self.ahead[line] = self.means.get(node)
        elif line not in self.ahead:
            self.note(node, number, self.summed.get(total, ()), by)
        elif (mean := self.ahead[line]) is not None:
            self.means[node] = Mean(node, number, mean.axes, mean.size)

    def note(self, node: Node, number: int, axes: tuple[Axis, ...], by: float) -> None:
        size = math.prod(axis.size for axis in axes)
        if size > 1 and math.isclose(by, size, rel_tol=1e-5) and any(owners(axis, self.owned) for axis in axes):
            self.means.setdefault(node, Mean(node, number, axes, size))


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
