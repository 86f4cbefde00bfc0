"""The branches of gates where a program holds every branch more than once: a gradient has it on its way back, too.

There a branch may come in several pieces, added to its trunk one after another, and no parameter is used in one of them
alone. So pieces are taken together, and belong to the gate that has all gated parameters that they use.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dms_jax.program.branches import Branch, Element, reach
from dms_jax.program.frames import PIECES, Node, Program, Value


def gates_by_use(
    program: Program,
    leaves: Mapping[Value, int],
    branches: Sequence[Branch],
    gates: Mapping[Element, frozenset[int]],
    state: Sequence[int] = (),
    *,
    together: bool = True,
) -> dict[Element, list[tuple[Node, int]]]:
    """The residual sums of gates, found by the parameters that their branches use.

    Args:
      program: the program.
      leaves: parameter values and their numbers.
      branches: all residual branches of the program.
      gates: gate -> the parameters that go with it.
      state: numbers of outputs that do not count (see `branches.reach`).
      together: whether pieces that are added to one trunk are taken together.
    """
    if not gates:
        return {}
    every = frozenset().union(*gates.values())
    chain = _chains(program, branches) if together else list(range(len(branches)))
    sums = [(branch.node, branch.operand) for branch in branches]
    marks = {node: (operand, {chain[i]}) for i, (node, operand) in enumerate(sums)}
    used = _uses(program, leaves, reach(program, marks, state))
    for i, ahead in enumerate(_ahead(program, leaves, sums)):
        used.setdefault(chain[i], set()).update(ahead)
    found: dict[Element, list[tuple[Node, int]]] = {}
    for i, one in enumerate(sums):
        mine = used.get(chain[i], set()) & every
        fitting = [gate for gate, own in gates.items() if mine and mine <= own]
        if fitting:
            found.setdefault(min(fitting, key=lambda gate: len(gates[gate])), []).append(one)
    return found


def _chains(program: Program, branches: Sequence[Branch]) -> list[int]:
    """Of every branch the first that is added to the same trunk: what lies between is read by the next sum alone."""
    users: dict[Value, int] = {}
    for node in program.nodes:
        for value in node.inputs:
            users[value] = users.get(value, 0) + 1
    for value in program.outputs:
        users[value] = users.get(value, 0) + 1
    made = {branch.node.outputs[0]: i for i, branch in enumerate(branches)}
    chain: list[int] = []
    for i, branch in enumerate(branches):
        trunk = branch.node.inputs[1 - branch.operand]
        before = made.get(trunk)
        chain.append(chain[before] if before is not None and before < i and users[trunk] == 1 else i)
    return chain


def _uses(program: Program, leaves: Mapping[Value, int], through: Mapping[Value, frozenset]) -> dict[int, set[int]]:
    """chain -> the parameters that are used in it, moved or cast."""
    origin = dict(leaves)
    found: dict[int, set[int]] = {}
    for node in program.nodes:
        if node.inputs and node.inputs[0] in origin and node.name in PIECES:
            origin |= dict.fromkeys(node.outputs, origin[node.inputs[0]])
            continue
        behind = [through[out] for out in node.outputs if out in through]
        for value in node.inputs if behind else ():
            if value in origin:
                for i in frozenset.intersection(*behind):
                    found.setdefault(i, set()).add(origin[value])
    return found


def _ahead(program: Program, leaves: Mapping[Value, int], sums: Sequence[tuple[Node, int]]) -> list[frozenset[int]]:
    """Of every branch, the parameters that it is made of and its trunk is not."""
    made: dict[Value, int] = {value: 1 << number for value, number in leaves.items()}
    for node in program.nodes:
        bits = 0
        for value in node.inputs:
            bits |= made.get(value, 0)
        for out in node.outputs:
            made[out] = made.get(out, 0) | bits
    found = []
    for node, operand in sums:
        bits = made.get(node.inputs[operand], 0) & ~made.get(node.inputs[1 - operand], 0)
        found.append(frozenset(number for number in leaves.values() if bits >> number & 1))
    return found
