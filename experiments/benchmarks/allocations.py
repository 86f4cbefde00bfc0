"""Does structure matter here? The best of thirty random allocations against the even one.

    python -m experiments.benchmarks.allocations [--quick | --tables]

Where no allocation is better than the same ratio everywhere, no search can be, and a table that compares searches there
compares noise. Thirty allocations are drawn around the even one: a pruning ratio for every group, near, further and far
in turn, moved onto the budget; elements go by Taylor importance, and everything is trained as in comparisons. All
thirty are trained from one supernet; the best of them by its validation score, chosen there alone, is trained from five
others beside the even one. Three standard errors between the two are asked of a benchmark on which searches are to be
compared. A quarter of an hour of one core for the digits, half an hour for the thin networks on text, 50 minutes for
the usual one. Where its residual width may shrink, too, at 10 %, the even network has the best depth of all by
validation, for as many layers as fit would be easy to beat.

What it shows: that there is something to find, where the difference is large. What it does not: that there is nothing
where it is small, for thirty draws are few.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from experiments.benchmarks import depth, digits, frontier, tuning, width
from experiments.benchmarks.command import Options, start
from experiments.benchmarks.protocol import TRIED, Contest
from experiments.benchmarks.settings import Settings
from experiments.benchmarks.tables import INTERVALS, Spread, apart, difference_text, percent, table
from experiments.benchmarks.text_task import TextOptions, text_task

TITLE = "Where structure matters: thirty random allocations against the even one"
DRAWS, SEEDS, NEEDED = 30, (0, 1, 2, 3, 4), 3.0
FINE = TextOptions(
    width=48, layers=12, heads=12, kv_heads=12, head_dim=8, hidden=96, length=64, batch=8, pretrain_steps=600,
    valid_windows=512, test_windows=1024,
)  # fmt: skip
"""Thin layers and many heads: 15 % of a budget of 20 % go to the output layer, all else is open."""


@dataclass(frozen=True, eq=False)
class Study:
    """One task at one budget.

    Attributes:
      title: of its row.
      contest: where its cells lie.
      even: the even network.
      draws: how many allocations.
      seeds: of the comparison.
    """

    title: str
    contest: Contest
    even: Settings
    draws: int = DRAWS
    seeds: Sequence[int] = SEEDS

    @property
    def all(self) -> list[Settings]:
        """The allocations."""
        return [dataclasses.replace(self.even, strategy="drawn", draw=i, blocks=None) for i in range(self.draws)]

    def valid(self) -> dict[Settings, float]:
        """Validation scores of those that are trained."""
        found = {one: self.contest.values(one, TRIED[:1], self.contest.choice[0]) for one in self.all}
        return {one: scores[TRIED[0]] for one, scores in found.items() if scores}

    @property
    def best(self) -> Settings | None:
        """The best of all by validation, once all are trained."""
        scores = self.valid()
        return min(scores, key=lambda one: scores[one]) if len(scores) == self.draws else None

    def fill(self) -> None:
        """Compute what is missing: the allocations, then the best of them and the even one."""
        self.contest.fill(f"allocations, {self.title}", [(one, TRIED[0]) for one in self.all])
        if best := self.best:
            pairs = [(one, seed) for seed in self.seeds for one in (best, self.even)]
            self.contest.fill(f"the best of them, {self.title}", pairs)

    def cells(self) -> Iterator[tuple[Settings, int]]:
        """All that are or will be there."""
        yield from ((one, TRIED[0]) for one in self.all)
        yield from ((one, seed) for one in (self.best, self.even) if one for seed in self.seeds)

    def row(self) -> list[str]:
        """Of the table."""
        unit, (_, shown) = self.contest.task.unit, self.contest.choice
        chance = [shown.scale * score for score in self.valid().values()]
        cloud = [f"{f(chance):.{shown.digits}f}" for f in (np.min, np.median, np.max)]
        both = [self.contest.values(s, self.seeds).values() if s else () for s in (self.best, self.even)]
        pair = [[unit.scale * score for score in scores] for scores in both]
        best, even = (Spread.of(each) for each in pair)
        errors = float(np.hypot(best.error, even.error)) if min(best.count, even.count) > 1 else np.nan
        ahead = (even.mean - best.mean) / errors if errors > 0 else np.nan
        return [
            self.title, " / ".join(cloud), best.text(unit.digits), even.text(unit.digits),
            difference_text(apart(*pair), unit.digits, False), "-" if np.isnan(ahead) else f"{ahead:.1f}",
            "-" if np.isnan(ahead) else "yes" if ahead >= NEEDED else "no", f"{best.count}, {even.count}",
        ]  # fmt: skip


def studies(options: Options) -> list[Study]:
    """Digits with few labels, and networks on text."""
    few = digits.digits_contest(options, digits.FEW_LABELS)
    if options.quick:
        return [Study("digits", few, Settings("uniform_taylor", 0.5, 8), 2, TRIED[:1])]
    fine, text = Contest(text_task(FINE, "fine_text"), options), frontier.text_contest(options)

    def even(name: str, contest: Contest, budget: float, steps: int) -> Study:
        return Study(name, contest, Settings("uniform_taylor", budget, steps))

    deepest = tuning.Depths(text, frontier.STEPS, residual=True).best
    made = [
        even("digits, 200 labels", few, digits.FEW_LABELS_BUDGETS[0], digits.STEPS),
        Study("text, 6 layers, residual width too", text, deepest(width.BUDGETS[0])),
        even("text, 12 thin layers", fine, 0.2, depth.STEPS),
        even("text, 24 thin layers", depth.contest_of(options), depth.BUDGET, depth.STEPS),
        even("text, 6 layers", text, 0.2, frontier.STEPS),
    ]
    return [dataclasses.replace(s, title=f"{s.title}, {percent(s.even.budget)} of the MACs") for s in made]


def main(options: Options) -> None:
    found = studies(options)
    try:
        for study in found:
            study.fill()
    finally:
        opening = (
            "lower is better, means ± standard errors over seeds; a positive difference means that chance is better."
        )
        head = ["task", f"{DRAWS} drawn, validation: least / median / most", "the best of them", "even"]
        head += ["even minus best", "in standard errors", f"{NEEDED:g} or more", "seeds"]
        begun = [study for study in found if study.valid()]
        lines = table(head, [study.row() for study in begun]) if begun else "Not computed yet."
        machines = [study.contest.cells.machines(study.contest.cell(*one) for one in study.cells()) for study in begun]
        parts = [f"`python -m experiments.benchmarks.allocations`: {opening} {INTERVALS}", lines, *machines]
        options.publish("allocations", TITLE, parts)


if __name__ == "__main__":
    start(main, __doc__)
