"""What came of every case: right, refused in one line, or wrong."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dms_jax.errors import Interrupted, UserError


@dataclass
class Tally:
    """The cases of one kind.

    Attributes:
      kind: of fault.
      tried, right, refused: how many.
      wrong: a line for each that was wrong, with what draws it again.
    """

    kind: str
    tried: int = 0
    right: int = 0
    refused: int = 0
    wrong: list[str] = field(default_factory=list)

    @contextlib.contextmanager
    def case(self, what: str) -> Iterator[None]:
        """One case: what happens inside is right, unless it raises."""
        self.tried += 1
        try:
            yield
            self.right += 1
        except Interrupted:
            self.right += 1
        except (UserError, ValueError) as error:
            if not isinstance(error, UserError) and not str(error).startswith("report: "):
                self.wrong.append(f"{what}: {_last(error)}")
            elif "\n" in str(error) or not str(error):
                self.wrong.append(f"{what}: not one line: {error}")
            else:
                self.refused += 1
        except SystemExit as stop:
            if stop.code == 2:
                self.refused += 1
            else:
                self.wrong.append(f"{what}: exit status {stop.code}")
        except Exception as error:
            self.wrong.append(f"{what}: {_last(error)}")


def draws(kind: str, seed: int, cases: int) -> Iterator[tuple[str, np.random.Generator]]:
    """The name and the generator of every case: number n of a kind and a seed is always the same."""
    for number in range(cases):
        draw = np.random.default_rng((seed, number, *kind.encode()))
        yield f"{kind}, seed {seed}, case {number}", draw


def pick(draw: np.random.Generator, among: list[Any]) -> Any:
    """One of a list, whatever its items are."""
    return among[int(draw.integers(len(among)))]


def table(tallies: list[Tally]) -> str:
    """Markdown: kind, tried, right, refused, wrong."""
    rows = [(t.kind, t.tried, t.right, t.refused, len(t.wrong)) for t in tallies]
    rows.append(("all", *(sum(row[i] for row in rows) for i in range(1, 5))))  # type: ignore[arg-type, misc]
    lines = ["| fault | tried | right | refused in one line | wrong |", "|---|---:|---:|---:|---:|"]
    return "\n".join(lines + [f"| {' | '.join(f'{c:,}' if isinstance(c, int) else c for c in row)} |" for row in rows])


Campaign = Callable[[int, int], Tally]


def _last(error: BaseException) -> str:
    where = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {str(error)[:200]} ({where.filename.rpartition('/')[2]}:{where.lineno})"
