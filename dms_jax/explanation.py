"""Search spaces in words: the table that `SearchSpace.summary` prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One group: what its last element costs in the full network, and where its mask is applied in a search."""

    name: str
    kind: str
    size: int
    least: int
    costs: Mapping[str, int]
    mask: str


def human(number: float) -> str:
    """1234567 -> "1.23 M"; exact below 1000."""
    for unit, scale in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(number) >= scale:
            return f"{number / scale:.3g} {unit}" if abs(number) < 100 * scale else f"{number / scale:.0f} {unit}"
    return f"{number:g}"


def table(
    title: str,
    rows: Sequence[Row],
    full: Mapping[str, int],
    smallest: Mapping[str, int],
    left: Mapping[str, str] | None = None,
) -> str:
    """The summary of a space: one line a group, the resources reachable, and what is not searched and why."""
    names = {"macs": "MACs"}
    each = [f"{names.get(name, name)} each" for name in full]
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
        f"{name}: {smallest[name]:,} ({human(smallest[name])}) to {full[name]:,} ({human(full[name])})" for name in full
    ]
    others = [f"not searched: {name} ({why})" for name, why in (left or {}).items()]
    return "\n".join([title, show(head), "  ".join("-" * w for w in widths), *map(show, cells), total, *reach, *others])
