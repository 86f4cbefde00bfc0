"""Where masks act, and the proof that nothing dropped is ever read.

A network may compute anything at dropped positions as long as no operation runs over them. Operations that run over an
axis (products, reductions, cumulative sums) are known (`Operation.reads`), and each of them reads its operand times the
mask: that is the meaning of a mask, soft or hard, and with a mask of zeros and ones it is what the smaller network
computes. A `Plan` says how each of those reads comes by the mask: multiplied into parameters, where `scaling` proves
that it is the same; or inserted right there. Means over a masked axis count kept elements.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from dms_jax.program.axes import Atom, Axis, atoms, resolve
from dms_jax.program.bounds import differences
from dms_jax.program.branches import Element
from dms_jax.program.frames import MOVED, Node, Program, Value
from dms_jax.program.means import Mean, means
from dms_jax.program.operations import Refused
from dms_jax.program.scaling import Graph, Scaling, Site
from dms_jax.program.sizes import owners

_ReadSite: TypeAlias = tuple[Node, tuple[tuple[int, int], ...], str]  # an operation, its sides, what is neutral
Owned: TypeAlias = Mapping[Atom, tuple[str, int]]


@dataclass(frozen=True)
class Factor:
    """One parameter to multiply: by a mask along `axis`, or as a whole by the gate `element`; the other is None."""

    leaf: int
    axis: int | None
    element: int | None = None


@dataclass(frozen=True, eq=False)
class Insertion:
    """A mask to multiply in before an operation reads: `how` says what is neutral to it (see `operations.Read`).

    "bounded" is no read: what is dropped stays below what is subtracted from it (see `bounds`).
    """

    node: Node
    operand: int
    axis: int
    how: str


@dataclass(eq=False)
class Plan:
    """How the masks of a program come to where they are read.

    Attributes:
      factors: group -> parameters to multiply.
      insertions: group -> masks to insert.
      gates: (group, element) -> branches to multiply: (node of the residual sum, operand).
      means: means over axes of groups.
      counted: groups that a mean counts.
    """

    factors: dict[str, tuple[Factor, ...]] = field(default_factory=dict)
    insertions: dict[str, list[Insertion]] = field(default_factory=dict)
    gates: dict[Element, list[tuple[Node, int]]] = field(default_factory=dict)
    means: list[Mean] = field(default_factory=list)
    counted: set[str] = field(default_factory=set)

    def folds(self, name: str) -> bool:
        """Whether a group's mask is multiplied into parameters and nothing else."""
        inserted = self.insertions.get(name) or any(group == name for group, _ in self.gates)
        return name in self.factors and not inserted and name not in self.counted


def reads(program: Program, owned: Owned) -> dict[str, list[_ReadSite]]:
    """{group: [(operation, sides, how)]} of every operation that runs over an axis of the group."""
    found: dict[str, list[_ReadSite]] = {}
    known: dict[int, tuple[list[str], Axis]] = {}
    for node in program.nodes:
        operation = node.operation
        if operation is None or operation.reads is None:
            continue
        for read in operation.reads(node):
            operand, axis = read.sides[0]
            where = node.inputs[operand].axes[axis]
            if id(where) not in known:
                known[id(where)] = (owners(where, owned), where)
            for name in known[id(where)][0]:
                found.setdefault(name, []).append((node, read.sides, read.how))
    return found


def plan(
    program: Program,
    owned: Owned,
    leaves: Mapping[Value, int],
    trained: Sequence[bool],
    gates: Mapping[Element, Sequence[tuple[Node, int]]],
    *,
    writes: bool = True,
    fold: bool = True,
) -> Plan:
    """Decide for every group: parameters that read it, parameters that write it, or insertion; the fewest numbers.

    A leaf that other masks go into counts half: it is copied anyway, and one more factor is cheap. So groups with the
    fewest choices come first.

    Args:
      program: the program.
      owned: atoms of groups.
      leaves: the parameter values of the program and their numbers.
      trained: of every leaf; masks go into no other.
      gates: (group, element) -> the residual branches that go with it.
      writes: whether masks may go into what writes an axis. False for masks that reach 0: m relu(x) = relu(m x) has no
        derivative in m at 0 on the right-hand side.
      fold: False inserts every mask (the reference).
    """
    graph = Graph(program, leaves, [i for i, train in enumerate(trained) if not train])
    found = Plan(means=means(program, owned))
    found.counted = {name for mean in found.means for axis in mean.axes for name in owners(axis, owned)}
    options = {name: _options(graph, owned, name, sites, writes, fold) for name, sites in reads(program, owned).items()}
    scaled: set[int] = set()
    sizes = {leaf: math.prod(axis.size for axis in value.axes) for value, leaf in leaves.items()}

    def numbers(option: _Option) -> float:
        folded = sum(sizes[leaf] / 2 if leaf in scaled else sizes[leaf] for leaf in {f.leaf for f in option.factors})
        return folded + 2 * option.inserted

    for name in sorted(options, key=lambda name: len(options[name])):
        best = min(options[name], key=numbers)
        scaled |= {f.leaf for f in best.factors}
        if best.factors:
            found.factors[name] = best.factors
        if best.insertions:
            found.insertions[name] = best.insertions
    for name, node, axis in differences(program, owned):
        found.insertions.setdefault(name, []).append(Insertion(node, 0, axis, "bounded"))
    for (name, element), sums in gates.items():
        folded = _gate_factors(graph, element, sums) if fold and writes else None
        if folded is None:
            found.gates[name, element] = list(sums)
        else:
            found.factors[name] = (*found.factors.get(name, ()), *folded)
    return found


@dataclass(frozen=True, eq=False)
class _Option:
    factors: tuple[Factor, ...]
    insertions: list[Insertion]

    @property
    def inserted(self) -> int:
        """How many numbers are multiplied where masks are inserted."""
        values = [(i.node.inputs[i.operand]) for i in self.insertions]
        return sum(math.prod(axis.size for axis in value.axes) for value in values)


def _options(graph: Graph, owned: Owned, name: str, sites: Iterable, writes: bool, fold: bool) -> list[_Option]:
    """Into parameters that read, where nothing else reads them, and inserted elsewhere; or all into writers."""
    mine = {atom for atom, (owner, _) in owned.items() if owner == name}

    def holds(value: Value, axis: int) -> bool:
        return any(atom in mine for atom in atoms(resolve(value.axes[axis])))

    scaling = Scaling(graph, holds)
    if not fold:
        return [_Option((), [_cheapest(node, sides, how) for node, sides, how in sites])]
    insertions = [_cheapest(*site) for site in sites if _parameter_side(graph, *site) is None]
    factors: list[Factor] = []
    for reads in _by_parameter(graph, scaling, sites):
        factors += reads.factors
        insertions += [] if reads.factors else [_cheapest(*site) for site in reads.sites]
    options = [_Option(tuple(dict.fromkeys(factors)), insertions)]
    if writes:
        written = _written(graph, scaling, sites)
        options += [_Option(tuple(written), [])] if written else []
        nearer = _nearer(graph, scaling, _by_parameter(graph, scaling, sites))
        options += [_Option(tuple(dict.fromkeys(nearer)), insertions)] if nearer is not None else []
    return options


@dataclass(frozen=True, eq=False)
class _Reads:
    """What reads an axis with one parameter, and where the mask may go instead; no factors: nowhere."""

    sites: list[_ReadSite]
    factors: list[Factor]


def _by_parameter(graph: Graph, scaling: Scaling, sites: Iterable[_ReadSite]) -> list[_Reads]:
    """Reads of one parameter together: it is scaled for all of them or for none."""
    by_leaf: dict[Value | None, list[_ReadSite]] = {}
    for node, sides, how in sites:
        side = _parameter_side(graph, node, sides, how)
        if side is not None:
            by_leaf.setdefault(_origin(graph, node.inputs[side[0]]), []).append((node, sides, how))
    found = []
    for several in by_leaf.values():
        wanted: list[Site] = []
        for node, sides, how in several:
            operand, axis = _parameter_side(graph, node, sides, how) or (0, 0)
            wanted.append((node, operand, axis))
        found.append(_Reads(several, _factors(scaling, wanted)))
    return found


def _factors(scaling: Scaling, wanted: list[Site]) -> list[Factor]:
    try:
        return [Factor(leaf, axis) for leaf, axis in scaling.leaves(wanted)]
    except Refused:
        return []


def _nearer(graph: Graph, scaling: Scaling, every: Sequence[_Reads]) -> list[Factor] | None:
    """Where all that reads one array are parameters, and what writes it takes fewer numbers: there.

    A normalization has a scale and a bias: two vectors instead of the kernels of queries, keys and values. None where
    it is nowhere better.
    """
    by_root: dict[Value, list[_Reads]] = {}
    for reads in every:
        roots = {_root(graph, node.inputs[_activation(graph, node, sides)[0]]) for node, sides, _ in reads.sites}
        if len(roots) == 1:
            by_root.setdefault(roots.pop(), []).append(reads)
    sizes = {leaf: math.prod(axis.size for axis in value.axes) for value, leaf in graph.leaves.items()}
    found, better = [f for reads in every for f in reads.factors], False
    for several in by_root.values():
        here = {f.leaf for reads in several for f in reads.factors}
        wanted: list[Site] = [
            (node, *_activation(graph, node, sides)) for reads in several for node, sides, _ in reads.sites
        ]
        written = _factors(scaling, wanted)
        if written and sum(sizes[f.leaf] for f in written) < sum(sizes[leaf] for leaf in here):
            dropped = {id(f) for reads in several for f in reads.factors}
            found, better = [f for f in found if id(f) not in dropped] + written, True
    return found if better else None


def _activation(graph: Graph, node: Node, sides: tuple[tuple[int, int], ...]) -> tuple[int, int]:
    """The side of an operation that is no parameter: (operand, axis)."""
    return next(((k, i) for k, i in sides if _origin(graph, node.inputs[k]) is None), sides[0])


def _root(graph: Graph, value: Value) -> Value:
    """What a value is, before it was moved or cast."""
    while value not in graph.leaves:
        makers = graph.makers.get(value, ())
        if len(makers) != 1 or makers[0].name not in MOVED:
            break
        value = makers[0].inputs[0]
    return value


def _parameter_side(graph: Graph, node: Node, sides: tuple[tuple[int, int], ...], how: str) -> tuple[int, int] | None:
    """The side of a product that is a parameter, moved or cast at most."""
    for operand, axis in sides if how == "sum" else ():
        if _origin(graph, node.inputs[operand]) is not None:
            return operand, axis
    return None


def _origin(graph: Graph, value: Value) -> Value | None:
    """The trained parameter that a value is, moved or cast at most."""
    value = _root(graph, value)
    return value if value in graph.leaves and graph.leaves[value] not in graph.fixed else None


def _cheapest(node: Node, sides: tuple[tuple[int, int], ...], how: str) -> Insertion:
    """At the smaller operand."""
    operand, axis = min(sides, key=lambda side: math.prod(a.size for a in node.inputs[side[0]].axes))
    return Insertion(node, operand, axis, how)


def _written(graph: Graph, scaling: Scaling, sites: Iterable[_ReadSite]) -> list[Factor]:
    """What writes the axis, for all sites at once; nothing where that is not the same."""
    wanted: list[Site] = []
    for node, sides, how in sites:
        if how != "sum":
            return []
        wanted.append((node, *_activation(graph, node, sides)))
    return _factors(scaling, wanted)


def _gate_factors(graph: Graph, element: int, sums: Sequence[tuple[Node, int]]) -> list[Factor] | None:
    """Parameters that, multiplied, scale the branches of one gate."""
    if any(node.in_loop for node, _ in sums):
        return None
    scaling = Scaling(graph, lambda value, axis: True)
    try:
        found = scaling.leaves([(node, operand, None) for node, operand in sums])
    except Refused:
        return None
    return [Factor(leaf, None, element) for leaf, _ in found] or None
