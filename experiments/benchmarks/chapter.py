"""A section of RESULTS.md about one or several comparisons: their tables, and one picture of them all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from experiments.benchmarks import pictures
from experiments.benchmarks.command import Contest, Options
from experiments.benchmarks.comparison import Seeds, tables
from experiments.benchmarks.contest import Settings
from experiments.benchmarks.methods import OURS, Methods
from experiments.benchmarks.tables import write_section


@dataclass(frozen=True, eq=False)
class Comparison:
    """Methods on one task.

    Attributes:
      title: of its tables and of its part of the picture.
      contest: where the cells are.
      methods: label -> settings at a budget.
      budgets: fractions of the MACs, in the order in which they are computed.
      seeds: of a method at a budget.
      ours: the label that the others are compared with.
    """

    title: str
    contest: Contest
    methods: Methods
    budgets: Sequence[float]
    seeds: Seeds
    ours: str = OURS

    def asked(self, budget: float) -> Iterator[tuple[Settings, int]]:
        """Settings and seeds of all cells at a budget."""
        for label, settings in self.methods.items():
            for seed in self.seeds(label, budget):
                yield settings(budget), seed

    @property
    def shown(self) -> list[float]:
        """The budgets in the order of the tables."""
        return sorted(self.budgets, reverse=True)

    def panel(self) -> pictures.Panel:
        """Its part of the picture."""
        return pictures.panel(self.contest, self.methods, self.shown, self.seeds, self.title)

    @property
    def begun(self) -> bool:
        """Whether any of its cells is there."""
        return any(self.contest.get(*cell) for budget in self.budgets for cell in self.asked(budget))

    def tables(self) -> list[str]:
        """Scores, costs, and what failed."""
        if not self.begun:
            return ["Not computed yet."]
        return tables(self.contest, self.methods, self.shown, self.seeds, self.ours)


def heading(contest: Contest) -> str:
    """The title of a comparison on a task: its data and what scores are."""
    return f"{contest.task.data}: {contest.task.unit.name}"


def write_chapter(
    name: str,
    title: str,
    opening: str,
    comparisons: Sequence[Comparison],
    options: Options,
    more: Sequence[str] = (),
) -> None:
    """Write a section: what it is, the picture, the tables of every comparison.

    Args:
      name: of the benchmark.
      title: of the section.
      opening: the first paragraph.
      comparisons: in the order of the section.
      options: of the command.
      more: what follows the tables.
    """
    begun = [comparison for comparison in comparisons if comparison.begun]
    figure = pictures.scores_over_macs([comparison.panel() for comparison in begun or comparisons])
    parts = [opening, f"![{title}](../../{pictures.save(figure, options.pictures / f'{name}.svg')})"]
    for comparison in comparisons:
        parts += [f"**{comparison.title}**", *comparison.tables()]
    write_section(name, title, "\n\n".join(filter(None, [*parts, *more])), quick=options.quick)
