"""Every strategy on equal terms: bits per byte of a small Llama over its MACs, from 50 to 10 %.

    python -m experiments.benchmarks.frontier [--quick | --tables]

A decoder of bytes is pretrained on the source of the Python standard library. Every strategy of `dms_jax.baselines`,
rules without a search, and the unpruned network take 800 steps in all from the same supernet: ten seeds for the rows
that a reader looks at first, five at 20 % of the MACs for all others and three at 50 and 10 %. How long each strategy
searches and at which rate is chosen by its validation score on two seeds of its own at 20 %, from a grid of the same
size for all that have a rate, widened where its end was best (for Differentiable Model Scaling, DMS, from searches
without slack); the depth of the strongest rule at every budget, from all there are. About fourteen hours of one core.
Shows who is ahead where and by how much; a single small network and one kind of text are no proof for others.
"""

from __future__ import annotations

from collections.abc import Sequence

from experiments.benchmarks import methods, tuning
from experiments.benchmarks.command import Options, start
from experiments.benchmarks.methods import NEWER, OURS, PAPER, PAPER_SETTING, SEARCHED, Methods
from experiments.benchmarks.protocol import Contest
from experiments.benchmarks.sections import ABOUT, Comparison, heading, run
from experiments.benchmarks.settings import Settings
from experiments.benchmarks.tables import percent
from experiments.benchmarks.text_task import QUICK, TextOptions, text_task

BUDGETS = (0.2, 0.1, 0.5)
FIRST = (
    OURS,
    PAPER,
    "projection onto the capped simplex",
    "one Taylor threshold",
    "uniform, by Taylor",
    tuning.LAYERED,
)
"""Those of ten seeds: ours, the paper's, the strongest rival that learns, and the rules."""
STEPS = 800
PAPER_STEPS = 100
"""Of the search in the paper's setting: the length that was chosen for ours."""
HEADLINE = (
    *dict.fromkeys([OURS, PAPER, *SEARCHED, *NEWER]),
    "one Taylor threshold",
    "knapsack of Taylor importance",
    "evolution",
    "uniform",
    tuning.LAYERED,
    "unpruned, trained on",
)
LESS, LESS_STEPS = f"{OURS}, or a block less", 100
"""The better one, by validation, of what a search found and of the same without its weakest block, both finetuned for
so many steps; those of the other come on top of `STEPS`."""
LOWEST = 0.1
"""The budget at which that is asked: nearly all of it is what layers cost before they have any width."""
GRIDS = {label: tuning.grid(name, STEPS) for label, name in SEARCHED.items()}
NEWEST = {label: tuning.grid(name, STEPS) for label, name in NEWER.items()}
PAPERS = {PAPER: tuning.grid("dms", STEPS, [PAPER_STEPS], **PAPER_SETTING)}


def text_contest(options: Options) -> Contest:
    """Cells on the common text task."""
    return Contest(text_task(QUICK if options.quick else TextOptions()), options)


def seeds(label: str, budget: float) -> Sequence[int]:
    """Of a row at a budget."""
    if label == LESS:
        return range(10 if budget == LOWEST else 0)
    return range(10 if label in FIRST else 5 if budget == tuning.BUDGET else 3)


def usual(contest: Contest) -> Settings:
    """How DMS searches, as far as it is chosen."""
    return tuning.best(contest, GRIDS[OURS])


def main(options: Options) -> None:
    contest = text_contest(options)
    depths = tuning.Depths(contest, STEPS)
    grids = {OURS: GRIDS[OURS], **PAPERS, **GRIDS, **NEWEST}

    def rows() -> Methods:
        names = ["random", "uniform", "uniform, by Taylor", "uniform, layers too", "one Taylor threshold"]
        names += ["knapsack of Taylor importance", "evolution"]
        found = methods.slackened(tuning.searched(contest, grids))
        less = methods.changed({LESS: found[OURS]}, "", horizon=LESS_STEPS, beside="one block less")
        return {
            OURS: found[OURS],
            **less,
            **found,
            **methods.rules(names, STEPS),
            tuning.LAYERED: depths.best,
            **methods.unpruned(STEPS),
        }

    comparison = Comparison(heading(contest), contest, rows, BUDGETS, seeds, grids=grids, depths=depths)
    run(
        "frontier", "A small Llama: every strategy on equal terms",
        f"{contest.task.unit.name}, files not trained on; {ABOUT}{OURS} is better.", [comparison], options,
        lambda: {
            "What searches were chosen from, by validation score (bold) at "
            f"{percent(tuning.BUDGET)} of the MACs on seeds of their own:": tuning.grids_table(contest, grids),
            "And the depth of even networks, at every budget:": depths.table(comparison.shown),
        },
        HEADLINE,
    )  # fmt: skip


if __name__ == "__main__":
    start(main, __doc__)
