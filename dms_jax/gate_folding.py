"""Which gates may be multiplied into parameters of the block they gate, found in the traced program.

m (a * scale + bias) = a * (m scale) + (m bias): where a block ends in a linear layer or in a normalisation with a scale
and a bias, its gate can be left out of the network and multiplied into those few parameters instead.
"""

from __future__ import annotations

import math

from dms_jax.tracing import Node, Program, Value, gate_values

Branches = dict[str, tuple[frozenset[int], ...]]  # group -> the parameter leaves that every element scales

_LINEAR = frozenset(  # in their first operand
    "alias broadcast_in_dim convert_element_type copy div neg reduce_sum reduce_window_sum reshape sharding_constraint "
    "slice squeeze transpose".split()
)
_SUMS = frozenset(("add", "concatenate", "sub"))
_PRODUCTS = frozenset(("conv_general_dilated", "dot_general", "mul"))


def find_branches(program: Program, masks: dict[Value, str], leaves: dict[Value, int]) -> Branches:
    """Follow every gated value back to the parameters it is proportional to.

    Args:
      program: the traced inference program.
      masks: the mask inputs and the names of their groups.
      leaves: the parameter inputs and their numbers.

    Returns:
      The groups used as gates alone, all of whose gates can be folded. The leaves of an element are used nowhere but in
      its block, so scaling them scales the block's result and nothing else.
    """
    return _Branches(program, leaves).of_groups(masks)


class _Branches:
    def __init__(self, program: Program, leaves: dict[Value, int]):
        self.program, self.leaves = program, leaves
        self.makers: dict[Value, list[Node]] = {}
        self.users: dict[Value, list[Node | None]] = {value: [None] for value in program.outputs}
        for node in program.nodes:
            for value in node.outputs:
                self.makers.setdefault(value, []).append(node)
            for value in node.inputs:
                self.users.setdefault(value, []).append(node)

    def of_groups(self, masks: dict[Value, str]) -> Branches:
        gates = gate_values(self.program, masks)
        found: dict[str, list[frozenset[int]] | None] = {
            name: [frozenset()] * value.axes[0].size if self._only_gates(value, gates) else None
            for value, name in masks.items()
        }
        for value, (name, element) in gates.items():
            for node in self.users.get(value, ()):
                elements = found[name]
                if elements is None or (node is not None and all(out in gates for out in node.outputs)):
                    continue
                scaled = self._gated(node, value)
                if scaled is None or scaled & elements[element]:
                    found[name] = None
                else:
                    elements[element] |= scaled
        return {name: tuple(elements) for name, elements in found.items() if elements is not None and any(elements)}

    def _only_gates(self, value: Value, gates: dict[Value, tuple[str, int]]) -> bool:
        """Whether a mask, or a part of it, goes into gates and nowhere else."""
        for node in self.users.get(value, ()):
            if node is None or node.name not in _LINEAR:
                return False
            if not all(out in gates or self._only_gates(out, gates) for out in node.outputs):
                return False
        return True

    def _gated(self, node: Node | None, gate: Value) -> frozenset[int] | None:
        if node is None or node.name != "mul":
            return None
        (other,) = [value for value in node.inputs if value is not gate] or [gate]
        return self.scaled_by(other)

    def scaled_by(self, value: Value) -> frozenset[int] | None:
        """The leaves that, scaled, scale `value` and nothing else; None if there are none."""
        if len(self.users.get(value, ())) != 1:
            return None
        if value in self.leaves:
            return frozenset((self.leaves[value],))
        makers = self.makers.get(value, [])
        if len(makers) != 1:
            return None  # an input, or what a loop or a condition brings from several places
        node = makers[0]
        if node.name in _LINEAR:
            return self.scaled_by(node.inputs[0])
        if node.name in _SUMS:
            terms = [self.scaled_by(term) for term in node.inputs]
            return None if None in terms else frozenset().union(*(term for term in terms if term is not None))
        if node.name in _PRODUCTS:
            factors = [f for f in map(self.scaled_by, node.inputs) if f is not None]
            return min(factors, key=self._numbers, default=None)
        return None

    def _numbers(self, leaves: frozenset[int]) -> int:
        """How many numbers to multiply."""
        return sum(math.prod(a.size for a in value.axes) for value, n in self.leaves.items() if n in leaves)
