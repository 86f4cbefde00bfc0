"""A section of the results: comparisons of methods on tasks, filled, and written as tables under one picture."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np

from experiments.benchmarks import pictures, tuning
from experiments.benchmarks.command import Options
from experiments.benchmarks.methods import OURS, Methods
from experiments.benchmarks.protocol import TRIED, Contest
from experiments.benchmarks.settings import CONTROL, Settings
from experiments.benchmarks.tables import INTERVALS, Spread, differences, percent, table

ABOUT = "lower is better, means ± standard errors over seeds; a positive difference means that "
"""Of every table; what is better follows."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """Methods on one task.

    Attributes:
      title: of its tables and of its part of the picture.
      contest: where the cells are.
      rows: the methods by label, from what is known when it is called: what is chosen changes while cells are filled.
      budgets: fractions of the MACs, in the order in which they are computed.
      seeds: of a label at a budget.
      ours: the label that the others are compared with.
      grids: what searches are chosen from, by label; filled before the methods are.
      depths: even networks whose depth is chosen; filled before the methods are.
    """

    title: str
    contest: Contest
    rows: Callable[[], Methods]
    budgets: Sequence[float]
    seeds: Callable[[str, float], Sequence[int]]
    ours: str = OURS
    grids: tuning.Grids = field(default_factory=dict)
    depths: tuning.Depths | None = None
    first: ClassVar[str] = "method"

    @property
    def small(self) -> Comparison:
        """Two of its methods, one candidate a grid, one seed and one budget: for quick runs."""
        grids = {label: grid[:1] for label, grid in list(self.grids.items())[:2]}
        return replace(self, rows=self._few, budgets=(0.5,), seeds=lambda label, budget: TRIED[:1], grids=grids)

    def _few(self) -> Methods:
        rows = self.rows()
        others = [label for label in rows if label not in (self.ours, tuning.LAYERED)][:1]
        return {label: rows[label] for label in (self.ours, *others, tuning.LAYERED) if label in rows}

    def asked(self, budget: float) -> Iterator[tuple[Settings, int]]:
        """Settings and seeds of all cells at a budget, by seed: stopped half way, all methods have the same ones."""
        cells = ((m(budget), seed) for label, m in self.rows().items() for seed in self.seeds(label, budget))
        yield from sorted(cells, key=lambda cell: cell[1])

    def fill(self, name: str) -> None:
        """Compute what is missing: what choices are made from first, then a budget after the other."""
        for label, grid in self.grids.items():
            tuning.settle(self.contest, label, grid)
        for budget in self.budgets:
            if self.depths is not None:
                self.depths.fill(budget)
            self.contest.fill(f"{name}, {self.title}, {percent(budget)}", self.asked(budget))

    @property
    def shown(self) -> list[float]:
        """The budgets in the order of the tables."""
        return sorted(self.budgets, reverse=True)

    @property
    def begun(self) -> bool:
        """Whether any of its cells is there."""
        return any(self.contest.get(*cell) for budget in self.budgets for cell in self.asked(budget))

    def tables(self) -> list[str]:
        """Scores, what they cost at the middle one of the budgets, which cells have none, and whose machine it was."""
        if not self.begun:
            return ["Not computed yet."]
        middle = self.shown[(len(self.shown) - 1) // 2]
        cells = [self.contest.cell(*asked) for budget in self.shown for asked in self.asked(budget)]
        return [self.scores(), self._costs(middle), self._failures(), self.contest.cells.machines(cells)]

    def found(self) -> dict[str, dict[float, list[float]]]:
        """Label -> budget -> scores in the unit of the tables; of methods that have cells, and of `ours`."""
        scale, every = self.contest.task.unit.scale, {}
        for label, method in self.rows().items():
            scores = {b: self.contest.values(method(b), self.seeds(label, b)).values() for b in self.shown}
            if any(scores.values()) or label == self.ours:
                every[label] = {budget: [scale * score for score in found] for budget, found in scores.items()}
        return every

    def scores(self) -> str:
        """A row a method that has cells: for every budget mean ± standard error, difference to `ours`, and seeds."""
        header, digits, found = [self.first], self.contest.task.unit.digits, self.found()
        others = {(label, b): x for label, row in found.items() if label != self.ours for b, x in row.items()}
        _, texts = differences(others, lambda key: found[self.ours][key[1]], digits)
        for budget in self.shown:
            header += [f"{percent(budget)} of the MACs", f"minus {self.ours}", "seeds"]
        lines = []
        for label, row in found.items():
            line = [label]
            for budget, values in row.items():
                line += [Spread.of(values).text(digits), texts.get((label, budget), ""), str(len(values))]
            lines.append(line)
        return table(header, lines)

    def headline(self, labels: Sequence[str]) -> str:
        """Scores of some methods alone, of those that have cells at every budget."""
        unit, found = self.contest.task.unit, self.found()
        whole = [label for label in labels if all(found.get(label, {0: []}).values())]
        lines = [[label, *(Spread.of(x).text(unit.digits) for x in found[label].values())] for label in whole]
        title = self.title if unit.name in self.title else f"{self.title}: {unit.name}"
        return table([title, *(f"{percent(budget)} of the MACs" for budget in self.shown)], lines)

    def _costs(self, budget: float) -> str:
        """MACs at one budget, and the seconds of cells from CPUs; methods without cells there have no row."""
        lines, contest = [], self.contest
        full = contest.task.space.resources()["macs"]
        for label, method in self.rows().items():
            done = contest.finished(method(budget), self.seeds(label, budget))
            timed = [r for seed, r in done.items() if contest.cells.on_cpu(contest.cell(method(budget), seed))]
            seconds = (
                Spread.of(cell["seconds"].get(part, 0.0) for cell in timed).text(0)
                for part in ("search", "finetune", "compile")
            )
            if done:
                macs = np.mean([100 * cell["macs"] / full for cell in done.values()])
                lines.append([label, f"{macs:.2f}", *seconds])
        parts = ["MACs, %", "search, CPU s", "finetuning, CPU s", "compilation, CPU s"]
        return table([f"method, {percent(budget)}", *parts], lines)

    def _failures(self) -> str:
        """Lines on cells that ended without numbers; empty where there are none."""
        lines = []
        for (label, method), budget in itertools.product(self.rows().items(), self.shown):
            for seed in self.seeds(label, budget):
                cell = self.contest.get(method(budget), seed)
                if cell and "failed" in cell:
                    lines.append(f"{label}, {percent(budget)}, seed {seed}: {cell['failed']}")
        return "\n\n".join(lines)

    def panel(self) -> pictures.Panel:
        """Its part of the picture; the unpruned network, the same at every budget, is a level."""
        rows, lines, levels = self.rows(), {}, {}
        for label, row in self.found().items():
            spreads = {budget: Spread.of(values) for budget, values in row.items()}
            if rows[label](self.shown[0]).strategy == CONTROL:
                levels[label] = spreads[self.shown[0]]
            else:
                lines[label] = spreads
        return pictures.Panel(lines, self.contest.task.unit.name, self.title, levels)


def always(seeds: Sequence[int]) -> Callable[[str, float], Sequence[int]]:
    """The same seeds for every method and budget."""
    return lambda label, budget: seeds


def heading(contest: Contest) -> str:
    """The title of a comparison on a task: its data and what scores are."""
    return f"{contest.task.data}: {contest.task.unit.name}"


def run(
    name: str,
    title: str,
    opening: str,
    comparisons: Sequence[Comparison],
    options: Options,
    more: Callable[[], Mapping[str, str]] = dict,
    headline: Sequence[str] = (),
    about: Sequence[str] = (),
) -> None:
    """Fill a section's cells and write it, whatever comes between: what it is, a picture, tables, what was chosen from.

    Args:
      name: of the benchmark.
      title: of the section.
      opening: the first paragraph.
      comparisons: in the order of the section.
      options: of the command.
      more: what follows the tables, under their first lines.
      headline: the methods that RESULTS.md shows.
      about: further paragraphs at the beginning.
    """
    comparisons = [c.small for c in comparisons] if options.quick else comparisons
    try:
        for comparison in comparisons:
            comparison.fill(name)
    finally:
        begun = [comparison for comparison in comparisons if comparison.begun]
        parts = [f"`python -m experiments.benchmarks.{name}`: {opening} {INTERVALS}", *about]
        if options.quick or any(len(comparison.budgets) > 1 for comparison in comparisons):
            figure = pictures.scores_over_macs([comparison.panel() for comparison in begun or comparisons])
            parts += [options.drawn(name, title, figure)]
        for comparison in comparisons:
            parts += [f"**{comparison.title}**", *comparison.tables()]
        for about, text in {} if options.quick else more().items():
            parts += [about, text]
        first = [] if options.quick else [comparison.headline(headline) for comparison in begun if headline]
        options.publish(name, title, parts, headline="\n\n".join(first))
