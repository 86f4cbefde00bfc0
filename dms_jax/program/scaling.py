"""Where a factor may go instead: from the places where it is needed back to the parameters that make them.

    m relu(a scale + bias) = relu(a (m scale) + m bias),  m >= 0;      x (m W) = (m x) W

A value is scaled by scaling what it is made of; what else is made of that must then be scaled, too, or be one of the
places. `Scaling.leaves` follows both directions until they close, or refuses.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

from dms_jax.program.frames import Node, Program, Value
from dms_jax.program.operations import Place, Refused, Scaled

Holds: TypeAlias = Callable[[Value, int], bool]
Site: TypeAlias = tuple[Node, int, Place]  # an operation, its operand that is to be scaled, and along which axis

# Values on the way that something else reads too (it may not bear the scale: silu(x) = x sigmoid(x)), then numbers to
# multiply.
Price: TypeAlias = tuple[float, float]
IMPOSSIBLE: Price = (math.inf, math.inf)


class Graph:
    """Who makes and who uses a value.

    Args:
      program: the program.
      leaves: values of parameters -> their numbers.
      fixed: numbers of leaves that must not be scaled: those that are not trained change by themselves.
    """

    def __init__(self, program: Program, leaves: Mapping[Value, int], fixed: Iterable[int] = ()):
        self.leaves, self.fixed = leaves, frozenset(fixed)
        self.makers: dict[Value, list[Node]] = {}
        self.users: dict[Value, list[Node | None]] = {}
        for value in program.outputs:
            self.users.setdefault(value, []).append(None)
        for node in program.nodes:
            for value in node.outputs:
                self.makers.setdefault(value, []).append(node)
            for value in dict.fromkeys(node.inputs):
                self.users.setdefault(value, []).append(node)

    def maker(self, value: Value) -> Node:
        makers = self.makers.get(value, ())
        if len(makers) != 1 or len(makers[0].outputs) != 1:
            raise Refused("an input, or a value from several places")
        return makers[0]


class Scaling:
    """One factor: a mask along the axes that hold its group, or a scalar."""

    def __init__(self, graph: Graph, holds: Holds):
        self.graph, self.holds = graph, holds
        self._prices: dict[tuple[Value, Place], Price] = {}

    def price(self, value: Value, place: Place) -> Price:
        """What it would take to scale a value, looking back alone; infinite if it cannot be scaled."""
        stack: list[tuple[Value, Place]] = [(value, place)]
        ways: dict[tuple[Value, Place], list[Scaled]] = {}
        while stack:  # as deep as the network: no recursion
            key = stack[-1]
            if key in self._prices and key not in ways:
                stack.pop()
            elif key in ways:
                self._prices[key] = self._cheapest(key, ways.pop(key))
                stack.pop()
            else:
                self._prices[key] = IMPOSSIBLE  # a loop leads back here: no
                ways[key] = self._ways(*key)
                stack += [need for needed in ways[key] for need in needed if need not in self._prices]
        return self._prices[value, place]

    def _ways(self, value: Value, place: Place) -> list[Scaled]:
        if value in self.graph.leaves or value.constant is not None:
            return []
        try:
            return sources(self.graph.maker(value), place, self.holds)
        except Refused:
            return []

    def _cheapest(self, key: tuple[Value, Place], ways: list[Scaled]) -> Price:
        value, _ = key
        if value in self.graph.leaves:
            free = self.graph.leaves[value] not in self.graph.fixed
            return (0, math.prod(axis.size for axis in value.axes)) if free else IMPOSSIBLE
        shared, numbers = min(map(self._sum, ways), default=IMPOSSIBLE)
        return shared + (len(self.graph.users.get(value, ())) > 1), numbers

    def _sum(self, needed: Scaled) -> Price:
        prices = [self._prices[need] for need in needed]
        return sum(shared for shared, _ in prices), sum(numbers for _, numbers in prices)

    def _total(self, needed: Scaled) -> Price:
        """What it would take to scale several values together."""
        prices = [self.price(value, place) for value, place in needed]
        return sum(shared for shared, _ in prices), sum(numbers for _, numbers in prices)

    def leaves(self, sites: Iterable[Site]) -> list[tuple[int, Place]]:
        """Parameters (by number) and the axis to scale each along, that together scale all sites and nothing else.

        Raises:
          Refused: there are none.
        """
        return _Closure(self, list(sites)).leaves()

    def cost(self, needed: Scaled) -> tuple[Price, bool]:
        """The price; of equal ones (an FFN's two matrices) the parameter at hand."""
        return self._total(needed), not all(value in self.graph.leaves for value, _ in needed)


class _Closure:
    """The values that are scaled: closed under who makes and who uses them."""

    def __init__(self, scaling: Scaling, sites: list[Site]):
        self.scaling, self.graph = scaling, scaling.graph
        self.sites = {(node, node.inputs[operand]) for node, operand, _ in sites}
        self.first = sites
        self.place: dict[Value, Place] = {}
        self.stack: list[Value] = []

    def leaves(self) -> list[tuple[int, Place]]:
        for node, operand, place in self.first:
            value = node.inputs[operand]
            if node.inputs.count(value) != 1:
                raise Refused("a square of the factor")
            self.add(value, place)
        while self.stack:
            self.close(self.stack.pop())
        scaled = {v for v in self.place if v in self.graph.leaves}
        return sorted(((self.graph.leaves[v], self.place[v]) for v in scaled), key=lambda pair: pair[0])

    def add(self, value: Value, place: Place) -> None:
        if value not in self.place:
            if self.scaling.price(value, place)[0] == math.inf:
                raise Refused("no parameter")
            self.place[value] = place
            self.stack.append(value)
        elif self.place[value] != place:
            raise Refused("two axes of one value")

    def close(self, value: Value) -> None:
        """Scale what a value is made of, and what is made of it."""
        place = self.place[value]
        if value not in self.graph.leaves:
            for source, where in self._choose(sources(self.graph.maker(value), place, self.scaling.holds)):
                self.add(source, where)
        for node in self.graph.users.get(value, ()):
            if node is None:
                raise Refused("an output of the network")
            if (node, value) not in self.sites:
                out = forward(node, value, place, self.scaling.holds)
                self.add(node.outputs[0], out)
                # it must be scaled through this operand, and through no other that could be left alone
                through = [needed for needed in sources(node, out, self.scaling.holds) if (value, place) in needed]
                others = {v for v in node.inputs if v in self.place}
                if not through or others - {v for v, _ in through[0]} or node.inputs.count(value) != 1:
                    raise Refused("scaled twice")

    def _choose(self, alternatives: list[Scaled]) -> Scaled:
        taken = [needed for needed in alternatives if any(v in self.place for v, _ in needed)]
        if len(taken) > 1:
            raise Refused("scaled twice")
        return taken[0] if taken else min(alternatives, key=self.scaling.cost)


def sources(node: Node, place: Place, holds: Holds) -> list[Scaled]:
    """The ways to scale a result along an axis: each a list of operands to scale together.

    Raises:
      Refused: the operation does not commute with a positive scale.
    """
    if node.name == "alias":
        return [[(node.inputs[0], place)]]
    if node.name in ("scan_row", "scan_stack"):
        step = 1 if node.name == "scan_row" else -1
        if place is not None and place + step < 0:
            raise Refused("the rows of a loop")
        return [[(node.inputs[0], place if place is None else place + step)]]
    operation = node.operation
    if operation is None or operation.passes is None or len(node.outputs) != 1:
        raise Refused(node.name)
    found = operation.passes(node, place, holds)
    if not found:
        raise Refused(node.name)
    return found


def forward(node: Node, value: Value, place: Place, holds: Holds) -> Place:
    """Where the scale of an operand stands in the result; whether it passes at all, `sources` says."""
    if len(node.outputs) != 1:
        raise Refused(node.name)
    if place is None:
        return None
    for out in range(len(node.outputs[0].axes)):
        try:
            if any((value, place) in needed for needed in sources(node, out, holds)):
                return out
        except Refused:
            continue
    raise Refused(node.name)
