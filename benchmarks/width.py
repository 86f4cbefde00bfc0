"""What the residual width is worth: searched or thinned beside everything else, on text at 20 and 10 % of the MACs.

    python -m benchmarks.width [--quick | --tables]

The text task of `benchmarks.llama`, 800 steps in all from the same pretrained supernet, three seeds; DMS as
`benchmarks.llama` chose it, thinning evenly by magnitude and by Taylor importance, each with the residual width left
alone (cells that `benchmarks.frontier` has, too) and with it among what may shrink. About half an hour on one core.
Shows what one more dimension gives to a method; not how the other strategies do with it.
"""

from __future__ import annotations

import dataclasses
from functools import partial

from benchmarks import choice, methods
from benchmarks.chapter import Comparison, heading, write_chapter
from benchmarks.command import Options, start
from benchmarks.comparison import always
from benchmarks.contest import Settings
from benchmarks.llama import QUICK_STEPS, STEPS, text_contest, usual
from benchmarks.methods import OURS, Method

SEEDS = (0, 1, 2)
BUDGETS = (0.2, 0.1)
WIDE = "residual width too"


def main(options: Options) -> None:
    contest = text_contest(options)
    steps, budgets = (QUICK_STEPS, (0.5,)) if options.quick else (STEPS, BUDGETS)
    alone = {
        OURS: partial(methods.at, usual(contest, options)),
        **methods.rules(["uniform, by Taylor", "uniform"], steps),
    }
    both = {}
    for label, settings in alone.items():
        both |= {f"{label}, {WIDE}": partial(_wide, settings), label: settings}
    seeds = always((choice.SEED,) if options.quick else SEEDS)
    comparison = Comparison(heading(contest), contest, both, budgets, seeds, f"{OURS}, {WIDE}")
    try:
        contest.fill("width", [cell for budget in budgets for cell in comparison.asked(budget)])
    finally:
        opening = "`python -m benchmarks.width`: lower is better, means ± standard errors over seeds."
        write_chapter("width", "Searching the residual width, too", opening, [comparison], options)


def _wide(settings: Method, budget: float) -> Settings:
    return dataclasses.replace(settings(budget), residual=True)


if __name__ == "__main__":
    start(main, __doc__)
