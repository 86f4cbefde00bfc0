"""Several sizes from one search against a search for each: a nested family, uniform slices, each size alone.

    python -m experiments.benchmarks.sizes [--quick | --tables]

A small Llama on the source of the Python standard library at 50, 20 and 10 % of its MACs, a ResNet-20 on scikit-learn's
digits at 25, 10 and 4 %; three seeds. About an hour of one core, without what it shares with other benchmarks: the
networks that are searched alone are those of `frontier` and `digits`.

What counts as a step: every network of a table takes 800 steps after pretraining, on the same batches in the same
order. Alone, a size has a search and then its finetuning. A family has one search, to the smallest size, and then joint
steps in each of which all its networks learn (the largest, the smallest, and one between, of which there is one). So
the small networks of a family take as many steps as those that are alone, and the supernet a third as many.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from dms_jax.training.interrupt import InterruptFlag
from experiments.benchmarks import digits, families, methods, tuning
from experiments.benchmarks.command import Options, start
from experiments.benchmarks.families import Nested, small_sizes
from experiments.benchmarks.frontier import text_contest, usual
from experiments.benchmarks.methods import OURS, Methods
from experiments.benchmarks.protocol import TRIED, Contest, compete
from experiments.benchmarks.sections import ABOUT, Comparison, always, heading, run
from experiments.benchmarks.settings import Made, Settings
from experiments.benchmarks.store import Cell, Say
from experiments.benchmarks.tables import Spread, table
from experiments.benchmarks.tasks import Task

TITLE = "Several sizes from one search, against a search for each"
SEEDS = (0, 1, 2)
STEPS = 800
ALONE = f"{OURS}, each size alone"
TOGETHER, TAUGHT, EACH = "family, together", "family, together, taught by the largest", "family, each size by itself"
MIDDLE = "family of a search to the middle size, together"
EVEN, EVEN_ALONE = "uniform slices, together", "uniform, each size alone"
RULE = (
    f"**What counts as a step.** Every network of a table takes {STEPS} steps after pretraining, on the same batches "
    "in the same order. Alone, a size has a search and then its finetuning. A family has one search, to the smallest "
    "size, and then joint steps in each of which all three networks learn: the largest, the smallest, and one "
    "between, of which there is one. So the small networks of a family take as many steps as those that are alone, "
    f"and the supernet a third as many. Uniform slices have no search, and {STEPS} joint steps."
)
EXPECTED = (
    "**What was expected**, written before the first cell was computed. By itself the family's smallest network is "
    "what a search alone finds, so level; the larger ones, whose ratios were found for the smallest and moved "
    "together, a little behind (0.01 to 0.03 bits). Together, one set of weights costs something, most at the largest "
    "size, whose weights serve the others, too (0.02 to 0.05 bits), and being taught gives some of it back to the "
    "smaller ones. Uniform slices together are behind the family by what uniform is behind a search alone. On the "
    "digits all differences are within errors."
)


@dataclass(frozen=True)
class Member(Made):
    """One size of a family: the cell holds all of them."""

    family: Nested
    place: int

    @property
    def strategy(self) -> str:
        """Of the search."""
        return self.family.search.strategy

    @property
    def small(self) -> Member:
        """Of the small family."""
        return replace(self, family=self.family.small)

    def cell(self, task: Task, seed: int) -> Cell:
        """The family's."""
        return self.family.cell(task, seed)


class Families(Contest):
    """Members of families, and networks that are alone."""

    def finished(self, settings: Made, seeds: Sequence[int]) -> dict[int, dict[str, Any]]:
        """{seed: results}; of a member, of all lists its own numbers."""
        found = super().finished(settings, seeds)
        if not isinstance(settings, Member):
            return found
        place = settings.place
        return {i: {n: x[place] for n, x in cell.items() if isinstance(x, list)} for i, cell in found.items()}


def train(task: Task, settings: Any, seed: int, interrupt: InterruptFlag, say: Say) -> dict[str, Any]:
    """A family, or a network that is alone."""
    if isinstance(settings, Member):
        return families.train(task, settings.family, seed, interrupt, say)
    return compete(task, settings, seed, interrupt, say)


class Sizes(Comparison):
    """All ways to several sizes on one task."""

    first = "networks"

    @property
    def small(self) -> Comparison:
        """It is made small where it is made."""
        return self

    def _costs(self, budget: float) -> str:
        """MACs of every size, and CPU seconds of all sizes together, of cells from CPUs; of whole rows alone."""
        full, lines = self.contest.task.space.resources()["macs"], []
        for label, method in self.rows().items():
            done = [self.contest.finished(method(size), self.seeds(label, size)) for size in self.shown]
            if all(done):
                macs = (np.mean([100 * x["macs"] / full for x in found.values()]) for found in done)
                seconds = [Spread.of(self._seconds(label, part)).text(0) for part in ("search", "finetune", "compile")]
                lines.append([label, ", ".join(f"{x:.2f}" for x in macs), *seconds])
        return table(["networks", "MACs, %", "search, CPU s", "finetuning, CPU s", "compilation, CPU s"], lines)

    def _seconds(self, label: str, part: str) -> Iterator[float]:
        """CPU seconds that all sizes of a row took for one part, a number a seed."""
        cells = self.contest.cells
        for seed in self.seeds(label, self.shown[0]):
            made = [self.contest.cell(self.rows()[label](size), seed) for size in self.shown]
            once = {cell.path: cell for cell in made}.values()
            if all(cells.on_cpu(cell) for cell in once):
                yield sum((cells.get(cell) or {}).get("seconds", {}).get(part, 0.0) for cell in once)


def rows(sizes: tuple[float, ...], shown: Sequence[float], search: Settings) -> dict[str, Any]:
    """The ways by label, of a search: members of families, and networks that know of no other size."""
    ours = Nested(replace(search, steps=STEPS, budget=1.0), sizes, together=True)
    ways = {
        TOGETHER: ours,
        TAUGHT: replace(ours, taught=True),
        EACH: replace(ours, together=False),
        MIDDLE: replace(ours, aim=1),
        EVEN: replace(ours, search=Settings("uniform", 1.0, STEPS)),
    }

    def member(family: Nested, size: float) -> Member:
        return Member(family, shown.index(size))

    return {
        ALONE: partial(methods.at, replace(search, steps=STEPS)),
        **{label: partial(member, family) for label, family in ways.items()},
        EVEN_ALONE: methods.rules(["uniform"], STEPS)["uniform"],
    }


def comparison(contest: Contest, sizes: tuple[float, ...], search: Callable[[], Settings]) -> Comparison:
    """All ways on one task; quick, two families beside networks that are searched alone."""
    quick = contest.options.quick
    shown, labels = (small_sizes(len(sizes)), (ALONE, TAUGHT, EACH)) if quick else (sizes, ())

    def made() -> Methods:
        every = rows(sizes, shown, search())
        return {label: every[label] for label in labels or every}

    cells = Families(contest.task, contest.options, train)
    return Sizes(heading(contest), cells, made, shown, always(TRIED[:1] if quick else SEEDS), ALONE)


def main(options: Options) -> None:
    text, pictures = text_contest(options), digits.digits_contest(options)
    comparisons = [
        comparison(text, (0.5, 0.2, 0.1), lambda: usual(text)),
        comparison(pictures, (0.25, 0.1, 0.04), lambda: tuning.best(pictures, digits.GRIDS[OURS])),
    ]
    opening = f"{ABOUT}networks that were searched alone are better."
    run("sizes", TITLE, opening, comparisons, options, about=(RULE, EXPECTED))


if __name__ == "__main__":
    start(main, __doc__)
