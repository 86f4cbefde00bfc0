"""Depth groups: residual branches by stream, by name or by row, and what goes with them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from dms_jax.errors import TracingError, UserError
from dms_jax.groups import Group
from dms_jax.program.axes import UNIT, Atom, resolve
from dms_jax.program.branches import Branch, Element, find_branches
from dms_jax.program.choice import Choice, Declared, matches
from dms_jax.program.derived import gates_by_use
from dms_jax.program.frames import Node, Program, Value, describe
from dms_jax.program.parameters import Parameters
from dms_jax.program.paths import common_module, module_of


@dataclass(frozen=True, eq=False)
class Depth:
    groups: dict[str, Group]
    owned: dict[Atom, tuple[str, int]]
    elements: dict[Any, Element]
    sums: list[dict[Element, list[tuple[Node, int]]]]  # of every program
    rows: list[str]
    frozen: list[str]  # names of groups that are left alone as they were asked to be
    branches: dict[frozenset[int], int]  # parameters -> how many branches of the first program go with them


def find_depth(
    parameters: Parameters,
    programs: Sequence[Program],
    leaves: Mapping[Value, int],
    states: Sequence[Sequence[int]],
    choice: Choice,
    rows: Sequence[Atom],
) -> Depth:
    """Residual branches as groups: those of one stream together, or as the network names them."""
    every = [find_branches(p, leaves, parameters.trained, s) for p, s in zip(programs, states, strict=True)]
    if choice.declared is not None:
        return _declared_depth(choice.declared, programs, every)
    counts = [Counter(branch.key[0] for branch in branches if branch.block) for branches in every]
    usable = [
        branch
        for branch in every[0]
        if branch.block
        if branch.key[0] or all(count[frozenset()] == counts[0][frozenset()] for count in counts)
    ]
    stems = [common_module(parameters.paths[leaf] for leaf in branch.leaves) for branch in usable]
    _check_blocks(choice.blocks, stems)
    streams: dict[Any, dict[Any, list[Branch]]] = {}
    for branch, stem in zip(usable, stems, strict=True):
        block = _block(stem, choice.blocks)
        streams.setdefault(branch.stream, {}).setdefault(block or branch.key, []).append(branch)
    groups: dict[str, Group] = {}
    elements: dict[Any, Element] = {}
    taken: dict[str, None] = {}  # names of what is left alone, too
    frozen: list[str] = []
    for blocks in streams.values():
        paths = [parameters.paths[leaf] for several in blocks.values() for b in several for leaf in b.leaves]
        stem = common_module(paths)
        name = free_name(f"{stem}/depth" if stem else "depth", taken)
        taken[name] = None
        if _left_alone(name, choice, frozen):
            continue
        groups[name] = Group(name, len(blocks), "depth", 0)
        for i, several in enumerate(blocks.values()):
            elements |= {branch.key: (name, i) for branch in several}
    owned: dict[Atom, tuple[str, int]] = {}
    stacked = []
    for atom in rows:
        mine = [resolve(value.axes[0] if value.axes else UNIT) is atom for value in leaves]
        rows_of = [
            (path, train) for path, train, has in zip(parameters.paths, parameters.trained, mine, strict=True) if has
        ]
        paths = [path for path, train in rows_of if train] or [path for path, _ in rows_of]
        stem = common_module(paths) or module_of(paths[0])
        name = free_name(f"{stem}/depth", taken)
        taken[name] = None
        if not _left_alone(name, choice, frozen):
            groups[name] = Group(name, atom.size, "depth", 0)
            owned[atom] = (name, 0)
            stacked.append(name)
    sums = []
    for program, branches, count, state in zip(programs, every, counts, states, strict=True):
        found: dict[Element, list[tuple[Node, int]]] = {}
        for branch in branches:
            if branch.block and branch.key in elements and count[branch.key[0]] == counts[0][branch.key[0]]:
                found.setdefault(elements[branch.key], []).append((branch.node, branch.operand))
        missing = {element: own for (own, _), element in elements.items() if element not in found and own}
        sums.append(found | gates_by_use(program, leaves, branches, missing, state))
    return Depth(groups, owned, elements, sums, stacked, frozen, dict(counts[0]))


def _left_alone(name: str, choice: Choice, frozen: list[str]) -> bool:
    """Whether a group is not searched; the name of one that is frozen is written down."""
    if matches(name, choice.freeze):
        frozen.append(name)
        return True
    return name in choice.failed


def _check_blocks(patterns: Sequence[str], stems: Sequence[str]) -> None:
    for pattern in patterns:
        if not any(_block(stem, (pattern,)) for stem in stems):
            there = f"there are {', '.join(dict.fromkeys(stems[:6]))}" if stems else "this network has none"
            raise UserError(f"pattern {pattern!r} of blocks matches no module of a residual branch; {there}")


def _block(stem: str, patterns: Sequence[str]) -> str | None:
    """The part of a module path that a pattern matches, from its beginning."""
    parts = stem.split("/")
    for pattern in patterns:
        for i in range(1, len(parts) + 1):
            if fnmatchcase("/".join(parts[:i]), pattern):
                return "/".join(parts[:i])
    return None


def _declared_depth(
    declared: Mapping[str, Declared], programs: Sequence[Program], every: Sequence[Sequence[Branch]]
) -> Depth:
    marked = {n.eqn.params["name"] for p in programs for n in p.marks if n.eqn.params["element"] is not None}
    groups: dict[str, Group] = {}
    sums: list[dict[Element, list[tuple[Node, int]]]] = [{} for _ in programs]
    for found, branches in zip(sums, every, strict=True):
        for branch in branches:
            if branch.mark is not None and branch.mark[0] in declared:
                found.setdefault(branch.mark, []).append((branch.node, branch.operand))
    for name, d in declared.items():
        if not (d.gates or d.kind is None) or name not in marked:
            if d.gates:
                raise TracingError(
                    f"group {name!r} slices no parameter: none of its gates multiplies a residual branch"
                )
            continue
        groups[name] = Group(name, d.size, "depth", min(d.least or 0, d.size))
        if d.least is not None and d.least >= d.size:
            continue
        for element in range(d.size):
            if (name, element) not in sums[0]:
                node = next((n for n in programs[0].marks if n.eqn.params["name"] == name), None)
                where = "" if node is None else f" ({describe(node)})"
                raise TracingError(
                    f"group {name!r}: the gate of element {element}{where} multiplies no residual branch: a block can "
                    "go where it is one term of a sum, x + gate * f(x), and reaches outputs through that sum alone"
                )
    return Depth(groups, {}, {}, sums, [], [], {})


def free_name(name: str, groups: Mapping[str, Any]) -> str:
    """A name that is not taken."""
    number = 2
    while name in groups:
        name = f"{name.split('#')[0]}#{number}"
        number += 1
    return name


def leaf_gates(
    parameters: Parameters, leaves: Sequence[Value], through: Sequence[Mapping[Value, frozenset[Element]]]
) -> list[frozenset[Element]]:
    """Which gates every leaf goes with: those in front of all of its uses in all programs.

    A leaf that nothing uses goes with the nearest module around it: with what all used leaves there go with.
    """
    gates: list[frozenset[Element] | None] = []
    for value in leaves:
        found = [t[value] for t in through if value in t]
        gates.append(frozenset.intersection(*found) if found else None)
    filled = []
    for path, own in zip(parameters.paths, gates, strict=True):
        if own is None:
            stem = path
            own = frozenset()
            while "/" in stem:
                stem = stem.rsplit("/", 1)[0]
                near = [g for p, g in zip(parameters.paths, gates, strict=True) if g is not None and _below(p, stem)]
                if near:
                    own = frozenset.intersection(*near)
                    break
        filled.append(own)
    return filled


def _below(path: str, stem: str) -> bool:
    """Whether a leaf lies in a module, or in the same module of another collection."""
    inner = stem.split("/", 1)[1] if "/" in stem else stem
    return path.startswith(stem + "/") or ("/" in path and path.split("/", 1)[1].startswith(inner + "/"))
