"""Which masks may be multiplied into the few parameters that make the masked axis, found in the traced program.

The mirror image of `folding.py`: there a mask moves down into the kernels that read the axis, here up into what wrote
it.

    m relu(a scale + bias) = relu(a (m scale) + m bias)          since m >= 0

So where an axis ends in a normalisation with a scale and a bias, its mask costs two vectors instead of a copy of every
kernel; the gate of a block does too. A residual stream is scaled as a whole: by everything that is added to it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from dms_jax.folding import dot_place, movement
from dms_jax.tracing import Node, Program, Value, gate_values

Place: TypeAlias = int | None  # the axis that is scaled by a mask; None where all of a value is scaled by a gate


@dataclass(frozen=True)
class Factor:
    """One parameter to multiply: by a mask along `axis`, or as a whole by the gate `element`; the other is None."""

    leaf: int
    axis: int | None
    element: int | None = None


class Refused(Exception):
    """The scale meets an operation that it does not pass."""


def find_writes(
    program: Program, masks: Mapping[Value, str], leaves: Mapping[Value, int]
) -> dict[str, tuple[Factor, ...]]:
    """The parameters that, multiplied, stand for a mask; groups for which there are none are absent.

    Args:
      program: the traced inference program.
      masks: the mask inputs and the names of their groups.
      leaves: the parameter inputs and their numbers.
    """
    graph = _Graph(program, leaves)
    gates = gate_values(program, dict(masks))
    found: dict[str, tuple[Factor, ...]] = {}
    for value, name in masks.items():
        try:
            sites = graph.sites(value, gates)
            elements = {gates[scale][1] if scale in gates else None for _, scale, _ in sites}
            factors: list[Factor] = []
            for element in sorted(elements, key=lambda e: -1 if e is None else e):
                mine = [s for s in sites if (gates[s[1]][1] if s[1] in gates else None) == element]
                scaled = _Scaled(graph, {(node, x) for node, _, x in mine})
                factors += [Factor(leaf, axis, element) for leaf, axis in scaled.leaves_of(mine)]
            if factors:
                found[name] = tuple(factors)
        except Refused:
            continue
    return found


# Values on the way that something else reads too (it may not bear the scale: silu(x) = x sigmoid(x)), then numbers to
# multiply.
Price: TypeAlias = tuple[float, float]
Site: TypeAlias = tuple[Node, Value, Value]  # a product, the mask or gate in it, and what is multiplied


def cheapest(
    groups: Iterable[str],
    reads: Mapping[str, tuple[Factor, ...]],
    writes: Mapping[str, tuple[Factor, ...]],
    sizes: Sequence[int],
) -> dict[str, tuple[Factor, ...]]:
    """For every group that folds: the fewest numbers to multiply, in what reads the axis or in what writes it.

    A leaf that other masks go into counts half: it is copied anyway, and one more factor is cheap. So groups without a
    choice come first.

    Args:
      groups: names, in order.
      reads, writes: the parameters to multiply for a group; it may be missing in either.
      sizes: of the parameter leaves, by number.
    """
    chosen: dict[str, tuple[Factor, ...]] = {}
    scaled: set[int] = set()
    options = {name: [found[name] for found in (reads, writes) if name in found] for name in groups}

    def numbers(factors: tuple[Factor, ...]) -> float:
        return sum(sizes[leaf] / 2 if leaf in scaled else sizes[leaf] for leaf in {f.leaf for f in factors})

    for name in sorted(options, key=lambda name: len(options[name])):
        if options[name]:
            chosen[name] = min(options[name], key=numbers)
            scaled |= {f.leaf for f in chosen[name]}
    return {name: chosen[name] for name in options if name in chosen}


class _Graph:
    """Who makes and who uses a value, and how much it would take to scale it."""

    def __init__(self, program: Program, leaves: Mapping[Value, int]):
        self.leaves = leaves
        self.makers: dict[Value, list[Node]] = {}
        self.users: dict[Value, list[Node | None]] = {}
        for value in program.outputs:
            self.users.setdefault(value, []).append(None)
        for node in program.nodes:
            for value in node.outputs:
                self.makers.setdefault(value, []).append(node)
            for value in node.inputs:
                self.users.setdefault(value, []).append(node)
        self._price: dict[tuple[Value, Place], Price] = {}

    def sites(self, mask: Value, gates: Mapping[Value, object]) -> list[Site]:
        """Every product with the mask, or with a gate of it; the mask may go nowhere else, and no other piece of it."""
        found: list[Site] = []
        stack, scales = [mask], {mask}
        while stack:
            value = stack.pop()
            for node in self.users.get(value, ()):
                if node is not None and node.name == "mul":
                    other = node.inputs[0] if node.inputs[1] is value else node.inputs[1]
                    if other is value or other in scales:
                        raise Refused("a product of masks")
                    if value not in gates and math.prod(a.size for a in value.axes) != mask.axes[0].size:
                        raise Refused("a piece of the mask")
                    found.append((node, value, other))
                elif node is not None and (node.name in ("slice", "split") or movement(node) is not None):
                    scales.update(node.outputs)
                    stack.extend(node.outputs)
                else:
                    raise Refused("a mask that is not only multiplied")
        return found

    def maker(self, value: Value) -> Node:
        makers = self.makers.get(value, ())
        if len(makers) != 1 or len(makers[0].outputs) != 1:
            raise Refused("an input, or a value from several places")
        return makers[0]

    def price(self, value: Value, place: Place) -> Price:
        """What it would take to scale a value, looking back alone; infinite if it cannot be scaled."""
        key = (value, place)
        if key not in self._price:
            self._price[key] = (math.inf, math.inf)  # a loop leads back here: no
            self._price[key] = self._priced(value, place)
        return self._price[key]

    def total(self, needed: list[tuple[Value, Place]]) -> Price:
        """What it would take to scale several values together."""
        prices = [self.price(value, place) for value, place in needed]
        return sum(shared for shared, _ in prices), sum(numbers for _, numbers in prices)

    def _priced(self, value: Value, place: Place) -> Price:
        if value in self.leaves:
            return 0, math.prod(axis.size for axis in value.axes)
        try:
            shared, numbers = min(self.total(needed) for needed in sources(self.maker(value), place))
        except Refused:
            return math.inf, math.inf
        return shared + (len(self.users.get(value, ())) > 1), numbers


class _Scaled:
    """The values that are scaled when a mask moves up from its products: closed under who makes and who uses them."""

    def __init__(self, graph: _Graph, sites: set[tuple[Node, Value]]):
        self.graph, self.sites = graph, sites
        self.place: dict[Value, Place] = {}
        self.stack: list[Value] = []

    def leaves_of(self, sites: list[Site]) -> list[tuple[int, Place]]:
        for node, scale, x in sites:
            self.add(x, None if not scale.axes else _masked_axis(node, scale, x))
        while self.stack:
            self.close(self.stack.pop())
        scaled = {v for v in self.place if v in self.graph.leaves}
        return sorted(((self.graph.leaves[v], self.place[v]) for v in scaled), key=lambda pair: pair[0])

    def add(self, value: Value, place: Place) -> None:
        if any(value in node.outputs for node, _ in self.sites):
            raise Refused("a square of the mask")
        if value not in self.place:
            self.place[value] = place
            self.stack.append(value)
        elif self.place[value] != place:
            raise Refused("two axes of one value")

    def close(self, value: Value) -> None:
        """Scale what a value is made of, and what is made of it."""
        place = self.place[value]
        if value not in self.graph.leaves:
            for source, where in self._choose(sources(self.graph.maker(value), place)):
                self.add(source, where)
        for node in self.graph.users.get(value, ()):
            if node is None:
                raise Refused("an output of the network")
            if (node, value) not in self.sites:
                out = forward(node, value, place)
                self.add(node.outputs[0], out)
                # it must be scaled through this operand, and through no other that could be left alone
                through = [needed for needed in sources(node, out) if (value, place) in needed]
                others = {v for v in node.inputs if v in self.place}
                if not through or others - {v for v, _ in through[0]} or node.inputs.count(value) != 1:
                    raise Refused("scaled twice")

    def _choose(self, alternatives: list[list[tuple[Value, Place]]]) -> list[tuple[Value, Place]]:
        taken = [needed for needed in alternatives if any(v in self.place for v, _ in needed)]
        if len(taken) > 1:
            raise Refused("scaled twice")
        best = taken[0] if taken else min(alternatives, key=self._cost)
        if not math.isfinite(self.graph.total(best)[0]) and not taken:
            raise Refused("no parameter")
        return best

    def _cost(self, needed: list[tuple[Value, Place]]) -> tuple[Price, bool]:
        """The price; of equal ones (an FFN's two matrices) the parameter at hand."""
        return self.graph.total(needed), not all(value in self.graph.leaves for value, _ in needed)


_SUMS = ("add", "add_any", "sub")


def sources(node: Node, place: Place) -> list[list[tuple[Value, Place]]]:
    """The ways to scale a result along an axis: each a list of operands to scale together.

    Raises:
      Refused: the operation does not commute with a positive scale.
    """
    ins, out = node.inputs, node.outputs[0]
    moved = movement(node)
    if moved is not None:
        return [[(ins[0], place if place is None else _only(moved[place]))]]
    if node.name in _SUMS or _is_relu(node):
        terms = [v for v in ins if not (v.constant is not None and float(v.constant) == 0)]
        return [[(v, _same(v, out, place)) for v in terms]]
    if node.name == "mul":
        return _any_of([(v, place) for v in ins if _has(v, out, place)])
    if node.name in ("neg", "div"):
        return [[(ins[0], _same(ins[0], out, place))]]
    if node.name in ("reduce_window_max", "reduce_window_sum", "reduce_sum"):
        return [[(ins[0], _before_reduction(node, place))]]
    if node.name == "dot_general":
        found = []
        for side, value in enumerate(ins):
            contracted = node.eqn.params["dimension_numbers"][0][side]
            free = [a for a in range(len(value.axes)) if a not in contracted]
            found += [(value, a) for a in free if place is not None and dot_place(node, side, a) == place]
            found += [(value, None)] if place is None else []
        return _any_of(found)
    if node.name == "conv_general_dilated":
        return _any_of([(v, None) for v in ins] if place is None else [(ins[1], _kernel_axis(node, place))])
    raise Refused(node.name)


def forward(node: Node, value: Value, place: Place) -> Place:
    """Where the scale of an operand stands in the result; whether it passes at all, `sources` says."""
    if len(node.outputs) != 1:
        raise Refused(node.name)
    rank = len(node.outputs[0].axes)
    if place is None:
        return None
    for out in range(rank):
        try:
            if any((value, place) in needed for needed in sources(node, out)):
                return out
        except Refused:
            continue
    raise Refused(node.name)


def _any_of(operands: list[tuple[Value, Place]]) -> list[list[tuple[Value, Place]]]:
    if not operands:
        raise Refused("no operand has the axis")
    return [[operand] for operand in operands]


def _only(axes: tuple[int, ...]) -> int:
    if len(axes) != 1:
        raise Refused("an axis that is new, merged or split")
    return axes[0]


def _has(value: Value, out: Value, place: Place) -> bool:
    if value.constant is not None:
        return False
    return place is None or (len(value.axes) == len(out.axes) and value.axes[place].size == out.axes[place].size)


def _same(value: Value, out: Value, place: Place) -> Place:
    if not _has(value, out, place):
        raise Refused("an operand without the axis")
    return place


def _is_relu(node: Node) -> bool:
    """max(x, 0), which a positive scale passes."""
    zeros = [v for v in node.inputs if v.constant is not None and float(v.constant) == 0]
    return node.name == "max" and len(zeros) == 1


def _before_reduction(node: Node, place: Place) -> Place:
    if place is None:
        return None
    if node.name == "reduce_sum":
        kept = [i for i in range(len(node.inputs[0].axes)) if i not in node.eqn.params["axes"]]
        return kept[place]
    if node.eqn.params["window_dimensions"][place] != 1:
        raise Refused("a window over the axis")
    return place


def _kernel_axis(node: Node, place: int) -> int:
    spec, groups = node.eqn.params["dimension_numbers"], node.eqn.params["feature_group_count"]
    features = node.inputs[1].axes[spec.rhs_spec[0]].size
    if place != spec.out_spec[1] or groups not in (1, features):
        raise Refused("a convolution")
    return spec.rhs_spec[0]


def _masked_axis(node: Node, scale: Value, x: Value) -> int:
    """The axis along which a mask multiplies: the only one that it has more than one position of."""
    long = [i for i, axis in enumerate(scale.axes) if axis.size != 1]
    if len(long) != 1 or len(scale.axes) != len(x.axes) or x.axes[long[0]].size != scale.axes[long[0]].size:
        raise Refused("a mask that widens what it multiplies")
    return long[0]
