"""Operations that need one position at least, and axes of which a structure may leave none."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from dms_jax.errors import TracingError
from dms_jax.program.axes import Atom, Axis, Concat, atoms, resolve
from dms_jax.program.exactness import reads
from dms_jax.program.frames import MOVED, Node, Program, Value, describe
from dms_jax.program.means import means

_ZERO = MOVED | {"abs", "cbrt", "integer_pow", "mul", "neg", "pow", "reduce_sum", "sqrt", "square"}
"""Operations that give 0 where the first that is 0 does; nothing was added to it."""

_DIVIDED = {"div": 1, "rsqrt": 0, "log": 0}
"""Operations that give no number where this operand is 0."""

_NEEDY = ("maximum", "minimum", "running maximum", "running minimum", "logsumexp")
"""Ways to read an axis that give no number where it has no position; a sum gives 0, a product 1."""


def refuse_emptied(program: Program, owned: Mapping[Atom, tuple[str, int]], least: Mapping[str, int]) -> None:
    """Refuse a group of several parts of which one is read by itself, and may lose all of its elements.

    A group keeps elements somewhere, so an axis that holds all of it is never empty: only axes of several parts under
    one name are looked at.

    Args:
      program: a program.
      owned: its atoms of groups.
      least: group -> how many elements it keeps at least.

    Raises:
      TracingError: a maximum, a minimum or a mean over such a part, or a division by a sum over it.
    """
    parts: dict[str, list[Atom]] = {}
    for atom, (name, _) in owned.items():
        parts.setdefault(name, []).append(atom)
    several = {name: mine for name, mine in parts.items() if len(mine) > 1}
    if not several:
        return
    for node, axis, what in _needy(program, {atom: owned[atom] for mine in several.values() for atom in mine}):
        names = _emptied(axis, several, least)
        if names:
            raise TracingError(
                f"group {names[0]!r}: {describe(node)} {what} over a part of it, which is no number where a structure "
                "keeps nothing of that part; give the parts names of their own",
                tuple(names),
            )


def _needy(program: Program, owned: Mapping[Atom, tuple[str, int]]) -> Iterator[tuple[Node, Axis, str]]:
    """Operations that need a position of an axis of groups: the operation, the axis, what it is."""
    for sites in reads(program, owned).values():
        for node, sides, how in sites:
            if how in _NEEDY:
                operand, axis = sides[0]
                yield node, node.inputs[operand].axes[axis], f"takes the {how}"
    averaged = means(program, owned)
    yield from ((mean.node, axis, "takes the mean") for mean in averaged for axis in mean.axes)
    counts = {(mean.node, mean.operand) for mean in averaged}
    sums: dict[Value, Axis] = {}
    for node in program.nodes:
        for place, value in enumerate(node.inputs):
            if value in sums and _DIVIDED.get(node.name) == place and (node, place) not in counts:
                yield node, sums[value], "divides by, or takes a logarithm of, a sum"
        if node.name in _ZERO and (zero := next((v for v in node.inputs if v in sums), None)) is not None:
            sums.update(dict.fromkeys(node.outputs, sums[zero]))
        summed = [axis for axis, how in _summed(node) if how == "sum" and set(atoms(resolve(axis))) & set(owned)]
        sums.update(dict.fromkeys(node.outputs, summed[0]) if summed else {})


def _summed(node: Node) -> Iterator[tuple[Axis, str]]:
    """The axes that an operation runs over, and how."""
    if node.operation is not None and node.operation.reads is not None:
        for read in node.operation.reads(node):
            operand, axis = read.sides[0]
            yield node.inputs[operand].axes[axis], read.how


def _emptied(axis: Axis, several: Mapping[str, Iterable[Any]], least: Mapping[str, int]) -> list[str]:
    """The groups that leave nothing of an axis where all that they keep is elsewhere; none: something always stays."""
    axis = resolve(axis)
    inside = set(atoms(axis))
    owner = {atom: name for name, mine in several.items() for atom in mine}
    elsewhere = {name: sum(atom.size for atom in mine if atom not in inside) for name, mine in several.items()}
    found = []
    for part in axis.parts if isinstance(axis, Concat) else (axis,):
        names = [owner[atom] for atom in atoms(part) if atom in owner]
        free = [name for name in names if elsewhere[name] >= max(least.get(name, 1), 1)]
        if not free:
            return []
        found.append(free[0])
    return list(dict.fromkeys(found))
