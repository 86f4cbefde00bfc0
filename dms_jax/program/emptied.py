"""Operations that need one position at least, and axes of which a structure may leave none."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from dms_jax.errors import TracingError
from dms_jax.program.axes import Atom, Axis, Concat, atoms, resolve
from dms_jax.program.exactness import reads
from dms_jax.program.frames import Node, Program, describe
from dms_jax.program.means import means

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
      TracingError: a maximum, a minimum or a mean over such a part.
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
                f"group {names[0]!r}: {describe(node)} takes the {what} over a part of it, and of a structure that "
                "keeps nothing of that part there is none; give the parts names of their own",
                tuple(names),
            )


def _needy(program: Program, owned: Mapping[Atom, tuple[str, int]]) -> Iterator[tuple[Node, Axis, str]]:
    """Operations that need a position of an axis of groups: the operation, the axis, what it is."""
    for sites in reads(program, owned).values():
        for node, sides, how in sites:
            if how in _NEEDY:
                operand, axis = sides[0]
                yield node, node.inputs[operand].axes[axis], how
    yield from ((mean.node, axis, "mean") for mean in means(program, owned) for axis in mean.axes)


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
