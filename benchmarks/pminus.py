"""The paper's Table 2 in small: structure parameters alone, on a pretrained network, with nothing retrained.

    python -m benchmarks.pminus [--quick | --tables]

Every strategy has 300 steps in which the weights stay as they are (pipeline p-); the structure found is cut out of the
pretrained network and measured as it is. BatchNorm's statistics are measured anew on 50 batches, for every method.
Text at 75 and 50 % of the MACs, digits at 50 and 25 %, three seeds: about 50 minutes on one core. Shows how well a
method finds what a network can do without; not how good the result is after finetuning.
"""

from __future__ import annotations

from benchmarks import choice, methods
from benchmarks.chapter import Comparison, heading, write_chapter
from benchmarks.command import Options, start
from benchmarks.comparison import always
from benchmarks.digits import digits_contest
from benchmarks.llama import text_contest
from benchmarks.methods import OURS, Methods

SEEDS = (0, 1, 2)
STEPS, QUICK_STEPS = 300, 2
TEXT_BUDGETS, DIGITS_BUDGETS = (0.75, 0.5), (0.5, 0.25)


def frozen_methods(steps: int) -> Methods:
    """Strategies that leave the weights alone."""
    return {
        **methods.searched(steps, steps, retrain="none"),
        **methods.rules(["one Taylor threshold", "uniform", "uniform, by Taylor", "random"], 0, retrain="none"),
        **methods.unpruned(0, retrain="none"),
    }


def main(options: Options) -> None:
    compared = frozen_methods(QUICK_STEPS if options.quick else STEPS)
    compared = {label: compared[label] for label in (OURS, "uniform")} if options.quick else compared
    seeds = always((choice.SEED,) if options.quick else SEEDS)
    tasks = [(text_contest(options), TEXT_BUDGETS), (digits_contest(options), DIGITS_BUDGETS)]
    comparisons = [
        Comparison(heading(contest), contest, compared, budgets[-1:] if options.quick else budgets, seeds)
        for contest, budgets in tasks
    ]
    try:
        for comparison in comparisons:
            asked = [cell for budget in comparison.budgets for cell in comparison.asked(budget)]
            comparison.contest.fill(f"pminus, {comparison.contest.task.name}", asked)
    finally:
        opening = (
            "`python -m benchmarks.pminus`: nothing retrained; lower is better, means ± standard errors over seeds."
        )
        write_chapter("pminus", "Structure parameters alone, nothing retrained", opening, comparisons, options)


if __name__ == "__main__":
    start(main, __doc__)
