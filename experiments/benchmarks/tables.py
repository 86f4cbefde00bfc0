"""What stands in tables: means with their errors, tables in Markdown, and the marked sections that hold them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dms_jax.errors import UserError
from experiments.benchmarks.sharing import replacing

RESULTS = Path("experiments/benchmarks/results")
"""Rows of cells, and a page a benchmark."""
DOCUMENT = RESULTS.parent / "RESULTS.md"
"""The tables to read first."""
EQUAL = 1e-12
"""Relative errors that float sums of equal numbers may have."""


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
        """`2.451 ± 0.006`; `2.4940 ± 0.0006`, with as many digits as it takes to see an error; `-` for nothing."""
        if not self.count:
            return "-"
        error = self.error if self.error > EQUAL * max(1.0, abs(self.mean)) else 0.0  # NaN, or rounding alone
        while error and float(f"{error:.{digits}f}") == 0:
            digits += 1
        mean = round(self.mean, digits) + 0.0  # no negative zero
        number = f"{mean:+.{digits}f}" if sign else f"{mean:.{digits}f}"
        return number if np.isnan(self.error) else f"{number} ± {error:.{digits}f}" if error else f"{number} ± 0"


def paired(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Spread:
    """The spread of `theirs - ours` over the seeds that both have: what all methods of a seed share cancels out."""
    return Spread.of(theirs[seed] - ours[seed] for seed in sorted(ours.keys() & theirs.keys()))


def percent(budget: float) -> str:
    """`20 %`."""
    return f"{100 * budget:g} %"


def write_section(
    name: str, title: str, text: str, *, quick: bool, page: str | None = None, headline: str = ""
) -> None:
    """Put tables into the marked section of a page of results; what stands outside the marks stays.

    Args:
      name: of the section's marks.
      title: of the section, where it is not there yet.
      text: Markdown.
      quick: print only.
      page: the file's name; as the section's where there is none.
      headline: what RESULTS.md shows of it, in a section of the same name.
    """
    print(text)
    if quick:
        return
    _replace(RESULTS / f"{page or name}.md", name, title, text)
    if headline:
        _replace(DOCUMENT, name, title, headline)


def _replace(path: Path, name: str, title: str, text: str) -> None:
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    new = f"# {title}\n\n[All benchmarks](../RESULTS.md)\n\n{begin}\n{end}\n"
    content = path.read_text() if path.exists() else new
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
