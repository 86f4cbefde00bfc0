"""Is the structure worth anything without its weights? Found structures retrained from new weights.

    python -m experiments.benchmarks.scratch [--quick | --tables]

At 20 and 10 % of the MACs on text, at 10 and 4 % on digits, three seeds: the structure that DMS finds from random
weights (pipeline np, with a warm-up), the one it finds in a pretrained supernet, the same keep ratio everywhere (with
all blocks, and with blocks thinned, too), and random structures; on text also with the residual width, which is
otherwise left alone there, searched or thinned. All start from new weights and take equally many steps on equal
batches; what the searches cost comes on top and is in the table. About two hours and a half of one core.
"""

from __future__ import annotations

import dataclasses
from functools import partial

from experiments.benchmarks import choice, methods
from experiments.benchmarks.chapter import Comparison, heading, write_chapter
from experiments.benchmarks.command import Options, start
from experiments.benchmarks.comparison import always
from experiments.benchmarks.contest import Settings
from experiments.benchmarks.digits import digits_contest
from experiments.benchmarks.llama import QUICK_STEPS, text_contest, usual
from experiments.benchmarks.methods import Method

SEEDS = (0, 1, 2)
OURS = "DMS, from random weights"
TEXT_BUDGETS, DIGITS_BUDGETS = (0.2, 0.1), (0.1, 0.04)
TEXT_STEPS, DIGITS_STEPS = 1200, 800
WARMUP_SHARE = 0.8
"""Of a search from random weights: its later layers look useless until the network has learned something."""
RANDOM_SEARCH_SHARE = 0.625
"""Length of such a search as a share of the retraining."""


def main(options: Options) -> None:
    text = text_contest(options)
    best = usual(text, options)
    if options.quick:
        tasks = [(text, (0.5,), dict(list(structures(QUICK_STEPS, best).items())[:2]))]
    else:
        tasks = [
            (text, TEXT_BUDGETS, structures(TEXT_STEPS, best) | residual(TEXT_STEPS, best)),
            (digits_contest(options), DIGITS_BUDGETS, structures(DIGITS_STEPS, best)),
        ]
    seeds = always((choice.SEED,) if options.quick else SEEDS)
    comparisons = [
        Comparison(heading(contest), contest, compared, budgets, seeds, OURS) for contest, budgets, compared in tasks
    ]
    try:
        for comparison in comparisons:
            asked = [cell for budget in comparison.budgets for cell in comparison.asked(budget)]
            comparison.contest.fill(f"scratch, {comparison.contest.task.name}", asked)
    finally:
        opening = (
            "`python -m experiments.benchmarks.scratch`: every structure retrained from new weights; lower is better."
        )
        write_chapter("scratch", "Found structures retrained from new weights", opening, comparisons, options)


def structures(steps: int, best: Settings) -> dict[str, Method]:
    """Label -> settings; `best` searches in a pretrained supernet."""
    return {
        OURS: partial(methods.at, unpretrained(steps, best)),
        "DMS, from a pretrained supernet": partial(
            methods.at, dataclasses.replace(best, steps=steps, retrain="scratch")
        ),
        **methods.rules(["uniform", "uniform, layers too", "random"], steps, retrain="scratch"),
    }


def residual(steps: int, best: Settings) -> dict[str, Method]:
    """A thinner residual stream as well, for a task that leaves it alone."""
    even = Settings("uniform", 1.0, steps, retrain="scratch")
    found = {f"{OURS}, residual width too": unpretrained(steps, best), "uniform, residual width too": even}
    return {label: partial(methods.at, dataclasses.replace(s, residual=True)) for label, s in found.items()}


def unpretrained(steps: int, best: Settings) -> Settings:
    """A search from random weights."""
    length = round(RANDOM_SEARCH_SHARE * steps)
    return dataclasses.replace(
        best, steps=steps, retrain="scratch", pretrained=False, search_steps=length, warmup=round(WARMUP_SHARE * length)
    )


if __name__ == "__main__":
    start(main, __doc__)
