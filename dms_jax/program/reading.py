"""One function of the parameters, read for the shapes of its arguments on the classes that a space has found.

The space's atoms are copied first: whatever this function ties, splits or freezes changes nothing in the space. Where
it would take a group apart that is searched, it is refused by name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from dms_jax.errors import TracingError
from dms_jax.program.axes import UNIT, Atom, Axis, Concat, Product, Ties, resolve
from dms_jax.program.branches import Branch, Element, Key, find_branches, reach
from dms_jax.program.derived import gates_by_use
from dms_jax.program.emptied import refuse_emptied
from dms_jax.program.frames import Node, Program, Value, describe
from dms_jax.program.parameters import Parameters, new_values
from dms_jax.program.reasons import Boundary
from dms_jax.program.rows import find_rows
from dms_jax.program.sizes import owners
from dms_jax.program.staging import Staged, traced

ELSEWHERE = "; trace it with the space (`also=`), or leave the group alone (`freeze=`)"
"""What to do about a function that the space was not made with."""


@dataclass(frozen=True, eq=False)
class Classes:
    """What a space has found: the axes of its parameters, who owns them, and what goes with which gate.

    Attributes:
      parameters: the leaves.
      axes: of every leaf.
      owned: atom -> (group, offset of its first position in the group).
      elements: what a residual branch has in any program -> the gate that it goes with.
      branches: parameters -> how many residual branches they go with, in the space's program.
      gates: of every leaf, the gates that it goes with.
      depth: names of depth groups whose elements are residual branches.
      row_groups: depth groups whose elements are rows of stacked parameters.
      context: what to trace in: a network that marks its groups does so inside.
      least: group -> how many elements it keeps at least.
    """

    parameters: Parameters
    axes: Sequence[tuple[Axis, ...]]
    owned: Mapping[Atom, tuple[str, int]]
    elements: Mapping[Key, Element] = field(default_factory=dict)
    branches: Mapping[frozenset[int], int] = field(default_factory=dict)
    gates: Sequence[frozenset[Element]] = ()
    depth: frozenset[str] = frozenset()
    row_groups: frozenset[str] = frozenset()
    context: Callable[[], AbstractContextManager[Any]] = nullcontext
    least: Mapping[str, int] = field(default_factory=dict)


@dataclass(eq=False)
class Reading:
    """A function, traced.

    Attributes:
      program: its program.
      leaves: values of the parameters -> their numbers.
      arguments: values of the other inputs.
      owned: this program's atoms of the groups.
      gates: (group, element) -> its residual sums: (node, operand of the branch).
      row_sums: node of a sum in a loop over layers -> (operand of the branch, id of the loop's step); an operand of -1
        stands for a loop whose layers are no residual branches here, so that it can have fewer of them, but no masks.
      rows: of loops over layers: id of the step -> the depth group of its rows.
      out_tree: of the outputs.
      state: of every output, the leaf whose new value it is, or None.
      elsewhere: gates that cannot be closed here -> a parameter that goes with them and is used elsewhere, too.
    """

    program: Program
    leaves: dict[Value, int]
    arguments: list[Value]
    owned: dict[Atom, tuple[str, int]]
    gates: dict[Element, list[tuple[Node, int]]]
    row_sums: dict[Node, tuple[int, int]]
    rows: dict[int, str]
    out_tree: Any
    state: list[int | None]
    elsewhere: dict[Element, str] = field(default_factory=dict)

    def check(self, gone: Iterable[Element]) -> None:
        """Whether gates can be closed in this function.

        Raises:
          TracingError: one cannot.
        """
        for name, element in gone:
            if (name, element) in self.elsewhere:
                raise TracingError(
                    f"{self.elsewhere[name, element]} goes with element {element} of group {name!r}, but this function "
                    f"uses it elsewhere, too{ELSEWHERE}",
                    (name,),
                )

    def stays(self, gone: frozenset[Element]) -> dict[Node, tuple[int, Element]]:
        """Residual sums without their branch -> the operand that stays, and the gate."""
        return {node: (1 - operand, element) for element in gone for node, operand in self.gates.get(element, ())}


def read(classes: Classes, staged: Staged) -> Reading:
    """Read a function on copies of the classes.

    Args:
      classes: of the space.
      staged: the function, for the shapes of its arguments.

    Raises:
      TracingError: the function ties, splits or freezes a group, or uses what goes with a gate elsewhere, too.
    """
    copies: dict[Atom, Atom] = {}

    def copy(axis: Axis) -> Axis:
        axis = resolve(axis)
        if axis is UNIT:
            return UNIT
        if isinstance(axis, Concat):
            return Concat(tuple(copy(part) for part in axis.parts))
        if isinstance(axis, Product):
            return Product(tuple(copy(factor) for factor in axis.factors))
        if axis not in copies:
            copies[axis] = Atom(axis.size)
        return copies[axis]

    leaves = [Value(tuple(copy(axis) for axis in axes)) for axes in classes.axes]
    program, arguments = traced(staged, leaves, Ties())
    numbers = {value: i for i, value in enumerate(leaves)}
    for value in arguments:
        for axis in value.axes:
            program.ties.freeze(axis, Boundary("input", "this function"))
    shapes = [tuple(axis.size for axis in value.axes) for value in program.outputs]
    state = new_values(classes.parameters, staged.out_tree, shapes)
    for leaf, value in zip(state, program.outputs, strict=True):
        for a, b in zip(value.axes, () if leaf is None else leaves[leaf].axes, strict=leaf is not None):
            program.ties.tie(a, b, f"the new value of {classes.parameters.paths[leaf or 0]}")
    owned = _owned(classes, copies, program)
    _check_sliced(classes, leaves, owned)
    refuse_emptied(program, owned, classes.least)
    rows, row_sums = _rows(program, numbers, [i for i, leaf in enumerate(state) if leaf is not None], classes, owned)
    updates = [i for i, leaf in enumerate(state) if leaf is not None and classes.gates and classes.gates[leaf]]
    branches = find_branches(program, numbers, classes.parameters.trained, updates)
    gates: dict[Element, list[tuple[Node, int]]] = {}
    strange = _strange(classes, branches)
    for branch in branches:
        if not branch.block or (branch.mark is None and branch.key[0] in strange):
            continue
        marked = branch.mark is not None and branch.mark[0] in classes.depth
        element = branch.mark if marked else classes.elements.get(branch.key)
        if element is not None:
            gates.setdefault(element, []).append((branch.node, branch.operand))
    missing = _missing(classes, gates)
    gates |= gates_by_use(program, numbers, branches, missing, updates, together=False)
    reading = Reading(program, numbers, arguments, owned, gates, row_sums, rows, staged.out_tree, state)
    reading.elsewhere = _elsewhere(classes, reading)
    missing = {gate: own for gate, own in missing.items() if gate in reading.elsewhere}
    if missing:
        gates |= gates_by_use(program, numbers, branches, missing, updates)
        reading.elsewhere = _elsewhere(classes, reading)
    return reading


def _owned(classes: Classes, copies: Mapping[Atom, Atom], program: Program) -> dict[Atom, tuple[str, int]]:
    owned: dict[Atom, tuple[str, int]] = {}
    for atom, (name, start) in classes.owned.items():
        root = resolve(copies[atom])
        if not isinstance(root, Atom):
            raise TracingError(
                f"group {name!r}: {describe(program.ties.splits(copies[atom]))} splits its axis in this function"
                f"{ELSEWHERE}",
                (name,),
            )
        if root.frozen is not None:
            raise TracingError(
                f"group {name!r}: this function leaves nothing to take out of its axis, because of "
                f"{describe(root.frozen)}{ELSEWHERE}",
                (name,),
            )
        if root in owned and owned[root] != (name, start):
            raise TracingError(
                f"groups {owned[root][0]!r} and {name!r} are tied together in this function; trace it with the space "
                "(`also=`)",
                (owned[root][0], name),
            )
        owned[root] = (name, start)
    return owned


def _check_sliced(classes: Classes, leaves: Sequence[Value], owned: Mapping[Atom, tuple[str, int]]) -> None:
    """Every axis that has a group's elements in this function has them in the space."""
    for path, value, axes in zip(classes.parameters.paths, leaves, classes.axes, strict=True):
        for i, (here, there) in enumerate(zip(value.axes, axes, strict=True)):
            more = set(owners(here, owned)) - set(owners(there, classes.owned))
            if more:
                raise TracingError(
                    f"axis {i} of {path} has the elements of group {min(more)!r} in this function, and in no program "
                    'that the space was made with; make the space with this one, too: also={"train": (function, '
                    "arguments)}",
                    tuple(sorted(more)),
                )


def _rows(
    program: Program,
    leaves: Mapping[Value, int],
    state: Sequence[int],
    classes: Classes,
    owned: Mapping[Atom, tuple[str, int]],
) -> tuple[dict[int, str], dict[Node, tuple[int, int]]]:
    rows: dict[int, str] = {}
    sums: dict[Node, tuple[int, int]] = {}
    if not classes.row_groups:
        return rows, sums
    residual = {id(found.scan.step): found for found in find_rows(program, leaves, state)}
    for scan in program.scans:
        root = resolve(scan.rows)
        name = owned[root][0] if isinstance(root, Atom) and root in owned else None
        if name not in classes.row_groups:
            continue
        found = residual.get(id(scan.step))
        rows[id(scan.step)] = name
        if found is None:  # a loop of a gradient, say: it can run over fewer rows, but not with masks
            sums[Node("scan", [], [], scan.step.eqn)] = (-1, id(scan.step))
            continue
        sums |= {node: (operand, id(scan.step)) for node, operand in found.sums}
    return rows, sums


def _strange(classes: Classes, branches: Sequence[Branch]) -> set[frozenset[int]]:
    """Parameters with which more, or fewer, branches go than in the space's program: their order tells nothing here.

    Raises:
      TracingError: no parameters go with them, so that nothing else tells them apart either.
    """
    known, here = Counter(own for own, _ in classes.elements), Counter(b.key[0] for b in branches if b.block)
    strange = {own for own, number in known.items() if here[own] and here[own] != classes.branches[own]}
    if frozenset() in strange:
        name = next(name for (own, _), (name, _) in classes.elements.items() if not own)
        raise TracingError(
            f"group {name!r}: blocks that share their parameters are told apart by their order, and this function has "
            f"{here[frozenset()]} branches without parameters of their own where the space has "
            f"{classes.branches[frozenset()]}; freeze the group (`freeze=`), or take its gradient after `shrunk`"
        )
    return strange


def _missing(classes: Classes, found: Mapping[Element, Any]) -> dict[Element, frozenset[int]]:
    """Gates that were not found by what goes with them: gate -> its parameters."""
    own: dict[Element, set[int]] = {}
    for number, gates in enumerate(classes.gates):
        for gate in gates:
            if gate not in found and classes.parameters.trained[number]:
                own.setdefault(gate, set()).add(number)
    return {gate: frozenset(numbers) for gate, numbers in own.items()}


def _elsewhere(classes: Classes, reading: Reading) -> dict[Element, str]:
    """Gates of which something that goes with them does not do so in this function."""
    if not any(classes.gates):
        return {}
    marks = {node: (operand, {element}) for element, sums in reading.gates.items() for node, operand in sums}
    behind = {i: classes.gates[leaf] for i, leaf in enumerate(reading.state) if leaf is not None}
    through = reach(reading.program, marks, behind=behind)
    found: dict[Element, str] = {}
    for value, number in reading.leaves.items():
        for element in classes.gates[number] - through[value] if value in through else ():
            found.setdefault(element, classes.parameters.paths[number])
    return found
