"""A ResNet-20 on scikit-learn's digits at 10, 4 and 2 % of its MACs, and at 4 % with 200 labelled images.

    python -m experiments.benchmarks.digits [--quick | --tables]

Ten seeds for DMS, uniform, one global Taylor threshold and the unpruned network, three for the other strategies: test
error with its standard error over seeds, 800 steps in all after pretraining for everyone. With all labels the digits
are saturated down to 4 %; few labels tell methods apart. About half a minute a cell, three hours of one core.
Strategies search for a quarter of the steps. The rate of each is chosen with all labels at 4 % of the MACs, by the
cross-entropy of 200 validation images on two seeds of its own, from three that are widened where the end was best.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from experiments.benchmarks import choice, methods
from experiments.benchmarks.chapter import Comparison, write_chapter
from experiments.benchmarks.command import Contest, Options, start
from experiments.benchmarks.comparison import percent
from experiments.benchmarks.digits_task import QUICK, QUICK_FEW, DigitsOptions, as_json, digits_task
from experiments.benchmarks.methods import OURS, SEARCHED, Methods

BUDGETS, FEW_LABELS_BUDGETS = (0.04, 0.02, 0.1), (0.04,)
FEW_LABELS = 200
STEPS, SEARCH_STEPS, QUICK_STEPS = 800, 200, 4
MANY, FEW = tuple(range(10)), (0, 1, 2)


def digits_contest(options: Options, labels: int = 0) -> Contest:
    """Cells on the digits, with all labels or a few."""
    small = QUICK_FEW if labels else QUICK
    size = small if options.quick else DigitsOptions(labels=labels)
    defaults = as_json(QUICK if options.quick else DigitsOptions())
    return Contest(digits_task(size), defaults, options.cells, not options.tables)


def digits_methods(contest: Contest, grids: choice.Grids) -> tuple[Methods, Methods]:
    """Those of ten seeds, and those of three; what searches is the best of its grid in a contest."""
    best = {label: choice.best(contest, grid) for label, grid in grids.items()}
    steps = best[OURS].steps
    searched = {label: partial(methods.at, settings) for label, settings in best.items()}
    main = {
        OURS: searched.pop(OURS),
        **methods.rules(["uniform", "one Taylor threshold"], steps),
        **methods.unpruned(steps),
    }
    return main, {**methods.rules(["uniform, by Taylor", "uniform, layers too"], steps), **searched}


def main(options: Options) -> None:
    full = digits_contest(options)
    few = digits_contest(options, FEW_LABELS)
    budgets, few_budgets = ((0.5,), (0.5,)) if options.quick else (BUDGETS, FEW_LABELS_BUDGETS)
    contests = {"all labels": (full, budgets), f"{FEW_LABELS} labels": (few, few_budgets)}
    tried = (choice.SEED,) if options.quick else choice.SEEDS
    steps, search_steps = (QUICK_STEPS, 2) if options.quick else (STEPS, SEARCH_STEPS)
    names = {OURS: SEARCHED[OURS]} if options.quick else SEARCHED
    rates = (1.0,) if options.quick else choice.RATES
    grids = choice.rate_grids(names, budgets[0], steps, search_steps, rates=rates)

    def comparisons() -> list[Comparison]:
        first, others = digits_methods(full, grids)
        compared = {label: first[label] for label in (OURS, "uniform")} if options.quick else {**first, **others}

        def seeds(label: str, budget: float) -> Sequence[int]:
            return (choice.SEED,) if options.quick else MANY if label in first else FEW

        return [Comparison(name, contest, compared, asked, seeds) for name, (contest, asked) in contests.items()]

    try:
        for label, grid in grids.items():
            choice.settle(full, label, grid, tried)
        for comparison in comparisons():
            for budget in comparison.budgets:
                name = f"digits, {comparison.title}, {percent(budget)}"
                comparison.contest.fill(name, comparison.asked(budget))
    finally:
        opening = (
            "`python -m experiments.benchmarks.digits`: test error in per cent on scikit-learn's "
            "digits, mean ± standard error "
            f"over seeds; a positive difference, paired by seed, means that {OURS} is better."
        )
        title = "A small ResNet on digits: 10, 4 and 2 % of the MACs, and few labels"
        more = [choice.RATES_OPENING, choice.grids_table(full, grids)]
        write_chapter("digits", title, opening, comparisons(), options, more)


if __name__ == "__main__":
    start(main, __doc__)
