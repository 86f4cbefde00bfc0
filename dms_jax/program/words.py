"""Axes whose positions stand for values of inputs: the words of a vocabulary that a program looks up by comparing."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from dms_jax.program.axes import Atom, Axis, atoms, resolve
from dms_jax.program.frames import MOVED, Node, Program, Value

_COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge")


def words(program: Program, parameters: int) -> Iterator[Atom]:
    """Atoms of axes along which inputs are compared with the numbers of positions, as `jax.nn.one_hot` does.

    Args:
      program: whose first inputs are the parameters.
      parameters: how many these are.
    """
    given = set(program.inputs[parameters:])
    numbered: dict[Value, Axis] = {}
    for node in program.nodes:
        for value in node.inputs:
            axis = _counted(value)
            if axis is not None:
                numbered.setdefault(value, axis)
        if node.name == "iota":
            numbered[node.outputs[0]] = node.outputs[0].axes[node.eqn.params["dimension"]]
        elif node.name in MOVED and node.inputs[0] in numbered:
            numbered[node.outputs[0]] = numbered[node.inputs[0]]
        elif node.name in _COMPARISONS:
            yield from _compared(node, given, numbered)
        known = [value in given for value in node.inputs]
        if any(known) and all(value in given or value.fixed for value in node.inputs):
            given.update(node.outputs)


def _counted(value: Value) -> Axis | None:
    """The axis along which a constant array counts 0, 1, 2, ..."""
    long = [axis for axis in value.axes if axis.size > 1]
    if value.array is None or len(long) != 1 or not np.array_equal(np.ravel(value.array), np.arange(long[0].size)):
        return None
    return long[0]


def _compared(node: Node, given: set[Value], numbered: dict[Value, Axis]) -> Iterator[Atom]:
    for a, b in (node.inputs, node.inputs[::-1]):
        if a in numbered and b in given:
            yield from atoms(resolve(numbered[a]))
