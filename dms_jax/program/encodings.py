"""Axes of encodings: what inputs are turned into, by constants alone, in front of the first parameters.

A word becomes a row of zeros and a one, a coordinate the sines of its multiples, a row of a fixed table. Such an axis
stands for the inputs, as an axis of an input does; only that nobody outside counts on its size.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from dms_jax.program.axes import Atom, atoms, resolve
from dms_jax.program.frames import PIECES, Node, Program, Value

_LAYERS = ("dot_general", "ragged_dot", "ragged_dot_general", "conv_general_dilated")
"""A product with constants is a layer, though nobody trains it: what it gives is computed, and may be too wide."""


def encodings(program: Program, parameters: int) -> Iterator[Atom]:
    """Atoms of axes of encodings: where a layer's parameters read one, or it is laid beside what is learned.

    Args:
      program: whose first inputs are the parameters.
      parameters: how many these are.
    """
    weights = set(program.inputs[:parameters])
    layers = [node for node in program.nodes if node.name in _LAYERS]
    learned = _reached(program, {*weights, *(value for node in layers for value in node.outputs)})
    given = _reached(program, program.inputs[parameters:]) - learned
    for node in program.nodes:
        if node.name in _LAYERS:
            yield from _read(node, given, weights)
        elif node.name == "concatenate" and node.outputs[0] in learned:
            along = node.eqn.params["dimension"]
            yield from (a for v in node.inputs if v in given for a in atoms(resolve(v.axes[along])))
        elif node.name in PIECES and node.inputs[0] in weights:
            weights.update(node.outputs)


def _reached(program: Program, start: Iterable[Value]) -> set[Value]:
    """What depends on some values; around loops, too, and by either way of a choice."""
    found = set(start)
    before = -1
    while len(found) > before:
        before = len(found)
        for node in program.nodes:
            if not found.isdisjoint(node.inputs):
                found.update(node.outputs)
    return found


def _read(node: Node, given: set[Value], weights: set[Value]) -> Iterator[Atom]:
    """Atoms that a layer sums over, of an encoding on one side and parameters on the other."""
    if node.operation is None or node.operation.reads is None:
        return
    for read in node.operation.reads(node):
        values = [(node.inputs[operand], axis) for operand, axis in read.sides]
        if any(value in given for value, _ in values) and any(value in weights for value, _ in values):
            yield from (a for value, axis in values for a in atoms(resolve(value.axes[axis])))
