"""Every strategy on equal terms: bits per byte over MACs, from 50 to 10 %.

    python -m benchmarks.frontier [--quick | --tables]

The text task of `benchmarks.llama`, with which it shares cells. Every strategy of `dms_jax.strategies` takes 800 steps
in all from the same pretrained supernet: five seeds at 20 % of the MACs, three at 50 and 10 %. How long each one
searches and at which rate is chosen by its validation score on a seed of its own at 20 %, from a grid of the same size
for all. About two hours and a half on one core. Shows who is ahead where and by how much; a single small network and
one kind of text are no proof for others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import tyro

from benchmarks import choice
from benchmarks.command import Contest, Options, write_section
from benchmarks.comparison import Methods, Seeds, compare, costs, draw_frontier, failures
from benchmarks.contest import Settings
from benchmarks.llama import BUDGETS, OURS, QUICK_STEPS, STEPS, simple_methods, text_contest
from dms_jax.errors import exit_on_user_error

SEARCHED = {
    OURS: "dms",
    "iterative Taylor threshold": "iterative",
    "capped simplex": "capped_simplex",
    "gradient-estimated top-k": "gradient_estimated",
    "DMS without normalisation": "dms_raw",
    "single-number selection": "single",
    "multiple-element selection": "multiple",
}
SEEDS = {0.2: (0, 1, 2, 3, 4)}
OTHER_SEEDS = (0, 1, 2)


def main(options: Options) -> None:
    contest = text_contest(options)
    steps = QUICK_STEPS if options.quick else STEPS
    budgets = (0.5,) if options.quick else BUDGETS
    names = dict(list(SEARCHED.items())[:2]) if options.quick else SEARCHED
    grids = {
        label: choice.grid(name, steps, budgets[0])[: 1 if options.quick else None] for label, name in names.items()
    }

    def seeds(label: str, budget: float) -> Sequence[int]:
        return (choice.SEED,) if options.quick else SEEDS.get(budget, OTHER_SEEDS)

    try:
        for label, grid in grids.items():
            contest.fill(f"how {label} searches", [(c, choice.SEED) for c in grid])
        for budget in budgets:
            asked = [
                (s(budget), seed)
                for seed in seeds("", budget)
                for s in _methods(contest, options, grids, steps).values()
            ]
            contest.fill(f"frontier, {100 * budget:g} %", asked)
    finally:
        _report(
            contest,
            options,
            _methods(contest, options, grids, steps),
            tuple(sorted(budgets, reverse=True)),
            seeds,
            grids,
        )


def _methods(contest: Contest, options: Options, grids: dict[str, list[Settings]], steps: int) -> Methods:
    best = {label: choice.chosen(contest, grid) for label, grid in grids.items()}
    searched = {label: partial(choice.at, settings) for label, settings in best.items()}
    simple = simple_methods(options, steps)
    return {**searched, **simple} if options.quick else {**searched, "random": partial(_random, steps), **simple}


def _random(steps: int, budget: float) -> Settings:
    return Settings("random", budget, steps)


def _report(
    contest: Contest,
    options: Options,
    methods: Methods,
    budgets: Sequence[float],
    seeds: Seeds,
    grids: Mapping[str, Sequence[Settings]],
) -> None:
    picture = options.pictures / "frontier.svg"
    draw_frontier(contest, methods, budgets, seeds, picture, "bits per byte")
    parts = [
        f"`python -m benchmarks.frontier`: bits per byte on {contest.task.data}, files not trained on; lower is "
        "better. Mean ± standard error over seeds; a positive difference, paired by seed, means that DMS is better.",
        compare(contest, methods, budgets, seeds, OURS),
        f"![Bits per byte over MACs](../{picture})",
        costs(contest, methods, budgets[len(budgets) // 2], seeds),
        "What every strategy's search was chosen from, by validation score (bold) at 20 % of the MACs on a seed of "
        "its own:",
        choice.grid_table(contest, grids),
        failures(contest, methods, budgets, seeds),
    ]
    title = "Every strategy on equal terms"
    write_section("frontier", title, "\n\n".join(filter(None, parts)), quick=options.quick)


if __name__ == "__main__":
    exit_on_user_error(lambda: main(tyro.cli(Options, description=__doc__)))()
