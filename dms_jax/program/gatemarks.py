"""Gates that a network names: which residual branch each of them is a factor of."""

from __future__ import annotations

from dms_jax.program.frames import Node, Program, Value


def marked(program: Program) -> dict[Value, tuple[str, int]]:
    """Scalars that are named as the gate of an element."""
    return {
        node.outputs[0]: (node.eqn.params["name"], node.eqn.params["element"])
        for node in program.marks
        if node.eqn.params["element"] is not None
    }


_FACTORS = frozenset("mul div dot_general conv_general_dilated".split())
_SAME = frozenset(
    """convert_element_type broadcast_in_dim reshape transpose squeeze copy alias name neg select_n slice pad
    concatenate gather sharding_constraint reduce_precision copy_p reduce_sum dynamic_slice rev""".split()
)


class GateMarks:
    """The gates of a program: `of(branch)` is the one that a branch is multiplied by, or None."""

    def __init__(self, program: Program):
        self.marks = marked(program)
        self.makers: dict[Value, Node] = {}
        for node in program.nodes if self.marks else ():
            for out in node.outputs:
                self.makers.setdefault(out, node)

    def of(self, branch: Value) -> tuple[str, int] | None:
        """The gate among the factors of a branch, however it is multiplied in: products are associative."""
        stack, seen = [branch] if self.marks else [], {branch}
        while stack:
            value = stack.pop()
            if value in self.marks:
                return self.marks[value]
            node = self.makers.get(value)
            if node is None or node.name not in _FACTORS | _SAME:
                continue
            for source in node.inputs:
                if source not in seen:
                    seen.add(source)
                    stack.append(source)
        return None
