"""What there is to search in a function of parameters: its groups, and which gates every parameter goes with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any

from dms_jax.errors import TracingError
from dms_jax.groups import KINDS, Group
from dms_jax.program.axes import UNIT, Atom, Axis, Concat, Product, Ties, resolve
from dms_jax.program.branches import Element, reach
from dms_jax.program.candidates import Candidate, find_candidates, named_axes, unread
from dms_jax.program.choice import TAKEN, Choice, Declared, matches
from dms_jax.program.depth import find_depth, free_name, leaf_gates
from dms_jax.program.frames import Node, Program, Value, describe
from dms_jax.program.parameters import Parameters, new_values
from dms_jax.program.reading import Classes
from dms_jax.program.reasons import Boundary, Reason
from dms_jax.program.rows import find_rows
from dms_jax.program.staging import Staged, stage, traced


@dataclass(frozen=True, eq=False)
class Discovery:
    """What was found.

    Attributes:
      staged: the inference function as a jaxpr.
      program: of it, on the classes' own atoms.
      leaves: values of the parameters.
      classes: axes, owners, gates.
      groups: name -> `Group`, in the order of the network.
      left: candidates that are not searched, with the reason.
      behind: of every value of `program` that reaches an output, the gates in front of it.
      idle: paths of arrays that no program reads.
      sites: group -> an axis where it stands in the network, for explanations.
    """

    staged: Staged
    program: Program
    leaves: list[Value]
    classes: Classes
    groups: dict[str, Group]
    left: dict[str, Reason]
    behind: Mapping[Value, frozenset[Element]]
    sites: dict[str, Axis]
    idle: frozenset[str]


@dataclass(frozen=True, eq=False)
class Extra:
    """Another function of the same parameters: a training step. Outputs by the paths of leaves are their new values."""

    name: str
    fn: Callable[..., Any]
    args: tuple[Any, ...]


def discover(
    parameters: Parameters,
    fn: Callable[..., Any],
    inputs: Sequence[Any],
    extras: Sequence[Extra] = (),
    choice: Choice | None = None,
    context: Callable[[], AbstractContextManager[Any]] = nullcontext,
    spare: Extra | None = None,
) -> Discovery:
    """Read a function of parameters, and others of the same.

    Args:
      parameters: the leaves.
      fn: of inference.
      inputs: of it, arrays or shapes.
      extras: what runs, too.
      choice: what is to be searched.
      context: what to trace in.
      spare: what probably runs, too. It is read where the others leave arrays unread, whose axes it alone may tell: if
        it can be traced, and leaves something to search.

    Raises:
      TracingError: a group that the network names, and of which nothing can be taken.
      UserError: a pattern that matches nothing.
    """
    given = (parameters, fn, inputs, extras, choice or Choice(), context)
    if spare is not None:
        with suppress(TracingError):
            found = _discover(*given, spare)
            if found.groups:
                return found
    return _discover(*given, None)


def _discover(
    parameters: Parameters,
    fn: Callable[..., Any],
    inputs: Sequence[Any],
    extras: Sequence[Extra],
    choice: Choice,
    context: Callable[[], AbstractContextManager[Any]],
    spare: Extra | None,
) -> Discovery:
    ties, leaves = Ties(), [Value(tuple(_atom(n) for n in shape.shape)) for shape in parameters.shapes]
    numbers = {value: i for i, value in enumerate(leaves)}
    programs: list[Program] = []
    states: list[tuple[int, ...]] = []

    def learn(name: str, one: Staged, lean: bool = True) -> None:
        program, arguments = traced(one, leaves, ties, lean)
        _freeze(ties, arguments, Boundary("input", name))
        if programs:
            states.append(_tie_state(ties, parameters, leaves, program, one.out_tree, name))
        else:
            _freeze(ties, program.outputs, Boundary("output", name))
            states.append(())
        programs.append(program)

    staged = stage(parameters, fn, inputs, context)
    known = {"the network": staged} | {e.name: stage(parameters, e.fn, e.args, context) for e in extras}
    for name, one in known.items():
        learn(name, one)
    if spare is not None and unread(parameters, programs, numbers):
        with suppress(Exception):  # nobody said that it runs as it is called here, and frameworks fail in many ways
            known[spare.name] = stage(parameters, spare.fn, spare.args, context)
        if spare.name in known:
            learn(spare.name, known[spare.name])
    if unread(parameters, programs, numbers) and not all(program.whole for program in programs):
        del programs[:], states[:]  # what no output needs may tell their axes
        for name, one in known.items():
            learn(name, one, lean=False)
    main = programs[0]
    named = named_axes(programs)
    for places in named.values():
        for node, axis in places[1:]:
            ties.tie(places[0][1], axis, node)
    axes = [value.axes for value in leaves]
    rows = _rows(programs, states, numbers, ties, axes)
    candidates = find_candidates(parameters, axes, programs, numbers)
    called: dict[Atom, str] = {}
    if choice.declared is None:
        called = {part: name for name, places in named.items() for part in _parts(name, places[0][1], ties)}
        groups, owned, left, sites = _chosen(candidates, called, choice)
    else:
        groups, owned, left, sites = _declared(choice.declared, named, ties)
    depth = find_depth(parameters, programs, numbers, states, choice, rows)
    if choice.declared is None:
        names = [called.get(candidate.atom, candidate.name) for candidate in candidates]
        choice.check([*names, *depth.groups, *depth.frozen, *choice.failed])
        left |= {name: Reason("frozen", "frozen") for name in depth.frozen}
    for name, group in depth.groups.items():
        groups[free_name(name, groups)] = group
    owned |= depth.owned
    left |= {name: Reason("check", why) for name, why in choice.failed.items()}
    if not groups and not left:  # what is no news elsewhere is the reason here
        left |= {c.name: c.why for c in candidates if c.why is not None}
    if choice.declared is not None:
        idle = next((name for name in choice.declared if name not in groups), None)
        if idle is not None:
            raise TracingError(
                f"group {idle!r} slices no parameter: the network gives it no array and uses no gate of it"
            )
        groups = {name: groups[name] for name in choice.declared}
    marks = [
        {node: (operand, {element}) for element, sums in found.items() for node, operand in sums}
        for found in depth.sums
    ]
    through = [reach(p, mark, state) for p, mark, state in zip(programs, marks, states, strict=True)]
    gates = leaf_gates(parameters, leaves, through)
    branches, least = frozenset(depth.groups) - set(depth.rows), {name: group.least for name, group in groups.items()}
    classes = Classes(
        parameters, axes, owned, depth.elements, depth.branches, gates, branches, frozenset(depth.rows), context, least
    )
    idle = frozenset(unread(parameters, programs, numbers))
    return Discovery(staged, main, leaves, classes, groups, left, through[0], sites, idle)


def _atom(n: int) -> Axis:
    return Atom(n) if n != 1 else UNIT


def _freeze(ties: Ties, values: Sequence[Value], why: Boundary) -> None:
    for value in values:
        for axis in value.axes:
            ties.freeze(axis, why)


def _tie_state(
    ties: Ties, parameters: Parameters, leaves: Sequence[Value], program: Program, tree: Any, name: str
) -> tuple[int, ...]:
    """Outputs that are new values of leaves are tied to them by their paths; nothing may go from the others."""
    shapes = [tuple(axis.size for axis in value.axes) for value in program.outputs]
    found = new_values(parameters, tree, shapes)
    for leaf, value in zip(found, program.outputs, strict=True):
        if leaf is None:
            _freeze(ties, [value], Boundary("output", name))
            continue
        for a, b in zip(value.axes, leaves[leaf].axes, strict=True):
            ties.tie(a, b, f"the new value of {parameters.paths[leaf]}")
    return tuple(i for i, leaf in enumerate(found) if leaf is not None)


def _rows(
    programs: Sequence[Program],
    states: Sequence[Sequence[int]],
    leaves: Mapping[Value, int],
    ties: Ties,
    axes: Sequence[tuple[Axis, ...]],
) -> list[Atom]:
    """Rows of stacked parameters that are layers which can go one by one; others are frozen."""
    read = [found for p, state in zip(programs, states, strict=True) for found in find_rows(p, leaves, state)]
    inside = {id(found.scan.step) for found in read}
    for program in programs:
        for scan in program.scans:
            if id(scan.step) not in inside:
                ties.freeze(scan.rows, Node("scan", [], [], scan.step.eqn))
    mine = {resolve(axis) for terms in axes for axis in terms}
    found = [resolve(scan.rows) for scan in programs[0].scans if id(scan.step) in inside]
    return [a for a in dict.fromkeys(found) if isinstance(a, Atom) and a.frozen is None and a.size > 1 and a in mine]


def _chosen(
    candidates: Sequence[Candidate], called: Mapping[Atom, str], choice: Choice
) -> tuple[dict[str, Group], dict[Atom, tuple[str, int]], dict[str, Reason], dict[str, Axis]]:
    groups: dict[str, Group] = {}
    owned: dict[Atom, tuple[str, int]] = {}
    left: dict[str, Reason] = {}
    sites: dict[str, Axis] = {}
    for candidate in candidates:
        name = called.get(candidate.atom, candidate.name)
        asked = candidate.atom in called or matches(name, choice.include)
        if (candidate.plain and not asked) or name in choice.failed:
            continue
        if candidate.why is not None:
            left[name] = candidate.why
        elif matches(name, choice.freeze):
            left[name] = Reason("frozen", "frozen")
        elif not asked and candidate.kind not in TAKEN:
            left[name] = Reason("kind", f"{candidate.kind}; searched with include={name!r}")
        elif name in groups:  # an axis of several parts under one name
            owned[candidate.atom] = (name, groups[name].size)
            groups[name] = Group(name, groups[name].size + candidate.atom.size, groups[name].kind, 1)
        else:
            kind = candidate.kind if candidate.kind in KINDS else "width"
            groups[name] = Group(name, candidate.atom.size, kind, 1)
            owned[candidate.atom] = (name, 0)
            sites[name] = candidate.atom
    for name in dict.fromkeys(called.values()):
        if name not in groups and not matches(name, choice.freeze):
            raise TracingError(f"group {name!r} slices no parameter: no parameter has the axis that is named")
    return groups, owned, left, sites


def _parts(name: str, axis: Axis, ties: Ties) -> list[Atom]:
    """The atoms that a named axis is laid out of.

    Raises:
      TracingError: it is split into factors, or an operation needs all of it.
    """
    named, axis = axis, resolve(axis)
    found = []
    for part in axis.parts if isinstance(axis, Concat) else (axis,):
        if isinstance(part, Product):
            sizes = " x ".join(str(factor.size) for factor in part.factors)
            raise TracingError(
                f"group {name!r}: {describe(ties.splits(named))} splits its axis into {sizes}, so its elements cannot "
                "go one by one; declare a group for one of the factors"
            )
        assert isinstance(part, Atom)  # concatenations are flat
        if part.frozen is not None:
            raise TracingError(
                f"group {name!r}: no element can be taken out of its axis because of {describe(part.frozen)}"
            )
        found.append(part)
    return found


def _declared(
    declared: Mapping[str, Declared], named: Mapping[str, list[tuple[Any, Axis]]], ties: Ties
) -> tuple[dict[str, Group], dict[Atom, tuple[str, int]], dict[str, Reason], dict[str, Axis]]:
    groups: dict[str, Group] = {}
    owned: dict[Atom, tuple[str, int]] = {}
    sites: dict[str, Axis] = {}
    for name, d in declared.items():
        if d.gates or (d.kind is None and name not in named):
            continue
        groups[name] = Group(name, d.size, d.kind or "width", min(1 if d.least is None else d.least, d.size))
        if name not in named or d.size == 1:
            continue
        sites[name], start = named[name][0][1], 0
        for part in _parts(name, sites[name], ties):
            if part in owned:
                other = owned[part][0]
                same = "two of its own elements are" if other == name else f"its axis is also that of group {other!r},"
                raise TracingError(f"group {name!r}: {same} tied together; declare one group and hand it down")
            owned[part] = (name, start)
            start += part.size
    return groups, owned, {}, sites
