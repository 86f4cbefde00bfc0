"""Groups: elements that compete in one top-k, as a model declares them and as its axes turn out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from dms_jax.errors import UserError


@dataclass(frozen=True)
class Group:
    """Elements that compete in one top-k.

    Attributes:
      name: module path of the declaration.
      size: number of elements N.
      kind: "width", "heads" or "depth".
      least: how many must stay.
    """

    name: str
    size: int
    kind: str
    least: int

    @property
    def sharpness(self) -> float:
        """lambda: N for widths, 4N for heads and depth, 8 for one element (METHOD, "Words")."""
        if self.size == 1:
            return 8.0
        return float(self.size if self.kind == "width" else 4 * self.size)


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
