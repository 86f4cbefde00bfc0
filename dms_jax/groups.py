"""Groups: elements that compete in one top-k, as a model declares them and as its axes turn out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from dms_jax import checks, topk
from dms_jax.errors import UserError


@dataclass(frozen=True)
class Kind:
    """What a search does differently for one kind of group.

    Attributes:
      name: of the kind.
      sharpness: lambda in units of N (METHOD, "Words").
      least: how many elements must stay unless a model says otherwise.
      settles_early: frozen at its hard masks while the search refines.
      moves_together: its ratio takes part in what ratios have in common (`method.optimizer`).
      counts_towards_multiple: `Limits(divisible_by=...)` is about it: its elements are an axis of a kernel.
      gates: its elements gate blocks; they are no part of any axis.
    """

    name: str
    sharpness: float = 1.0
    least: int = 1
    settles_early: bool = False
    moves_together: bool = True
    counts_towards_multiple: bool = True
    gates: bool = False


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("width"),
        Kind("features"),
        Kind("heads", sharpness=4.0, settles_early=True),
        Kind(
            "depth", sharpness=4.0, least=0, settles_early=True, moves_together=False, counts_towards_multiple=False,
            gates=True,
        ),
    )
}  # fmt: skip
"""width: channels, hidden features; features: of a head; heads: of attention; depth: blocks."""


@dataclass(frozen=True)
class Group:
    """Elements that compete in one top-k.

    Attributes:
      name: module path of the declaration.
      size: number of elements N.
      kind: a name of `KINDS`.
      least: how many must stay.

    Raises:
      UserError: no such kind, or numbers that are not whole.
    """

    name: str
    size: int
    kind: str
    least: int

    def __post_init__(self):
        if self.kind not in KINDS:
            raise UserError(f"group {self.name!r} of kind {self.kind!r} is not possible; there are {', '.join(KINDS)}")
        checks.whole("size", self.size, 1, f"of group {self.name!r}")
        checks.whole("least", self.least, 0, f"of group {self.name!r}")

    @property
    def rules(self) -> Kind:
        """What its kind means for a search."""
        return KINDS[self.kind]

    @property
    def sharpness(self) -> float:
        """lambda: N for widths, 4N for heads and depth, 8 for one element (METHOD, "Words")."""
        return float(topk.usual_sharpness(self.size, self.rules.sharpness))


def counted_together(groups: Mapping[str, Group], patterns: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Partition the groups: those that one pattern matches together, the others alone; in the order of the network."""
    together: dict[str, tuple[str, ...]] = {}
    for pattern in patterns:
        names = tuple(name for name in groups if fnmatchcase(name, pattern) and name not in together)
        if not names:
            raise UserError(f"pattern {pattern!r} to tie matches no group that is free; there are {', '.join(groups)}")
        shapes = {(groups[name].size, groups[name].kind, groups[name].least) for name in names}
        if len(shapes) > 1:
            sizes = ", ".join(f"{size} {kind} elements" for size, kind, _ in sorted(shapes))
            raise UserError(
                f"pattern {pattern!r} ties groups of {sizes}; only groups of one kind and size can share a count"
            )
        together |= dict.fromkeys(names, names)
    return tuple(dict.fromkeys(together.get(name, (name,)) for name in groups))
