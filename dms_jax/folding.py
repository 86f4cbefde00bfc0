"""Which masks may be multiplied into the kernels that read them, found in the traced program.

conv(m * x, W) = conv(x, m * W): a mask whose masked value goes, through linear operations only, into kernels that read
the axis can be left out of the network and multiplied into the kernels' input axes instead.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from dms_jax.rules import reshape_blocks
from dms_jax.tracing import Node, Program, Value

LeafAxis = tuple[int, int]  # (number of the parameter leaf, axis of it)


@dataclass
class Reads:
    """Foldable groups and the leaf axes that read them; for the others, why they are not."""

    kernels: dict[str, frozenset[LeafAxis]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)


def find_reads(program: Program, masks: dict[Value, str], leaves: dict[Value, int]) -> Reads:
    """Follow every mask to the kernels that read it.

    Args:
      program: the traced inference program.
      masks: the mask inputs and the names of their groups.
      leaves: the parameter inputs and their numbers.
    """
    flow = _Flow(masks, leaves)
    for node in program.nodes:
        flow.visit(node)
    for value in program.outputs:
        flow.refuse(flow.carried.get(value, {}), "an output of the network")
    return flow.reads()


class _Flow:
    """Forward pass. Three facts about values, each with the place of its axes:

    scale[v] = (group, axis): v is the mask itself, reshaped;
    carried[v] = {group: axis}: v is (something) x mask along that axis;
    origin[v] = (leaf, leaf axes of each axis): v is a kernel, reshaped.
    """

    def __init__(self, masks: dict[Value, str], leaves: dict[Value, int]):
        self.scale: dict[Value, tuple[str, int]] = {value: (name, 0) for value, name in masks.items()}
        self.origin: dict[Value, tuple[int, tuple[tuple[int, ...], ...]]] = {
            value: (leaf, tuple((i,) for i in range(len(value.axes)))) for value, leaf in leaves.items()
        }
        self.carried: dict[Value, dict[str, int]] = {}
        self.entered: set[Value] = set()
        self.refused: dict[str, str] = {}
        self.groups = list(masks.values())
        self.uses: dict[int, list[dict[str, frozenset[int]]]] = {}  # leaf -> a record per use: group -> leaf axes

    def refuse(self, groups: Iterable[str], why: str) -> None:
        for group in groups:
            self.refused.setdefault(group, why)

    def reads(self) -> Reads:
        found: dict[str, set[LeafAxis]] = {}
        for leaf, records in self.uses.items():
            for group in {name for record in records for name in record}:
                if any(record.get(group) != records[0].get(group) for record in records):
                    self.refuse([group], "a kernel that is also used without the mask")
                else:
                    found.setdefault(group, set()).update((leaf, axis) for axis in records[0][group])
        self.refuse((g for g in self.groups if g not in found), "no kernel")
        kept = {group: frozenset(axes) for group, axes in found.items() if group not in self.refused}
        return Reads(kept, self.refused)

    def visit(self, node: Node) -> None:
        moved = movement(node)
        if moved is not None:
            self._move(node, moved)
        elif node.name == "mul":
            self._multiply(node)
        elif node.name == "neg" or (node.name == "div" and not self._involved(node.inputs[1])):
            self._pass_on(node, node.inputs[0])
        elif node.name in ("reduce_sum", "reduce_window_sum"):
            self._pool(node)
        elif node.name == "dot_general":
            self._contract(node)
        elif node.name == "conv_general_dilated":
            self._convolve(node)
        else:
            self._end(node, node.inputs)

    def _involved(self, value: Value) -> bool:
        return value in self.scale or value in self.carried or value in self.origin

    def _end(self, node: Node, values: Iterable[Value]) -> None:
        """These values go where scaling does not commute."""
        for value in values:
            if value in self.scale:
                self.refuse([self.scale[value][0]], node.name)
            self.refuse(self.carried.get(value, ()), node.name)
            if value in self.origin:
                self.uses.setdefault(self.origin[value][0], []).append({})

    def _pass_on(self, node: Node, value: Value) -> None:
        if value in self.scale or value in self.origin:
            self._end(node, [value])
        elif value in self.carried:
            self.carried[node.outputs[0]] = dict(self.carried[value])

    def _move(self, node: Node, moved: list[tuple[int, ...]]) -> None:
        """Result axis j is made of the operand axes moved[j]."""
        value, out = node.inputs[0], node.outputs[0]
        if out in self.entered:
            self._meet(node, value, out)
            return
        self.entered.add(out)
        place = {i: j for j, sources in enumerate(moved) for i in sources}
        if value in self.scale:
            group, axis = self.scale[value]
            if node.name == "pad":
                self._end(node, [value])  # not the same mask everywhere
            elif axis in place:
                self.scale[out] = (group, place[axis])
            elif out.axes or value.axes[axis].size != 1:
                self._end(node, [value])
        if value in self.carried:
            lost = [group for group, axis in self.carried[value].items() if axis not in place]
            self.refuse(lost, node.name)
            self.carried[out] = {g: place[a] for g, a in self.carried[value].items() if a in place}
        if value in self.origin:
            leaf, axes = self.origin[value]
            self.origin[out] = (leaf, tuple(tuple(x for i in sources for x in axes[i]) for sources in moved))

    def _meet(self, node: Node, value: Value, out: Value) -> None:
        """A second way into one value (a loop's carry, a branch): what holds on one way only does not hold."""
        mine, theirs = self.carried.get(value, {}), self.carried.get(out, {})
        differ = [group for group in {**mine, **theirs} if mine.get(group) != theirs.get(group)]
        self.refuse(differ, f"a value that is masked on one way into it and not on another ({node.eqn.primitive.name})")
        if self.scale.get(value) != self.scale.get(out) or self.origin.get(value) != self.origin.get(out):
            self._end(node, [v for v in (value, out) if v in self.scale or v in self.origin])

    def _multiply(self, node: Node) -> None:
        out, carried = node.outputs[0], {}
        for value, other in (node.inputs, node.inputs[::-1]):
            if value in self.origin:
                self._end(node, [value])
            mine = dict(self.carried.get(value, {}))
            if value in self.scale:
                group, axis = self.scale[value]
                if len(value.axes) == len(out.axes) and value.axes[axis].size == out.axes[axis].size > 1:
                    mine[group] = axis
                else:
                    self.refuse([group], "a mask used as a gate")
                if other in self.scale:
                    self.refuse([group], "a product of masks")
            for group, axis in mine.items():
                if group in carried:
                    self.refuse([group], "a square of the mask")
                carried[group] = axis
        if carried:
            self.carried[out] = carried

    def _pool(self, node: Node) -> None:
        value, out = node.inputs[0], node.outputs[0]
        if value not in self.carried:
            self._end(node, node.inputs)
            return
        params = node.eqn.params
        if node.name == "reduce_sum":
            gone = set(params["axes"])
        else:
            gone = {i for i, n in enumerate(params["window_dimensions"]) if n != 1}
        self.refuse((g for g, a in self.carried[value].items() if a in gone), node.name)
        shift = {a: a - sum(i < a for i in gone) if node.name == "reduce_sum" else a for a in range(len(value.axes))}
        self.carried[out] = {g: shift[a] for g, a in self.carried[value].items() if a not in gone}

    def _contract(self, node: Node) -> None:
        contracted, out = node.eqn.params["dimension_numbers"][0], node.outputs[0]
        carried: dict[str, int] = {}
        for side, value in enumerate(node.inputs):
            other = node.inputs[1 - side]
            read: dict[str, frozenset[int]] = {}
            if value in self.scale:
                self._end(node, [value])
            for group, axis in self.carried.get(value, {}).items():
                if axis in contracted[side] and other in self.origin:
                    theirs = contracted[1 - side][contracted[side].index(axis)]
                    self._read(read, group, self.origin[other][1][theirs])
                elif axis in contracted[side] or group in carried:
                    self.refuse([group], "a product of two activations")
                else:
                    carried[group] = dot_place(node, side, axis)
            if other in self.origin:
                self.uses.setdefault(self.origin[other][0], []).append(read)
        if carried:
            self.carried[out] = carried

    def _read(self, record: dict[str, frozenset[int]], group: str, leaf_axes: tuple[int, ...]) -> None:
        if leaf_axes:
            record[group] = frozenset(leaf_axes)
        else:
            self.refuse([group], "a kernel whose axes were split")

    def _convolve(self, node: Node) -> None:
        (x, kernel), params = node.inputs, node.eqn.params
        spec, groups = params["dimension_numbers"], params["feature_group_count"]
        feature, read, carried = spec.lhs_spec[1], {}, {}
        self._end(node, [v for v in (x, kernel) if v in self.scale] + [v for v in (kernel,) if v in self.carried])
        for group, axis in self.carried.get(x, {}).items():
            if axis == feature and groups == 1 and kernel in self.origin:
                self._read(read, group, self.origin[kernel][1][spec.rhs_spec[1]])
            elif axis == feature and groups == x.axes[feature].size == kernel.axes[spec.rhs_spec[0]].size:
                carried[group] = spec.out_spec[1]  # depthwise: every channel on its own
            else:
                self.refuse([group], "a convolution")
        if kernel in self.origin:
            self.uses.setdefault(self.origin[kernel][0], []).append(read)
        if x in self.origin:
            self._end(node, [x])
        if carried:
            self.carried[node.outputs[0]] = carried


def dot_place(node: Node, side: int, axis: int) -> int:
    """Where a free or batch axis of one operand stands in the result of a `dot_general`."""
    contracted, batch = node.eqn.params["dimension_numbers"]
    if axis in batch[side]:
        return batch[side].index(axis)
    free = [i for i in range(len(node.inputs[side].axes)) if i not in (*contracted[side], *batch[side])]
    left = len(node.inputs[0].axes) - len(contracted[0])  # batch and free axes of the first operand
    return (len(batch[0]) if side == 0 else left) + free.index(axis)


def movement(node: Node) -> list[tuple[int, ...]] | None:
    """For an operation that only moves, adds, drops or merges axes: the operand axes of each result axis."""
    if len(node.inputs) != 1 or len(node.outputs) != 1:
        return _padding(node)
    shape = [axis.size for axis in node.outputs[0].axes]
    before = [axis.size for axis in node.inputs[0].axes]
    if node.name in ("convert_element_type", "copy", "alias", "sharding_constraint"):
        return [(i,) for i in range(len(shape))] if before == shape else None
    if node.name == "scan_row":
        return [(i + 1,) for i in range(len(shape))]
    if node.name == "transpose":
        return [(i,) for i in node.eqn.params["permutation"]]
    if node.name == "squeeze":
        return [(i,) for i in range(len(before)) if i not in node.eqn.params["dimensions"]]
    if node.name == "broadcast_in_dim":
        sources = {out: i for i, out in enumerate(node.eqn.params["broadcast_dimensions"])}
        return [(sources[j],) if j in sources and before[sources[j]] == n else () for j, n in enumerate(shape)]
    if node.name == "reshape":
        return _reshaped(tuple(before), tuple(shape))
    return None


def _reshaped(before: tuple[int, ...], after: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Merged axes keep their sources; an axis that is split has no place any more."""
    moved: list[tuple[int, ...]] = [()] * len(after)
    for left, right in reshape_blocks(before, after):
        real = [j for j in right if after[j] != 1]
        if len(real) == 1:
            moved[real[0]] = tuple(i for i in left if before[i] != 1)
    return moved


def _padding(node: Node) -> list[tuple[int, ...]] | None:
    """Zero padding of other axes; `pad` has two operands, the second the value."""
    if node.name != "pad" or node.inputs[1].constant is None or float(node.inputs[1].constant) != 0:
        return None
    config = node.eqn.params["padding_config"]
    return [(i,) if low == high == interior == 0 else () for i, (low, high, interior) in enumerate(config)]
