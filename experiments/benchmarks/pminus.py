"""The paper's Table 2 in small: structure parameters alone, on a pretrained network, with nothing retrained.

    python -m experiments.benchmarks.pminus [--quick | --tables]

Every strategy but the newest (`methods.NEWER`), and Differentiable Model Scaling (DMS) in the paper's setting, has 300
steps in which the weights stay as they are (pipeline p-); the structure found is cut out of the pretrained network and
measured as it is. BatchNorm's statistics are measured anew on 50 batches, for every method. Text at 75 and 50 % of the
MACs, digits at 50 and 25 %, three seeds; the rate of every strategy is chosen at the smaller budget by its validation
score on two seeds of its own, from three that are widened where the end was best. About three hours of one core. Shows
how well a method finds what a network can do without; not how good the result is after finetuning.
"""

from __future__ import annotations

from collections.abc import Sequence

from experiments.benchmarks import methods, tuning
from experiments.benchmarks.command import Options, start
from experiments.benchmarks.digits import digits_contest
from experiments.benchmarks.frontier import text_contest
from experiments.benchmarks.methods import OURS, PAPER, PAPER_SETTING, SEARCHED
from experiments.benchmarks.protocol import Contest
from experiments.benchmarks.sections import ABOUT, Comparison, always, heading, run
from experiments.benchmarks.tables import percent

SEEDS = (0, 1, 2)
STEPS = 300
TEXT_BUDGETS, DIGITS_BUDGETS = (0.75, 0.5), (0.5, 0.25)
RULES = ["one Taylor threshold", "uniform", "uniform, by Taylor", "random"]
HEADLINE = (
    OURS, PAPER, "projection onto the capped simplex", "iterative threshold", "one Taylor threshold", "uniform",
    "unpruned",
)  # fmt: skip


def comparison(contest: Contest, budgets: Sequence[float]) -> Comparison:
    """All methods on one task."""
    grids = {label: tuning.grid(n, STEPS, [STEPS], budgets[-1], retrain="none") for label, n in SEARCHED.items()}
    paper = tuning.grid(SEARCHED[OURS], STEPS, [STEPS], budgets[-1], retrain="none", **PAPER_SETTING)
    grids = {OURS: grids.pop(OURS), PAPER: paper, **grids}
    simple = {**methods.rules(RULES, 0, retrain="none"), **methods.unpruned(0, retrain="none")}
    return Comparison(
        heading(contest), contest, lambda: {**tuning.searched(contest, grids), **simple}, budgets, always(SEEDS),
        grids=grids,
    )  # fmt: skip


def main(options: Options) -> None:
    parts = [comparison(text_contest(options), TEXT_BUDGETS), comparison(digits_contest(options), DIGITS_BUDGETS)]
    run(
        "pminus", "Structure parameters alone, nothing retrained", f"nothing retrained; {ABOUT}{OURS} is better.",
        parts, options,
        lambda: {
            tuning.OPENING: "",
            **{
                f"{part.contest.task.data}, {percent(part.budgets[-1])} of the MACs":
                tuning.grids_table(part.contest, part.grids) for part in parts
            },
        },
        HEADLINE,
    )  # fmt: skip


if __name__ == "__main__":
    start(main, __doc__)
