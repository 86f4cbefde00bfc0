"""Which axes of parameters are groups of elements, of what kind, and what they are called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import jax.numpy as jnp

from dms_jax.program.axes import UNIT, Atom, Axis, Product, atoms, resolve
from dms_jax.program.encodings import encodings
from dms_jax.program.exactness import reads
from dms_jax.program.frames import PIECES, Program, Value, describe
from dms_jax.program.operations import attention as fused
from dms_jax.program.parameters import Parameters
from dms_jax.program.paths import common_module, module_of
from dms_jax.program.reasons import Boundary, Reason

UNREAD = Reason("unread", "no program that was traced uses it")


@dataclass(frozen=True, eq=False)
class Candidate:
    """One class of axes from which elements might be taken.

    Attributes:
      atom: the class.
      name: from the paths of the parameters that write it.
      kind: "width", "heads", "features" (of heads), "bundle" (the outer part of a split axis: groups of a GroupNorm) or
        "encoding" (what inputs are turned into by constants alone: the words of `one_hot(x, n) @ table`).
      why: why nothing can be taken out; None: it can.
      plain: whether that is no news: an axis of inputs or outputs, or of a kernel's window.
    """

    atom: Atom
    name: str
    kind: str
    why: Reason | None
    plain: bool = False


def find_candidates(
    parameters: Parameters, axes: Sequence[tuple[Axis, ...]], programs: Sequence[Program], leaves: Mapping[Value, int]
) -> list[Candidate]:
    """All classes of axes of parameters, in the order in which the first program meets them; rows of loops left out."""
    where = _places(axes)
    rows = {resolve(scan.rows) for program in programs for scan in program.scans}
    order = _order(programs, leaves)
    readers = _readers(programs, where, leaves)
    roles, windows = _roles(programs, axes), _windows(programs)
    found: list[Candidate] = []
    names: dict[str, int] = {}
    for atom, places in sorted(where.items(), key=lambda item: min(order.get(leaf, 1 << 30) for leaf, _ in item[1])):
        if atom.size < 2 or (atom in rows and (atom.frozen is None or isinstance(atom.frozen, Boundary))):
            continue
        kind = _kind(atom, roles, axes)
        name = _name(atom, places, parameters, axes, order, readers.get(atom, set()), kind)
        name = f"{name}/depth" if atom in rows else name
        why = None if atom.frozen is None else reason(atom.frozen)
        if not any(leaf in order for leaf, _ in places):
            why = UNREAD
        idle = why is UNREAD and not any(parameters.trained[leaf] for leaf, _ in places)
        idle = idle or not any(
            jnp.issubdtype(parameters.shapes[leaf].dtype, jnp.inexact) for leaf, _ in places
        )  # seeds
        plain = (
            idle
            or isinstance(atom.frozen, Boundary)
            or atom in windows
            or getattr(atom.frozen, "name", "") == _CONVOLUTION
        )
        if not plain:
            names[name] = names.get(name, 0) + 1
            name = name if names[name] == 1 else f"{name}#{names[name]}"
        found.append(Candidate(atom, name, kind, why, plain))
    return found + _taken_apart(parameters, axes, order, names)


def _taken_apart(
    parameters: Parameters, axes: Sequence[tuple[Axis, ...]], order: Mapping[int, int], names: dict[str, int]
) -> list[Candidate]:
    """Axes of which every position is looked at by itself: they have no class, but a reason."""
    found: dict[Atom, Candidate] = {}
    for leaf, terms in enumerate(axes):
        for axis in terms if leaf in order else ():
            parts = list(atoms(resolve(axis)))
            first = next((a for a in parts if a.frozen is not None and not isinstance(a.frozen, Boundary)), None)
            if axis.size < 2 or first is None or first in found or any(a.size > 1 for a in parts):
                continue
            name = module_of(parameters.paths[leaf])
            names[name] = names.get(name, 0) + 1
            name = name if names[name] == 1 else f"{name}#{names[name]}"
            found[first] = Candidate(first, name, "width", reason(first.frozen))
    return list(found.values())


def reason(frozen: Any) -> Reason:
    """Why nothing can be taken out of an axis: what froze it, told."""
    kind = frozen.side if isinstance(frozen, Boundary) else "operation"
    return Reason(kind, f"nothing can be taken out of it because of {describe(frozen)}")


def _windows(programs: Sequence[Program]) -> set[Atom]:
    """Axes along which kernels of convolutions move."""
    found: set[Atom] = set()
    for program in programs:
        for node in program.nodes:
            if node.name == _CONVOLUTION:
                spatial = node.eqn.params["dimension_numbers"].rhs_spec[2:]
                found.update(a for i in spatial for a in atoms(resolve(node.inputs[1].axes[i])))
    return found - {UNIT}


_CONVOLUTION = "conv_general_dilated"


def _places(axes: Sequence[tuple[Axis, ...]]) -> dict[Atom, list[tuple[int, int]]]:
    """atom -> [(leaf, axis)]."""
    where: dict[Atom, list[tuple[int, int]]] = {}
    for leaf, terms in enumerate(axes):
        for i, axis in enumerate(terms):
            for atom in dict.fromkeys(atoms(resolve(axis))):
                if atom is not UNIT:
                    where.setdefault(atom, []).append((leaf, i))
    return where


def _order(programs: Sequence[Program], leaves: Mapping[Value, int]) -> dict[int, int]:
    """leaf -> when it is first used."""
    order: dict[int, int] = {}
    for program in programs:
        for node in program.nodes:
            for value in node.inputs:
                if value in leaves:
                    order.setdefault(leaves[value], len(order))
    return order


def unread(parameters: Parameters, programs: Sequence[Program], leaves: Mapping[Value, int]) -> list[str]:
    """Paths of arrays of numbers, with more than one, that no operation reads: a state or a head of training alone."""
    read: set[int] = set()
    for program in programs:
        origin = dict(leaves)
        for node in program.nodes:
            for value in node.inputs:
                if value in origin and node.name in _HANDED:
                    origin |= dict.fromkeys(node.outputs, origin[value])
                elif value in origin:
                    read.add(origin[value])
        read |= {origin[value] for value in program.outputs if value in origin}
    shapes = enumerate(zip(parameters.paths, parameters.shapes, strict=True))
    return [
        path
        for i, (path, shape) in shapes
        if i not in read and shape.size > 1 and jnp.issubdtype(shape.dtype, jnp.inexact)
    ]


_HANDED = ("alias", "scan_row")  # into programs inside, which may or may not read it


def _readers(
    programs: Sequence[Program], where: Mapping[Atom, list[tuple[int, int]]], leaves: Mapping[Value, int]
) -> dict[Atom, set[tuple[int, int]]]:
    """atom -> parameters that only read it: products run over their axis."""
    owned = {atom: (str(i), 0) for i, atom in enumerate(where)}
    names = {str(i): atom for i, atom in enumerate(where)}
    found: dict[Atom, set[tuple[int, int]]] = {}
    for program in programs:
        origin = dict(leaves)
        for node in program.nodes:
            if node.name in PIECES and node.inputs and node.inputs[0] in origin:
                for out in node.outputs:
                    origin[out] = origin[node.inputs[0]]
        for name, sites in reads(program, owned).items():
            for node, sides, _ in sites:
                for operand, _ in sides:
                    leaf = origin.get(node.inputs[operand])
                    if leaf is not None:
                        found.setdefault(names[name], set()).update(
                            place for place in where[names[name]] if place[0] == leaf
                        )
    return found


@dataclass(frozen=True, eq=False)
class _Roles:
    batched: frozenset[Atom]  # products run side by side over it
    attention: frozenset[Atom]  # an axis of a product of two activations that runs side by side over heads
    encoded: frozenset[Atom]  # inputs are turned into it by constants alone


def _roles(programs: Sequence[Program], axes: Sequence[tuple[Axis, ...]]) -> _Roles:
    mine = {atom for terms in axes for axis in terms for atom in atoms(resolve(axis))} - {UNIT}
    batched: set[Atom] = set()
    attention: set[Atom] = set()
    encoded: set[Atom] = set()
    for program in programs:
        of_parameters = _moved_parameters(program, axes)
        encoded |= set(encodings(program, len(axes))) & mine
        for node in program.nodes:
            if node.name == "dot_general":
                (lc, _), (lb, _) = node.eqn.params["dimension_numbers"]
                if not any(node.inputs[0].axes[i].size > 1 for i in lc):
                    continue  # an elementwise product, written as an einsum
                if len(node.outputs[0].axes) == len(lb):
                    continue  # a sum of squares, say, of every channel
            elif node.name == fused.FORWARD:
                lb = fused.heads_and_positions(node.eqn)[:1]
            else:
                continue
            side = {a for i in lb for a in atoms(resolve(node.inputs[0].axes[i]))} & mine
            batched |= side
            if side and not any(value in of_parameters for value in node.inputs):
                every = (axis for value in node.inputs for axis in value.axes)
                attention |= {a for axis in every for a in atoms(resolve(axis))} & mine
    return _Roles(frozenset(batched), frozenset(attention), frozenset(encoded))


def _moved_parameters(program: Program, axes: Sequence[tuple[Axis, ...]]) -> set[Value]:
    found = set(program.inputs[: len(axes)])
    for node in program.nodes:
        if node.name in PIECES and node.inputs and node.inputs[0] in found:
            found.update(node.outputs)
    return found


def _kind(atom: Atom, roles: _Roles, axes: Sequence[tuple[Axis, ...]]) -> str:
    """Among the axes of attention that lie side by side in a parameter the last is features, the others are heads."""
    if atom in roles.encoded:
        return "encoding"
    if atom in roles.attention:
        last = False
        for terms in axes:
            follows: Atom | None = None  # the first of the next axis
            for axis in reversed(terms):
                for part in getattr(resolve(axis), "parts", (resolve(axis),)):  # queries, keys and values end to end
                    flat = [a for a in atoms(part) if a is not UNIT]
                    last |= any(a is atom and b not in roles.attention for a, b in pairwise([*flat, follows]))
                follows = next((a for a in atoms(resolve(axis)) if a is not UNIT), follows)
        return "features" if last and atom not in roles.batched else "heads"
    if atom in roles.batched:
        return "heads"
    outer = any(
        isinstance(part, Product) and atom in list(atoms(part))[:-1]
        for terms in axes
        for axis in terms
        for part in getattr(resolve(axis), "parts", (resolve(axis),))
    )
    return "bundle" if outer else "width"


def _name(
    atom: Atom,
    places: Sequence[tuple[int, int]],
    parameters: Parameters,
    axes: Sequence[tuple[Axis, ...]],
    order: Mapping[int, int],
    readers: set[tuple[int, int]],
    kind: str,
) -> str:
    written = [place for place in places if place not in readers] or list(places)
    deep = [(leaf, i) for leaf, i in written if len(parameters.shapes[leaf].shape) > 1] or written
    leaf, axis = min(deep, key=lambda place: (order.get(place[0], 1 << 30), place))
    if kind in ("heads", "features"):
        stem = common_module([parameters.paths[leaf] for leaf, _ in written])
        return f"{stem}/{kind}" if stem else kind
    parts = [a for a in atoms(resolve(axes[leaf][axis])) if a is not UNIT]
    name = module_of(parameters.paths[leaf])
    if kind in ("bundle", "encoding"):
        return f"{name}/{kind}"
    return name if len(parts) == 1 else f"{name}/part{parts.index(atom)}"


def named_axes(programs: Sequence[Program]) -> dict[str, list[tuple[Any, Axis]]]:
    """name -> [(node, axis)] of every `dms_jax.name` along an axis."""
    found: dict[str, list[tuple[Any, Axis]]] = {}
    for program in programs:
        for node in program.marks:
            p = node.eqn.params
            if p["axis"] is not None:
                found.setdefault(p["name"], []).append((node, node.inputs[0].axes[p["axis"]]))
    return found
