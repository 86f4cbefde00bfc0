"""A small Llama pruned to 50, 20 and 10 % of its MACs: DMS beside simple rules and the unpruned network.

    python -m benchmarks.llama [--quick | --tables]

A decoder of bytes is pretrained on the source of the Python standard library (three seeds; about 5 minutes each), then
every method takes 800 steps in all from the same supernet on the same batches: about a minute a cell, an hour in all on
one core. Shows bits per byte on held-out files with standard errors over seeds, and paired differences to DMS. How long
DMS searches, and at which rate, is chosen on validation files with a seed of its own, once for all budgets.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial

import tyro

from benchmarks import choice
from benchmarks.command import Contest, Options, write_section
from benchmarks.comparison import Methods, compare, costs, draw_frontier, failures
from benchmarks.contest import CONTROL, Settings
from benchmarks.text_task import QUICK, TextOptions, text_task
from dms_jax.errors import exit_on_user_error

BUDGETS = (0.2, 0.1, 0.5)
SEEDS = (0, 1, 2)
STEPS, QUICK_STEPS = 800, 8
OURS = "DMS"


def text_contest(options: Options) -> Contest:
    """Cells on the common text task."""
    size = QUICK if options.quick else TextOptions()
    defaults = dataclasses.asdict(QUICK if options.quick else TextOptions())
    return Contest(text_task(size), defaults, options.cells, not options.tables)


def simple_methods(options: Options, steps: int) -> Methods:
    """Structures without a search, and the full network; a quick run has one."""
    uniform: Methods = {"uniform": lambda b: Settings("uniform", b, steps)}
    if options.quick:
        return uniform
    return {
        **uniform,
        "uniform, layers too": lambda b: Settings("uniform_depth", b, steps),
        "one Taylor threshold": lambda b: Settings("threshold", b, steps),
        "unpruned, trained on": lambda b: Settings(CONTROL, 1.0, steps),
    }


def main(options: Options) -> None:
    contest = text_contest(options)
    steps = QUICK_STEPS if options.quick else STEPS
    seeds, budgets = ((choice.SEED,), (0.5,)) if options.quick else (SEEDS, BUDGETS)
    grid = choice.grid("dms", steps, budgets[0])[: 1 if options.quick else None]
    try:
        contest.fill("llama: how to search", [(c, choice.SEED) for c in grid])
        best = choice.chosen(contest, grid)
        methods: Methods = {OURS: partial(choice.at, best), **simple_methods(options, steps)}
        contest.fill("llama", [(s(b), seed) for b in budgets for seed in seeds for s in methods.values()])
    finally:
        best = choice.chosen(contest, grid)
        methods = {OURS: partial(choice.at, best), **simple_methods(options, steps)}
        report(contest, options, methods, tuple(sorted(budgets, reverse=True)), seeds, {OURS: grid})


def report(
    contest: Contest,
    options: Options,
    methods: Methods,
    budgets: Sequence[float],
    seeds: Sequence[int],
    grids: dict[str, Sequence[Settings]],
) -> None:
    """Write the tables and the picture."""

    def of(label: str, budget: float) -> Sequence[int]:
        return seeds

    picture = options.pictures / "llama.svg"
    draw_frontier(contest, methods, budgets, of, picture, "bits per byte")
    parts = [
        f"`python -m benchmarks.llama`: bits per byte on {contest.task.data}, files not trained on; lower is better. "
        "Mean ± standard error over seeds; a positive difference means that DMS is better.",
        compare(contest, methods, budgets, of, OURS),
        f"![Bits per byte over MACs](../{picture})",
        costs(contest, methods, budgets[len(budgets) // 2], of),
        choice.grid_table(contest, grids),
        failures(contest, methods, budgets, of),
    ]
    title = "A small Llama: bits per byte at 50, 20 and 10 % of the MACs"
    write_section("llama", title, "\n\n".join(filter(None, parts)), quick=options.quick)


if __name__ == "__main__":
    exit_on_user_error(lambda: main(tyro.cli(Options, description=__doc__)))()
