"""A small Llama pruned to 50, 20 and 10 % of its MACs: DMS beside simple rules and the unpruned network.

    python -m experiments.benchmarks.llama [--quick | --tables]

A decoder of bytes is pretrained on the source of the Python standard library (three seeds; about 5 minutes each), then
every method takes 800 steps in all from the same supernet on the same batches: about a minute and a half a cell, two
hours and a half of one core. Shows bits per byte on held-out files with standard errors over seeds, and paired
differences to DMS. How long DMS searches, and at which rate, is chosen on validation files with two seeds of its own,
once for all budgets; the depth of the strongest rule at every budget, from all there are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial

from experiments.benchmarks import choice, methods
from experiments.benchmarks.chapter import Comparison, heading, write_chapter
from experiments.benchmarks.command import Contest, Options, start
from experiments.benchmarks.comparison import always, percent
from experiments.benchmarks.contest import Settings
from experiments.benchmarks.methods import OURS, Methods
from experiments.benchmarks.text_task import QUICK, TextOptions, text_task

BUDGETS = (0.2, 0.1, 0.5)
SEEDS = (0, 1, 2)
STEPS, QUICK_STEPS = 800, 8


def text_contest(options: Options) -> Contest:
    """Cells on the common text task."""
    size = QUICK if options.quick else TextOptions()
    return Contest(text_task(size), dataclasses.asdict(size), options.cells, not options.tables)


def usual(contest: Contest, options: Options) -> Settings:
    """How DMS searches: chosen in earnest, as short as can be in a quick run."""
    if options.quick:
        return Settings("dms", 0.5, QUICK_STEPS, search_steps=2, rate=5.0)
    return choice.chosen(contest, choice.settle(contest, OURS, choice.grid("dms", STEPS)))


def simple_methods(contest: Contest, options: Options, steps: int) -> Methods:
    """Structures without a search, and the full network; a quick run has two."""
    if options.quick:
        return {**methods.rules(["uniform"], steps), **choice.layered(contest, steps)}
    return {
        **methods.rules(["uniform", "uniform, by Taylor", "uniform, layers too", "one Taylor threshold"], steps),
        **choice.layered(contest, steps),
        **methods.unpruned(steps),
    }


def main(options: Options) -> None:
    contest = text_contest(options)
    steps = QUICK_STEPS if options.quick else STEPS
    seeds, budgets = ((choice.SEED,), (0.5,)) if options.quick else (SEEDS, BUDGETS)
    grid = choice.grid("dms", steps, budgets[0])[: 1 if options.quick else None]

    def compared() -> Methods:
        best = choice.best(contest, grid)
        return {OURS: partial(methods.at, best), **simple_methods(contest, options, steps)}

    try:
        tried = (choice.SEED,) if options.quick else choice.SEEDS
        choice.settle(contest, OURS, grid, tried)
        for budget in budgets:
            choice.fill_depths(contest, budget, steps, tried)
        contest.fill("llama", [(s(b), seed) for b in budgets for seed in seeds for s in compared().values()])
    finally:
        title = "A small Llama: bits per byte at 50, 20 and 10 % of the MACs"
        comparison = Comparison(heading(contest), contest, compared(), budgets, always(seeds))
        report("llama", title, comparison, options, {OURS: grid})


def report(
    name: str, title: str, comparison: Comparison, options: Options, grids: Mapping[str, Sequence[Settings]]
) -> None:
    """Write the section of a comparison on text.

    Args:
      name, title: of the benchmark, and of its section.
      comparison: its methods, "uniform" among them.
      options: of the command.
      grids: what the settings of those that search were chosen from, by label.
    """
    contest, budgets = comparison.contest, comparison.shown
    steps = comparison.methods["uniform"](budgets[0]).steps
    opening = (
        f"`python -m experiments.benchmarks.{name}`: {contest.task.unit.name}, files not trained "
        f"on; lower is better. Mean ± "
        f"standard error over seeds; a positive difference, paired by seed, means that {OURS} is better."
    )
    more = [
        "What searches were chosen from, by validation score (bold) at "
        f"{percent(choice.BUDGET)} of the MACs on seeds of their own:",
        choice.grids_table(contest, grids),
        "And the depth of even networks, at every budget:",
        choice.depths_table(contest, budgets, steps),
    ]
    write_chapter(name, title, opening, [comparison], options, more)


if __name__ == "__main__":
    start(main, __doc__)
