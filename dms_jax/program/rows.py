"""Loops over layers of which every layer can go: rows of stacked parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from dms_jax.program.axes import UNIT
from dms_jax.program.branches import alike, made_of
from dms_jax.program.frames import SAME, Node, Program, Scan, Value


@dataclass(eq=False)
class Rows:
    """A loop over layers whose rows can go one by one: without its branches a layer gives what it took.

    Attributes:
      scan: the loop.
      sums: the residual sums in its body: (node, operand of the branch).
    """

    scan: Scan
    sums: list[tuple[Node, int]] = field(default_factory=list)


def find_rows(program: Program, leaves: Mapping[Value, int], state: Sequence[int] = ()) -> list[Rows]:
    """The loops over stacked parameters of which every layer is residual branches on what it carries.

    Args:
      program: with loops.
      leaves: values of the parameters.
      state: numbers of outputs that are new values of leaves, which have as many rows as these.
    """
    found, read = [], None
    for scan in program.scans:
        if scan.rows is UNIT:
            continue
        if scan.stacked:  # what is read later would have fewer rows
            read = _read(program, state) if read is None else read
            if any(value in read for value in scan.stacked):
                continue
        sums = _residual_body(program, scan, leaves)
        if sums:
            found.append(Rows(scan, sums))
    return found


def _read(program: Program, state: Sequence[int]) -> set[Value]:
    """What outputs are made of, but for the new values of leaves."""
    read = {value for i, value in enumerate(program.outputs) if i not in set(state)}
    before = -1
    while len(read) > before:  # what a loop carries is read by its next round
        before = len(read)
        for node in reversed(program.nodes):
            if not read.isdisjoint(node.outputs):
                read.update(node.inputs)
    return read


def _residual_body(program: Program, scan: Scan, leaves: Mapping[Value, int]) -> list[tuple[Node, int]] | None:
    makers: dict[Value, Node] = {}
    index: dict[Value, int] = {}
    inside = [node for node in program.nodes if scan.step.eqn in node.callers]
    for k, node in enumerate(inside):
        for out in node.outputs:
            makers[out] = node
            index[out] = k
    sums: list[tuple[Node, int]] = []
    for start, end in zip(scan.carried_in, scan.carried_out, strict=True):
        value = end
        while value is not start:
            node = makers.get(value)
            if node is None:
                return None
            if node.name in SAME:
                value = node.inputs[0]
                continue
            if node.name not in ("add", "add_any", "sub") or not alike(*node.inputs):
                return None
            a, b = node.inputs
            if made_of(makers, index, b, [start]) and _leads(makers, a, start):
                sums.append((node, 1))
                value = a
            elif node.name != "sub" and made_of(makers, index, a, [start]) and _leads(makers, b, start):
                sums.append((node, 0))
                value = b
            else:
                return None
    return sums


def _leads(makers: Mapping[Value, Node], value: Value, start: Value) -> bool:
    """Whether a value is what is carried in, or residual sums on it."""
    stack, seen = [value], set()
    while stack:
        current = stack.pop()
        if current is start:
            return True
        node = makers.get(current)
        if current in seen or node is None:
            continue
        seen.add(current)
        if node.name in SAME:
            stack.append(node.inputs[0])
        elif node.name in ("add", "add_any"):
            stack += node.inputs
        elif node.name == "sub":  # x - f(x)
            stack.append(node.inputs[0])
    return False
