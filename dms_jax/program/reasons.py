"""Why nothing is taken out of an axis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Boundary:
    """Where an axis enters or leaves a program: who calls it counts on its size.

    Attributes:
      side: of the program.
      of: the program, for people.
    """

    side: Literal["input", "output"]
    of: str

    def __str__(self) -> str:
        return f"its being an axis of an {self.side} of {self.of}"


@dataclass(frozen=True)
class Reason:
    """Why a class of axes is no group.

    Attributes:
      kind: "unread": no program uses it; "input", "output": it is an axis of a program's own; "operation": one needs
        all positions, or is not known; "frozen": it was left alone as asked; "kind": such are searched when asked for;
        "check": its smaller network does not pass the space's check of itself.
      text: for people.
    """

    kind: Literal["unread", "input", "output", "operation", "frozen", "kind", "check"]
    text: str
