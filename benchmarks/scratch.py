"""Is the structure worth anything without its weights? Found structures retrained from new weights.

    python -m benchmarks.scratch [--quick | --tables]

At 20 and 10 % of the MACs on text, at 10 and 4 % on digits, three seeds: the structure that DMS finds in a pretrained
supernet, the one it finds from random weights (pipeline np, with a warm-up), the same keep ratio everywhere (with all
blocks, and with blocks thinned, too), and random structures. All start from new weights and take equally many steps on
equal batches; what the searches cost comes on top and is in the table. About an hour and a half on one core.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import tyro

from benchmarks import choice
from benchmarks.command import Contest, Options, write_section
from benchmarks.comparison import Methods, compare, costs, failures
from benchmarks.contest import Settings
from benchmarks.digits import digits_contest
from benchmarks.llama import QUICK_STEPS, STEPS, text_contest
from dms_jax.errors import exit_on_user_error

SEEDS = (0, 1, 2)
OURS = "DMS, from a pretrained supernet"
TEXT_BUDGETS, DIGITS_BUDGETS = (0.2, 0.1), (0.1, 0.04)
TEXT_STEPS, DIGITS_STEPS = 1200, 800
WARMUP_SHARE = 0.8
"""Of a search from random weights: its later layers look useless until the network has learned something."""
RANDOM_SEARCH_SHARE = 0.625
"""Length of such a search as a share of the retraining."""


def main(options: Options) -> None:
    tasks = [
        (text_contest(options), TEXT_BUDGETS, TEXT_STEPS, "bits per byte", 1.0, 3),
        (digits_contest(options), DIGITS_BUDGETS, DIGITS_STEPS, "test error, %", 100.0, 2),
    ]
    tasks = tasks[:1] if options.quick else tasks
    seeds = (choice.SEED,) if options.quick else SEEDS
    quick = Settings("dms", 0.5, QUICK_STEPS, search_steps=2, rate=5.0)
    best = quick if options.quick else choice.choose(tasks[0][0], "dms", STEPS)
    parts = ["`python -m benchmarks.scratch`: every structure retrained from new weights; lower is better."]
    try:
        for contest, budgets, steps, *_ in tasks:
            methods = structures(QUICK_STEPS if options.quick else steps, best, options.quick)
            asked = [(s(b), seed) for b in _few(budgets, options) for seed in seeds for s in methods.values()]
            contest.fill(f"scratch, {contest.task.name}", asked)
    finally:
        for contest, budgets, steps, unit, scale, digits in tasks:
            methods = structures(QUICK_STEPS if options.quick else steps, best, options.quick)
            parts += [f"**{contest.task.data}: {unit}**", *_tables(contest, methods, budgets, seeds, scale, digits)]
        title = "Found structures retrained from new weights"
        write_section("scratch", title, "\n\n".join(filter(None, parts)), quick=options.quick)


def structures(steps: int, best: Settings, quick: bool) -> Methods:
    """Label -> settings; a quick run has two."""
    found = dataclasses.replace(best, steps=steps, retrain="scratch")
    length = round(RANDOM_SEARCH_SHARE * steps)
    unpretrained = dataclasses.replace(
        found, pretrained=False, search_steps=length, warmup=round(WARMUP_SHARE * length)
    )

    def plain(strategy: str, budget: float) -> Settings:
        return Settings(strategy, budget, steps, retrain="scratch")

    methods: Methods = {
        OURS: lambda b: choice.at(found, b),
        "uniform": lambda b: plain("uniform", b),
        "uniform, layers too": lambda b: plain("uniform_depth", b),
        "random": lambda b: plain("random", b),
        "DMS, from random weights": lambda b: choice.at(unpretrained, b),
    }
    return dict(list(methods.items())[:2]) if quick else methods


def _few(budgets: Sequence[float], options: Options) -> Sequence[float]:
    return (0.5,) if options.quick else budgets


def _tables(
    contest: Contest, methods: Methods, budgets: Sequence[float], seeds: Sequence[int], scale: float, digits: int
) -> list[str]:
    def of(label: str, budget: float) -> Sequence[int]:
        return seeds

    return [
        compare(contest, methods, budgets, of, OURS, scale=scale, digits=digits),
        costs(contest, methods, budgets[0], of),
        failures(contest, methods, budgets, of),
    ]


if __name__ == "__main__":
    exit_on_user_error(lambda: main(tyro.cli(Options, description=__doc__)))()
