"""Is the structure worth anything without its weights? Found structures retrained from new weights.

    python -m benchmarks.scratch [--quick | --tables]

At 20 and 10 % of the MACs on text, at 10 and 4 % on digits, three seeds: the structure that DMS finds in a pretrained
supernet, the one it finds from random weights (pipeline np, with a warm-up), the same keep ratio everywhere (with all
blocks, with blocks thinned, too, and with the residual width that is otherwise left alone on text), and random
structures. All start from new weights and take equally many steps on equal batches; what the searches cost comes on top
and is in the table. About an hour and a half on one core.
"""

from __future__ import annotations

import dataclasses
from functools import partial

from benchmarks import choice, methods
from benchmarks.command import Options, start, write_section
from benchmarks.comparison import always, tables
from benchmarks.contest import Settings
from benchmarks.digits import digits_contest
from benchmarks.llama import QUICK_STEPS, text_contest, usual
from benchmarks.methods import Method

SEEDS = (0, 1, 2)
OURS = "DMS, from a pretrained supernet"
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
        seeds, tasks = (choice.SEED,), [(text, (0.5,), dict(list(structures(QUICK_STEPS, best).items())[:2]))]
    else:
        seeds = SEEDS
        tasks = [
            (text, TEXT_BUDGETS, structures(TEXT_STEPS, best) | residual(TEXT_STEPS)),
            (digits_contest(options), DIGITS_BUDGETS, structures(DIGITS_STEPS, best)),
        ]
    parts = ["`python -m benchmarks.scratch`: every structure retrained from new weights; lower is better."]
    try:
        for contest, budgets, compared in tasks:
            asked = [(s(b), seed) for b in budgets for seed in seeds for s in compared.values()]
            contest.fill(f"scratch, {contest.task.name}", asked)
    finally:
        for contest, budgets, compared in tasks:
            parts += [f"**{contest.task.data}: {contest.task.unit.name}**"]
            parts += tables(contest, compared, budgets, always(seeds), OURS)
        title = "Found structures retrained from new weights"
        write_section("scratch", title, "\n\n".join(filter(None, parts)), quick=options.quick)


def residual(steps: int) -> dict[str, Method]:
    """A thinner residual stream as well, for a task that leaves it alone."""
    return {
        "uniform, residual width too": lambda budget: Settings(
            "uniform", budget, steps, retrain="scratch", residual=True
        )
    }


def structures(steps: int, best: Settings) -> dict[str, Method]:
    """Label -> settings."""
    found = dataclasses.replace(best, steps=steps, retrain="scratch")
    length = round(RANDOM_SEARCH_SHARE * steps)
    unpretrained = dataclasses.replace(
        found, pretrained=False, search_steps=length, warmup=round(WARMUP_SHARE * length)
    )
    return {
        OURS: partial(methods.at, found),
        **methods.rules(["uniform", "uniform, layers too", "random"], steps, retrain="scratch"),
        "DMS, from random weights": partial(methods.at, unpretrained),
    }


if __name__ == "__main__":
    start(main, __doc__)
