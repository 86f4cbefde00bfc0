"""What stands in tables: means with their errors, tables in Markdown, and the marked sections that hold them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dms_jax.errors import UserError
from experiments.benchmarks.sharing import replacing

DOCUMENT = Path("experiments/benchmarks/RESULTS.md")


@dataclass(frozen=True)
class Spread:
    """A mean over seeds, its standard error (NaN for one seed), and the number of seeds."""

    mean: float
    error: float
    count: int

    @staticmethod
    def of(values: Iterable[float]) -> Spread:
        """From one value a seed; NaNs for none."""
        array = np.array(list(values), np.float64)
        if not len(array):
            return Spread(np.nan, np.nan, 0)
        error = array.std(ddof=1) / np.sqrt(len(array)) if len(array) > 1 else np.nan
        return Spread(float(array.mean()), float(error), len(array))

    def text(self, digits: int = 3, sign: bool = False) -> str:
        """`2.451 ± 0.006`; `-` where there is nothing."""
        if not self.count:
            return "-"
        number = f"{self.mean:+.{digits}f}" if sign else f"{self.mean:.{digits}f}"
        return number if np.isnan(self.error) else f"{number} ± {self.error:.{digits}f}"


def paired(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Spread:
    """The spread of `theirs - ours` over the seeds that both have: what all methods of a seed share cancels out."""
    return Spread.of(theirs[seed] - ours[seed] for seed in sorted(ours.keys() & theirs.keys()))


def percent(budget: float) -> str:
    """`20 %`."""
    return f"{100 * budget:g} %"


def write_section(name: str, title: str, text: str, *, quick: bool, path: Path | None = None) -> None:
    """Put tables into the marked section of RESULTS.md; what stands outside the marks stays. A quick run prints them.

    Args:
      name: of the section's marks.
      title: of the section, where it is not there yet.
      text: Markdown.
      quick: print only.
      path: of the document.
    """
    print(text)
    if quick:
        return
    path = path or DOCUMENT
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    content = path.read_text() if path.exists() else "# Results\n"
    if begin not in content:
        content += f"\n## {title}\n\n{begin}\n{end}\n"
    before, rest = content.split(begin, 1)
    if end not in rest:
        raise UserError(f"{path} has {begin!r} without {end!r}; put it back")
    with replacing(path) as part:
        part.write_text(f"{before}{begin}\n\n{text.strip()}\n\n{end}{rest.split(end, 1)[1]}")


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown; the first column is text, the others numbers."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
