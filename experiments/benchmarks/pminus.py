"""The paper's Table 2 in small: structure parameters alone, on a pretrained network, with nothing retrained.

    python -m experiments.benchmarks.pminus [--quick | --tables]

Every strategy has 300 steps in which the weights stay as they are (pipeline p-); the structure found is cut out of the
pretrained network and measured as it is. BatchNorm's statistics are measured anew on 50 batches, for every method. Text
at 75 and 50 % of the MACs, digits at 50 and 25 %, three seeds; the rate of every strategy is chosen at the smaller
budget by its validation score on two seeds of its own, from three that are widened where the end was best. About three
hours of one core. Shows how well a method finds what a network can do without; not how good the result is after
finetuning.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from experiments.benchmarks import choice, methods
from experiments.benchmarks.chapter import Comparison, heading, write_chapter
from experiments.benchmarks.command import Contest, Options, start
from experiments.benchmarks.comparison import always, percent
from experiments.benchmarks.digits import digits_contest
from experiments.benchmarks.llama import text_contest
from experiments.benchmarks.methods import OURS, SEARCHED, Methods

SEEDS = (0, 1, 2)
STEPS, QUICK_STEPS = 300, 2
TEXT_BUDGETS, DIGITS_BUDGETS = (0.75, 0.5), (0.5, 0.25)


def frozen_methods(contest: Contest, grids: choice.Grids, rules: Sequence[str]) -> Methods:
    """The best candidates as they are known, and what needs no search."""
    best = {label: choice.best(contest, grid) for label, grid in grids.items()}
    return {
        **{label: partial(methods.at, settings) for label, settings in best.items()},
        **methods.rules(rules, 0, retrain="none"),
        **methods.unpruned(0, retrain="none"),
    }


def main(options: Options) -> None:
    quick = options.quick
    names = {OURS: SEARCHED[OURS]} if quick else SEARCHED
    rules = ["uniform"] if quick else ["one Taylor threshold", "uniform", "uniform, by Taylor", "random"]
    seeds, tried = ((choice.SEED,), (choice.SEED,)) if quick else (SEEDS, choice.SEEDS)
    steps, rates = (QUICK_STEPS, (1.0,)) if quick else (STEPS, choice.RATES)
    parts = []
    for contest, budgets in ((text_contest(options), TEXT_BUDGETS), (digits_contest(options), DIGITS_BUDGETS)):
        grids = choice.rate_grids(names, budgets[-1], steps, steps, retrain="none", rates=rates)
        budgets = budgets[-1:] if quick else budgets
        parts.append((contest, budgets, grids))

    def comparison(contest: Contest, budgets: Sequence[float], grids: choice.Grids) -> Comparison:
        return Comparison(heading(contest), contest, frozen_methods(contest, grids, rules), budgets, always(seeds))

    try:
        for contest, budgets, grids in parts:
            for label, candidates in grids.items():
                choice.settle(contest, label, candidates, tried)
            compared = comparison(contest, budgets, grids)
            contest.fill(f"pminus, {contest.task.name}", [cell for b in budgets for cell in compared.asked(b)])
    finally:
        opening = "`python -m experiments.benchmarks.pminus`: nothing retrained; lower is better, "
        opening += "means ± standard errors over seeds."
        more = [choice.RATES_OPENING]
        for contest, budgets, grids in parts:
            more += [f"{contest.task.data}, {percent(budgets[-1])} of the MACs", choice.grids_table(contest, grids)]
        title, comparisons = "Structure parameters alone, nothing retrained", [comparison(*part) for part in parts]
        write_chapter("pminus", title, opening, comparisons, options, more)


if __name__ == "__main__":
    start(main, __doc__)
