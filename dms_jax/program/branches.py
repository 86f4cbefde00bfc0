"""Residual branches that can go, and what goes with them.

`y = x + f(x)` (or minus) is a sum of which one term is made of the other, or of what the other is a residual sum on, or
a multiple of: `1.4 x + f(x)`, say. Without its branch such a sum gives its trunk; the branch, and whatever reaches
outputs through it alone, is gone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from dms_jax.program.axes import UNIT, atoms, resolve
from dms_jax.program.frames import SAME, Node, Program, Value
from dms_jax.program.gatemarks import GateMarks

Element: TypeAlias = tuple[str, int]  # (depth group, element)
Key: TypeAlias = tuple[frozenset[int], int]  # the leaves that go with a branch, and the how-many-eth with the same


@dataclass(frozen=True, eq=False)
class Branch:
    """One residual sum.

    Attributes:
      node: the sum.
      operand: which operand is the branch.
      leaves: numbers of the parameters that go with it.
      key: what the same branch has in another program of the same parameters.
      stream: branches of one residual stream have the same.
      mark: (group, element) where the network names it.
      products: whether a matrix product goes with it.
    """

    node: Node
    operand: int
    leaves: frozenset[int]
    key: Key
    stream: tuple
    mark: tuple[str, int] | None = None
    products: bool = True

    @property
    def block(self) -> bool:
        """Whether it can be an element: it holds a product of its own, or the network names it."""
        return self.products or self.mark is not None


def find_branches(
    program: Program, leaves: Mapping[Value, int], trained: Sequence[bool], state: Sequence[int] = ()
) -> list[Branch]:
    """All residual branches of a program; `Branch.block` says which can be elements.

    Args:
      program: the program.
      leaves: parameter values and their numbers.
      trained: of every leaf.
      state: numbers of outputs that are new values of leaves: they do not keep a branch alive.
    """
    sums = _residual_sums(program, leaves)
    gates = GateMarks(program)
    through = reach(program, {node: (operand, {i}) for i, (node, operand) in enumerate(sums)}, state)
    behind: list[set[int]] = [set() for _ in sums]
    for value, number in leaves.items():
        if trained[number]:
            for i in through.get(value, frozenset()):
                behind[i].add(number)
    working = set()
    for product in program.products:
        working |= through.get(product.node.outputs[0], frozenset())
    found, count = [], {}
    for i, (node, operand) in enumerate(sums):
        mark = gates.of(node.inputs[operand])
        own = frozenset(behind[i])
        if i in working or mark is not None:
            count[own] = count.get(own, 0) + 1
        found.append(Branch(node, operand, own, (own, count.get(own, 0)), _stream(node), mark, i in working))
    return found


def _residual_sums(program: Program, leaves: Mapping[Value, int]) -> list[tuple[Node, int]]:
    """(sum, which operand is the branch), in the order of the program."""
    makers: dict[Value, Node] = {}
    index: dict[Value, int] = {}
    for k, node in enumerate(program.nodes):
        for out in node.outputs:
            makers.setdefault(out, node)
            index.setdefault(out, k)
    trunk: dict[Value, Value] = {}
    found: list[tuple[Node, int]] = []
    for node in program.nodes:
        if node.name not in ("add", "add_any", "sub") or node.in_loop:
            continue
        a, b = node.inputs
        if a is b or not a.axes or not alike(a, b) or a in leaves or b in leaves:
            continue
        if a.constant is not None or b.constant is not None:
            continue
        either = ((1, (a, b)), (0, (b, a)))
        for operand, (stays, branch) in either[:1] if node.name == "sub" else either:  # x - f(x)
            if branch in makers and makers[branch].name == "stop_gradient":
                continue  # x + stop_gradient(q - x) is q: nothing learns there
            if made_of(makers, index, branch, _trunks(makers, trunk, stays, leaves)):
                trunk[node.outputs[0]] = stays
                found.append((node, operand))
                break
    return found


def alike(a: Value, b: Value) -> bool:
    return len(a.axes) == len(b.axes) and all(x.size == y.size for x, y in zip(a.axes, b.axes, strict=True))


def _trunks(
    makers: Mapping[Value, Node], trunk: Mapping[Value, Value], value: Value, leaves: Mapping[Value, int]
) -> list[Value]:
    """A value, and what it is a residual sum on, or a multiple of, all the way back."""
    found = [value]
    while True:
        source = trunk.get(value) or _multiplied(makers.get(value))
        if source is None or source in leaves:
            return found
        value = source
        found.append(value)


def _multiplied(node: Node | None) -> Value | None:
    """What an operation casts, or multiplies by a number."""
    if node is None:
        return None
    if node.name in SAME:
        return node.inputs[0]
    if node.name == "mul" and node.inputs[0].constant is not None:
        return node.inputs[1]
    if node.name in ("mul", "div") and node.inputs[1].constant is not None:
        return node.inputs[0]
    return None


def made_of(makers: Mapping[Value, Node], index: Mapping[Value, int], value: Value, of: Sequence[Value]) -> bool:
    """Whether a value is computed from any of some others."""
    wanted = set(of)
    earliest = min((index.get(v, -1) for v in of), default=-1)
    stack, seen = [value], {value}
    while stack:
        current = stack.pop()
        if current in wanted:
            return True
        node = makers.get(current)
        if node is None or index[current] <= earliest:
            continue
        for source in node.inputs:
            if source not in seen:
                seen.add(source)
                stack.append(source)
    return False


def _stream(node: Node) -> tuple:
    """Which residual stream a sum belongs to: its axes, those of images by their sizes."""
    axes = [list(atoms(resolve(axis))) for axis in node.outputs[0].axes]
    return tuple(tuple(a.size if a.frozen is not None or a is UNIT else id(a) for a in axis) for axis in axes)


def reach(
    program: Program,
    marks: Mapping[Node, tuple[int, set]],
    state: Sequence[int] = (),
    behind: Mapping[int, frozenset] | None = None,
) -> dict[Value, frozenset]:
    """For every value that reaches an output: the marks that all of its ways there go through.

    A way goes through a mark where it enters the marked operand of the marked node. Post-dominance, by a reverse pass
    repeated until loops have settled.

    Args:
      program: the program.
      marks: node -> (operand, what to note).
      state: numbers of outputs that do not count.
      behind: number of an output -> marks that it is behind itself: it goes with them.
    """
    behind = behind or {}
    through: dict[Value, frozenset] = {}
    for i, value in enumerate(program.outputs):
        if i not in state:
            own = behind.get(i, frozenset())
            through[value] = through[value] & own if value in through else own
    noted = {node: (operand, frozenset(what)) for node, (operand, what) in marks.items()}
    settled = False
    while not settled:
        settled = True
        for node in reversed(program.nodes):
            after = [through[out] for out in node.outputs if out in through]
            if not after:
                continue
            common = frozenset.intersection(*after)
            mark = noted.get(node)
            for i, value in enumerate(node.inputs):
                now = common | mark[1] if mark is not None and mark[0] == i else common
                known = through.get(value)
                now = now if known is None else known & now
                if now != known:
                    through[value] = now
                    settled = False
    return through
