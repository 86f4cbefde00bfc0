"""Every strategy on equal terms: bits per byte over MACs, from 50 to 10 %.

    python -m experiments.benchmarks.frontier [--quick | --tables]

The text task of `llama`, with which it shares cells. Every strategy of `dms_jax.baselines` takes 800 steps
in all from the same pretrained supernet: five seeds at 20 % of the MACs, three at 50 and 10 %. How long each one
searches and at which rate is chosen by its validation score on two seeds of its own at 20 %, from a grid of the same
size for all that have a rate, widened where its end was best. About eight hours of one core, two of them in the cells
that are shared. Shows who is ahead where and by how much; a single small network and one kind of text are no proof for
others.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from experiments.benchmarks import choice, methods
from experiments.benchmarks.chapter import Comparison, heading
from experiments.benchmarks.command import Options, start
from experiments.benchmarks.comparison import percent
from experiments.benchmarks.llama import BUDGETS, QUICK_STEPS, STEPS, report, simple_methods, text_contest
from experiments.benchmarks.methods import SEARCHED, Methods

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

    def compared() -> Methods:
        best = {label: choice.best(contest, grid) for label, grid in grids.items()}
        searched = {label: partial(methods.at, settings) for label, settings in best.items()}
        rules = {} if options.quick else methods.rules(["random"], steps)
        return {**searched, **rules, **simple_methods(contest, options, steps)}

    def seeds(label: str, budget: float) -> Sequence[int]:
        return (choice.SEED,) if options.quick else SEEDS.get(budget, OTHER_SEEDS)

    tried = (choice.SEED,) if options.quick else choice.SEEDS
    try:
        for label, grid in grids.items():
            choice.settle(contest, label, grid, tried)
        for budget in budgets:
            choice.fill_depths(contest, budget, steps, tried)
            asked = [(s(budget), seed) for seed in seeds("", budget) for s in compared().values()]
            contest.fill(f"frontier, {percent(budget)}", asked)
    finally:
        comparison = Comparison(heading(contest), contest, compared(), budgets, seeds)
        report("frontier", "Every strategy on equal terms", comparison, options, grids)


if __name__ == "__main__":
    start(main, __doc__)
