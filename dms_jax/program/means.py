"""Means over axes of groups: they count kept elements."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from dms_jax.program.axes import UNIT, Atom, Axis
from dms_jax.program.sizes import owners
from dms_jax.program.trace import Node, Program, Value


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
    """Divisions of a sum by the size of what was summed, where that has elements of groups; in derivatives, too."""
    summed: dict[Value, tuple[Axis, ...]] = {}
    divided: dict[Value, tuple[Node, int, float]] = {}
    found: dict[Node, Mean] = {}

    def note(node: Node, number: int, axes: tuple[Axis, ...], by: float) -> None:
        size = math.prod(axis.size for axis in axes)
        if size > 1 and math.isclose(by, size, rel_tol=1e-5) and any(owners(axis, owned) for axis in axes):
            found.setdefault(node, Mean(node, number, axes, size))

    for node in program.nodes:
        over = [node.inputs[0].axes[i] for i in node.eqn.params["axes"]] if node.name == "reduce_sum" else []
        if any(axis is not UNIT for axis in over):
            summed[node.outputs[0]] = tuple(over)
        elif node.name in ("broadcast_in_dim", "reshape", "squeeze", "convert_element_type", "alias", "reduce_sum"):
            if node.inputs[0] in summed:
                summed[node.outputs[0]] = summed[node.inputs[0]]
            if node.inputs[0] in divided:
                divided[node.outputs[0]] = divided[node.inputs[0]]
            if node.name == "broadcast_in_dim" and node.inputs[0] in divided and _of_derivative(node):
                divider, number, by = divided[node.inputs[0]]  # d(sum x / N) / dx = 1 / N, for all x
                note(divider, number, _repeated(node), by)
        elif node.name in ("div", "mul"):
            number = 1 if node.name == "div" or node.inputs[1].constant is not None else 0
            total, constant = node.inputs[1 - number], node.inputs[number].constant
            if constant:
                by = constant if node.name == "div" else 1 / constant
                divided[node.outputs[0]] = (node, number, by)
                note(node, number, summed.get(total, ()), by)
    return list(found.values())


def _of_derivative(node: Node) -> bool:
    """Whether a node is the transpose of one that was differentiated."""
    eqns = (node.eqn, *node.callers)
    return any("transpose" in str(getattr(eqn.source_info, "name_stack", "")) for eqn in eqns)


def _repeated(node: Node) -> tuple[Axis, ...]:
    """The axes of a broadcast that its operand does not have."""
    source, (out,) = node.inputs[0].axes, node.outputs
    dims = dict(zip(node.eqn.params["broadcast_dimensions"], source, strict=True))
    return tuple(axis for i, axis in enumerate(out.axes) if i not in dims or dims[i].size != axis.size)
