"""What of a network is to be searched."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from dms_jax.errors import UserError
from dms_jax.groups import KINDS

TAKEN = ("width", "heads")
"""Kinds that a search takes by itself; others by `include`. Features of heads are often tied to positions of rotary
embeddings and to kernels of devices; a norm over groups of channels has other statistics with other groups; an
encoding of inputs (the words of a vocabulary) is theirs, and a rare word is worth more than a search can see."""


@dataclass(frozen=True)
class Declared:
    """One group as a marked network declares it."""

    name: str
    size: int
    kind: str | None
    least: int | None

    @property
    def gates(self) -> bool:
        """Whether it is declared to gate blocks."""
        return self.kind in KINDS and KINDS[self.kind].gates


@dataclass(frozen=True)
class Choice:
    """What to search; glob patterns on names.

    Attributes:
      include: candidates to search that are not searched by themselves.
      freeze: candidates to leave alone.
      blocks: module paths; residual branches below one of them are one element ("layers/*").
      declared: the groups of a marked network, which are then the only ones.
      failed: groups, by their names, that failed the check of a space that had them, and why.
    """

    include: tuple[str, ...] = ()
    freeze: tuple[str, ...] = ()
    blocks: tuple[str, ...] = ()
    declared: Mapping[str, Declared] | None = None
    failed: Mapping[str, str] = field(default_factory=dict)

    def check(self, names: Iterable[str]) -> None:
        """Refuse patterns without effect.

        Args:
          names: of everything that could be searched.

        Raises:
          UserError: a pattern matches none of them.
        """
        there = list(dict.fromkeys(names))
        for pattern in (*self.include, *self.freeze):
            if not any(fnmatchcase(name, pattern) for name in there):
                raise UserError(f"pattern {pattern!r} matches no group; there are {', '.join(there[:8])}, ...")


def matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
