"""What the residual width is worth: searched or thinned beside everything else, on text at 20 and 10 % of the MACs.

    python -m experiments.benchmarks.width [--quick | --tables]

The text task of `experiments.benchmarks.llama`, 800 steps in all from the same pretrained supernet, three seeds; DMS as
`llama` chose it, thinning evenly by magnitude and by Taylor importance, each with the residual width left
alone (cells that `frontier` has, too) and with it among what may shrink; the other strategies with the same
freedom, searching as `frontier` chose it, and the best of all depths of even networks. About two hours of
one core. Shows what one more dimension gives to a method; rates were chosen without it.
"""

from __future__ import annotations

import dataclasses
from functools import partial

from experiments.benchmarks import choice, methods
from experiments.benchmarks.chapter import Comparison, heading, write_chapter
from experiments.benchmarks.command import Contest, Options, start
from experiments.benchmarks.comparison import always
from experiments.benchmarks.contest import Settings
from experiments.benchmarks.llama import QUICK_STEPS, STEPS, text_contest, usual
from experiments.benchmarks.methods import OURS, SEARCHED, Method, Methods

SEEDS = (0, 1, 2)
BUDGETS = (0.1, 0.2)
WIDE = "residual width too"


def main(options: Options) -> None:
    contest = text_contest(options)
    steps, budgets = (QUICK_STEPS, (0.5,)) if options.quick else (STEPS, BUDGETS)
    alone = {
        OURS: partial(methods.at, usual(contest, options)),
        **methods.rules(["uniform, by Taylor", "uniform"], steps),
    }
    both: dict[str, Method] = {}
    for label, settings in alone.items():
        both |= {f"{label}, {WIDE}": partial(_wide, settings), label: settings}
    others = {} if options.quick else {f"{label}, {WIDE}": settings for label, settings in _others(contest).items()}
    seeds = always((choice.SEED,) if options.quick else SEEDS)
    comparison = Comparison(heading(contest), contest, {**both, **others}, budgets, seeds, f"{OURS}, {WIDE}")
    try:
        for budget in budgets if others else ():
            choice.fill_depths(contest, budget, STEPS, residual=True)
        contest.fill("width", [cell for budget in budgets for cell in comparison.asked(budget)])
    finally:
        more: list[str] = []
        if others:
            more.append("The depth of even networks whose residual width shrinks, too, by validation score (bold):")
            more.append(choice.depths_table(contest, comparison.shown, STEPS, residual=True))
        title = "Searching the residual width, too"
        opening = "`python -m experiments.benchmarks.width`: lower is better, means ± standard errors over seeds."
        write_chapter("width", title, opening, [comparison], options, more)


def _others(contest: Contest) -> Methods:
    """All other strategies, those of no search among them, with the residual width."""
    searched = {
        label: partial(methods.at, choice.best(contest, choice.grid(name, STEPS)))
        for label, name in SEARCHED.items()
        if label != OURS
    }
    thinned = {**searched, **methods.rules(["one Taylor threshold"], STEPS)}
    wide = {label: partial(_wide, settings) for label, settings in thinned.items()}
    return {**wide, **choice.layered(contest, STEPS, residual=True)}


def _wide(settings: Method, budget: float) -> Settings:
    return dataclasses.replace(settings(budget), residual=True)


if __name__ == "__main__":
    start(main, __doc__)
