"""A ResNet-20 on scikit-learn's digits at 10, 4 and 2 % of its MACs, and with 200 labelled images.

    python -m benchmarks.digits [--quick | --tables]

Ten seeds for DMS, uniform, one global Taylor threshold and the unpruned network, three for the other strategies: test
error with its standard error over seeds, 800 steps in all after pretraining for everyone. The digits are saturated:
with all labels most budgets show no difference, and the table says so. About 20 seconds a cell, an hour and a half on
one core. Strategies search for a quarter of the steps at their own rates: 200 validation images are too few to choose
anything.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import tyro

from benchmarks import choice
from benchmarks.command import Contest, Options, write_section
from benchmarks.comparison import Methods, compare, costs, failures
from benchmarks.contest import CONTROL, Settings
from benchmarks.digits_task import QUICK, QUICK_FEW, DigitsOptions, digits_task
from dms_jax import strategies
from dms_jax.errors import exit_on_user_error

BUDGETS = (0.04, 0.02, 0.1)
FEW_LABELS = 200
STEPS, SEARCH_STEPS, QUICK_STEPS = 800, 200, 4
OURS = "DMS"
MANY, FEW = tuple(range(10)), (0, 1, 2)
OTHERS = {
    "iterative Taylor threshold": "iterative",
    "capped simplex": "capped_simplex",
    "gradient-estimated top-k": "gradient_estimated",
    "DMS without normalisation": "dms_raw",
    "single-number selection": "single",
    "multiple-element selection": "multiple",
}


def digits_contest(options: Options, labels: int = 0) -> Contest:
    """Cells on the digits, with all labels or a few."""
    small = QUICK_FEW if labels else QUICK
    size = small if options.quick else DigitsOptions(labels=labels)
    defaults = dataclasses.asdict(QUICK if options.quick else DigitsOptions())
    defaults["widths"] = list(defaults["widths"])
    return Contest(digits_task(size), defaults, options.cells, not options.tables)


def digits_methods(steps: int, search_steps: int) -> tuple[Methods, Methods]:
    """Those of ten seeds, and those of three."""

    def searched(strategy: str, budget: float) -> Settings:
        return Settings(strategy, budget, steps, search_steps, strategies.create(strategy).rate)

    main: Methods = {
        OURS: lambda b: searched("dms", b),
        "uniform": lambda b: Settings("uniform", b, steps),
        "one Taylor threshold": lambda b: Settings("threshold", b, steps),
        "unpruned, trained on": lambda b: Settings(CONTROL, 1.0, steps),
    }
    others: Methods = {label: (lambda b, name=name: searched(name, b)) for label, name in OTHERS.items()}
    return main, {"uniform, layers too": lambda b: Settings("uniform_depth", b, steps), **others}


def main(options: Options) -> None:
    contests = {"all labels": digits_contest(options), f"{FEW_LABELS} labels": digits_contest(options, FEW_LABELS)}
    budgets = (0.5,) if options.quick else BUDGETS
    first, others = digits_methods(*((QUICK_STEPS, 2) if options.quick else (STEPS, SEARCH_STEPS)))
    if options.quick:
        first, others = {label: first[label] for label in (OURS, "uniform")}, {}

    def seeds(label: str, budget: float) -> Sequence[int]:
        return (choice.SEED,) if options.quick else MANY if label in first else FEW

    try:
        for name, contest in contests.items():
            for budget in budgets:
                methods = {**first, **others}
                asked = [(s(budget), seed) for label, s in methods.items() for seed in seeds(label, budget)]
                contest.fill(f"digits, {name}, {100 * budget:g} %", asked)
    finally:
        parts = [
            "`python -m benchmarks.digits`: test error in per cent on scikit-learn's digits, mean ± standard error "
            "over seeds; a positive difference, paired by seed, means that DMS is better."
        ]
        shown = tuple(sorted(budgets, reverse=True))
        for name, contest in contests.items():
            methods = {**first, **others}
            parts += [f"**{name}**", compare(contest, methods, shown, seeds, OURS, digits=2, scale=100.0)]
            parts += [costs(contest, methods, budgets[0], seeds), failures(contest, methods, shown, seeds)]
        title = "A small ResNet on digits: 10, 4 and 2 % of the MACs, and few labels"
        write_section("digits", title, "\n\n".join(filter(None, parts)), quick=options.quick)


if __name__ == "__main__":
    exit_on_user_error(lambda: main(tyro.cli(Options, description=__doc__)))()
