"""A ResNet-20 on scikit-learn's digits at 10, 4 and 2 % of its MACs, and at 4 % with 200 labelled images.

    python -m experiments.benchmarks.digits [--quick | --tables]

Ten seeds for Differentiable Model Scaling (DMS), uniform, one global Taylor threshold and the unpruned network, with
few labels for the paper's own setting, the strongest rival that learns a structure and the strongest rule, too; three
for all others: test error with its standard error over seeds, 800 steps in all after pretraining for everyone. With all
labels the digits are saturated down to 4 %; few labels tell methods apart. About half a minute a cell, three hours of
one core. Strategies search for a quarter of the steps. The rate of each is chosen with all labels at 4 % of the MACs,
by the cross-entropy of 200 validation images on two seeds of its own, from three that are widened where the end was
best.
"""

from __future__ import annotations

from collections.abc import Sequence

from experiments.benchmarks import methods, tuning
from experiments.benchmarks.command import Options, start
from experiments.benchmarks.digits_task import QUICK, QUICK_FEW, DigitsOptions, digits_task
from experiments.benchmarks.methods import FREE, NEWER, OURS, PAPER, PAPER_SETTING, SEARCHED, Methods
from experiments.benchmarks.protocol import Contest
from experiments.benchmarks.sections import ABOUT, Comparison, run

BUDGETS, FEW_LABELS_BUDGETS = (0.04, 0.02, 0.1), (0.04,)
FEW_LABELS = 200
STEPS, SEARCH_STEPS = 800, 200
MANY, FEW = tuple(range(10)), (0, 1, 2)
GRIDS = {
    OURS: tuning.grid(SEARCHED[OURS], STEPS, [SEARCH_STEPS], BUDGETS[0]),
    PAPER: tuning.grid(SEARCHED[OURS], STEPS, [SEARCH_STEPS], BUDGETS[0], **PAPER_SETTING),
    **{n: tuning.grid(name, STEPS, [SEARCH_STEPS], BUDGETS[0]) for n, name in {**SEARCHED, **NEWER}.items()},
}
KNAPSACK, EVOLUTION = "knapsack of Taylor importance", "evolution"
SIMPLEX = "projection onto the capped simplex"
HEADLINE = (OURS, PAPER, SIMPLEX, "iterative threshold", *NEWER, "one Taylor threshold", KNAPSACK, EVOLUTION,
            "uniform", "uniform, by Taylor", "unpruned, trained on")  # fmt: skip
FIRST = (OURS, FREE, "uniform", "one Taylor threshold", "unpruned, trained on")
"""Those of ten seeds."""
FIRST_FEW = (*FIRST, PAPER, "iterative threshold", "uniform, by Taylor")
"""And with few labels."""
LATER = (*NEWER, KNAPSACK, EVOLUTION)
"""Those with cells at the middle budget alone."""


def digits_contest(options: Options, labels: int = 0) -> Contest:
    """Cells on the digits, with all labels or a few."""
    small = QUICK_FEW if labels else QUICK
    return Contest(digits_task(small if options.quick else DigitsOptions(labels=labels)), options)


def main(options: Options) -> None:
    full, few = digits_contest(options), digits_contest(options, FEW_LABELS)

    def rows() -> Methods:
        names = ["uniform", "one Taylor threshold", "uniform, by Taylor", "uniform, layers too", KNAPSACK, EVOLUTION]
        found = {
            **methods.rules(names, STEPS),
            **methods.unpruned(STEPS),
            **methods.slackened(tuning.searched(full, GRIDS)),
        }
        return {label: found[label] for label in dict.fromkeys([*FIRST, *found])}

    def seeds(label: str, budget: float) -> Sequence[int]:
        if label in LATER and budget != BUDGETS[0]:
            return ()
        return MANY if label in FIRST else FEW

    comparisons = [
        Comparison("all labels", full, rows, BUDGETS, seeds, grids=GRIDS),
        Comparison(
            f"{FEW_LABELS} labels", few, rows, FEW_LABELS_BUDGETS, lambda label, _: MANY if label in FIRST_FEW else FEW
        ),
    ]
    title = "A small ResNet on digits: 10, 4 and 2 % of the MACs, and few labels"
    opening = f"test error in per cent on scikit-learn's digits; {ABOUT}{OURS} is better."
    more = lambda: {tuning.OPENING: tuning.grids_table(full, GRIDS)}  # noqa: E731
    run("digits", title, opening, comparisons, options, more, HEADLINE)


if __name__ == "__main__":
    start(main, __doc__)
