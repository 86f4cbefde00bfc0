"""What stands in tables: means with their errors, tables in Markdown, and the marked sections that hold them."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from scipy.stats import t as student

from dms_jax.errors import UserError
from experiments.benchmarks.sharing import replacing

RESULTS = Path("experiments/benchmarks/results")
"""Rows of cells, and a page a benchmark."""
DOCUMENT = RESULTS.parent / "RESULTS.md"
"""The tables to read first."""
Key = TypeVar("Key", bound=Hashable)
WRITTEN_OUT = "DMS is Differentiable Model Scaling."
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


@dataclass(frozen=True)
class Difference:
    """How far two methods are apart, as far as their seeds tell.

    Attributes:
      mean: of the second minus that of the first.
      error: half of the 95 % interval around it; NaN where either has one seed.
      p: how often seeds alone put two equal methods as far apart; NaN likewise.
    """

    mean: float
    error: float
    p: float

    @property
    def spread(self) -> Spread:
        """With its interval in place of a standard error."""
        return Spread(self.mean, self.error, 1)


def difference_text(difference: Difference | None, digits: int, sure: bool) -> str:
    """A difference in a table, `+0.094 ± 0.041 *`, with a star where it is decided; `-` where there is none."""
    return "-" if difference is None else difference.spread.text(digits, sign=True) + (" *" if sure else "")


def apart(ours: Iterable[float], theirs: Iterable[float]) -> Difference | None:
    """Student's t of independent samples, with one variance for both; None where either has no seed.

    The standard deviation of three seeds is often near zero by luck; that of both together seldom is. Seeds are not
    paired: next to nothing of the scores is what the methods of a seed share. One seed of either has no interval: the
    other's would stand for both, and where that is near zero by luck a single number would seem to decide.
    """
    first, second = np.array(list(ours), np.float64), np.array(list(theirs), np.float64)
    if not len(first) or not len(second):
        return None
    mean, free = float(second.mean() - first.mean()), len(first) + len(second) - 2
    if min(len(first), len(second)) < 2:
        return Difference(mean, np.nan, np.nan)
    squares = sum(float(np.sum(np.square(x - x.mean()))) for x in (first, second))
    error = np.sqrt(squares / free * (1 / len(first) + 1 / len(second)))
    p = 2 * float(student.sf(abs(mean) / error, free)) if error else float(mean == 0)
    return Difference(mean, float(student.ppf(0.975, free)) * error, p)


def decided(differences: Mapping[Key, Difference | None]) -> set[Key]:
    """Which of a table's differences its seeds decide: together wrong once in twenty tables (Holm's correction)."""
    known = sorted((d.p, i, key) for i, (key, d) in enumerate(differences.items()) if d and not np.isnan(d.p))
    found = set[Key]()
    for tried, (p, _, key) in enumerate(known):
        if p > 0.05 / (len(known) - tried):
            break
        found.add(key)
    return found


def differences(
    found: Mapping[Key, Iterable[float]], base: Callable[[Key], Iterable[float]], digits: int
) -> tuple[dict[Key, Difference | None], dict[Key, str]]:
    """How far the scores of a table are from what each is compared with, and that as the table shows it.

    Args:
      found: scores of seeds.
      base: from a key to the scores that are subtracted.
      digits: after the point.
    """
    between = {key: apart(base(key), values) for key, values in found.items()}
    sure = decided(between)
    return between, {key: difference_text(d, digits, key in sure) for key, d in between.items()}


INTERVALS = (
    "Differences are of means, ± half of their 95 % interval (Student's t, independent samples, one variance for "
    "both); one with a star is not by chance, after Holm's correction for all differences of its table."
)


def percent(budget: float) -> str:
    """`20 %`."""
    return f"{100 * budget:g} %"


def write_section(
    name: str, title: str, text: str, *, folder: Path | None, page: str | None = None, headline: str = ""
) -> None:
    """Put tables into the marked section of a page of results; what stands outside the marks stays.

    Args:
      name: of the section's marks.
      title: of the section, where it is not there yet.
      text: Markdown.
      folder: of the page; None: print only.
      page: the file's name; as the section's where there is none.
      headline: what RESULTS.md shows of it, in a section of the same name. It is of the results of the repository
        alone: of those of another folder it shows nothing.
    """
    print(text)
    if folder is None:
        return
    ours = folder.resolve() == RESULTS.resolve()
    back = f"[All benchmarks]({os.path.relpath(DOCUMENT, RESULTS)}). {WRITTEN_OUT}\n\n" if ours else ""
    _replace(folder / f"{page or name}.md", name, title, text, back)
    if headline and ours:
        _replace(DOCUMENT, name, title, headline, back)


def _replace(path: Path, name: str, title: str, text: str, back: str) -> None:
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    new = f"# {title}\n\n{back}{begin}\n{end}\n"
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
