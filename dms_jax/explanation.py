"""Search spaces in words: what `SearchSpace.summary` and `explain` say."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dms_jax.errors import UserError
from dms_jax.program.axes import Axis, Concat, Product, atoms, resolve
from dms_jax.program.frames import describe
from dms_jax.program.reasons import Reason
from dms_jax.reading import shown


@dataclass(frozen=True)
class Row:
    """One group: what its last element costs in the full network, and where its mask is applied in a search."""

    name: str
    kind: str
    size: int
    least: int
    costs: Mapping[str, float]
    mask: str


def human(number: float) -> str:
    """1234567 -> "1.23 M"; exact below 1000."""
    for unit, scale in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(number) >= scale:
            return f"{number / scale:.3g} {unit}" if abs(number) < 100 * scale else f"{number / scale:.0f} {unit}"
    return f"{number:g}"


def label(name: str, unit: str) -> str:
    """The name of a resource for people: its unit where that is the name in other letters."""
    return unit if unit.lower() == name.lower() else name


def exactly(number: float) -> str:
    """Every digit of a whole number; six of another."""
    return f"{number:,}" if isinstance(number, int) else f"{number:,.6g}"


def table(
    title: str,
    rows: Sequence[Row],
    full: Mapping[str, float],
    smallest: Mapping[str, float],
    said: Mapping[str, tuple[str, str]],
    left: Mapping[str, str] | None = None,
) -> str:
    """The summary of a space: one line a group, the resources reachable, and what is not searched and why.

    Args:
      said: of every resource its unit and its note.
    """
    each = [f"{label(name, said[name][0])} each" for name in full]
    head = ("group", "kind", "elements", "least", *each, "mask on")
    cells = [
        (r.name, r.kind, f"{r.size:,}", f"{r.least:,}", *(human(r.costs[name]) for name in full), r.mask) for r in rows
    ]
    widths = [max(len(line[i]) for line in (head, *cells)) for i in range(len(head))]
    texts = (0, 1, len(head) - 1)

    def show(line: Sequence[str]) -> str:
        parts = [t.ljust(w) if i in texts else t.rjust(w) for i, (t, w) in enumerate(zip(line, widths, strict=True))]
        return "  ".join(parts).rstrip()

    total = f"{len(rows)} groups, {sum(r.size for r in rows):,} elements"
    reach = [
        f"{name}: {exactly(smallest[name])} ({human(smallest[name])}) to {exactly(full[name])} ({human(full[name])})"
        + (f"; {said[name][1]}" if said[name][1] else "")
        for name in full
    ]
    others = [f"not searched: {name} ({why})" for name, why in (left or {}).items()]
    return "\n".join([title, show(head), "  ".join("-" * w for w in widths), *map(show, cells), total, *reach, *others])


def nothing(title: str, left: Mapping[str, Reason]) -> str:
    """Why there is nothing to search in a network, and what may help.

    Args:
      title: of the network.
      left: what might have been groups.
    """
    first = dict(list(left.items())[:3])
    kinds = {why.kind for why in first.values()}
    advice = ""
    if "input" in kinds:
        advice = "; what the function makes itself, a cache say, can be made at other sizes"
    elif "operation" in kinds:
        advice = (
            "; what gives positions a meaning, or is not known, keeps all of them: let it run over another axis, "
            "or tell what it does (`dms_jax.register_operation`)"
        )
    said = "; ".join(f"{name}: {why.text}" for name, why in first.items())
    return f"there is nothing to search in {title}" + (f": {said}{advice}" if said else "")


def explain(space: Any, path: str) -> str:
    """Which groups slice which axes of one parameter; see `SearchSpace.explain`."""
    if not isinstance(path, str):
        raise UserError(f"path {shown(path)} is not possible; give one of {', '.join(list(space.leaves)[:4])}, ...")
    leaf = space.leaves.get(path) or space.leaves.get(path.removeprefix("params/"))
    if leaf is None:
        known = list(space.leaves)
        close = difflib.get_close_matches(path, known, n=3, cutoff=0.3)
        raise UserError(f"no parameter {path!r}; the nearest of {len(known)}: {', '.join(close) or known[0]}")
    lines = [f"{path} {list(leaf.shape)}"]
    for i, axis in enumerate(leaf.axes):
        names = space.owners(axis)
        lines.append(f"  axis {i} ({axis.size}): {_formula(space, axis) if names else _why_not(axis)}")
        for name in names:
            lines.extend(f"    {name}: {step}" for step in space.ties(name, axis))
    gates = ", ".join(f"{name}[{i}]" for name, i in sorted(leaf.gates))
    return "\n".join([*lines, f"  goes with the gates: {gates}" if gates else "  no gate removes it"])


def _why_not(axis: Axis) -> str:
    why = next((atom.frozen for atom in atoms(resolve(axis)) if atom.frozen is not None), None)
    return "not sliced" if why is None else f"not sliced, because of {describe(why)}"


def _formula(space: Any, axis: Axis) -> str:
    """How an axis is made of groups: "hidden ++ 3 x (heads)"."""
    axis = resolve(axis)
    if isinstance(axis, Concat):
        return " ++ ".join(_formula(space, part) for part in axis.parts)
    if isinstance(axis, Product):
        return " x ".join(f"({_formula(space, factor)})" for factor in axis.factors)
    names = space.owners(axis)
    if not names:
        return str(axis.size)
    (name,), first = names, int(space.elements_at(axis, names[0])[0, 0])
    return name if axis.size == space.groups[name].size else f"{name}[{first}:{first + axis.size}]"
