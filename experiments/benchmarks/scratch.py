"""Is the structure worth anything without its weights? Found structures retrained from new weights.

    python -m experiments.benchmarks.scratch [--quick | --tables]

At 20 and 10 % of the MACs on text, at 10 and 4 % on digits, three seeds: the structure that Differentiable Model
Scaling (DMS) finds from random weights (pipeline np, with a warm-up; in the paper's setting, too), the one it finds in
a pretrained supernet, the same keep ratio everywhere (with all blocks, and with blocks thinned, too), and random
structures; on text also with the residual width, which is otherwise left alone there, searched or thinned. All start
from new weights and take equally many steps on equal batches; what the searches cost comes on top and is in the table.
About three hours of one core.
"""

from __future__ import annotations

import dataclasses
from functools import partial

from experiments.benchmarks import methods, tuning
from experiments.benchmarks.command import Options, start
from experiments.benchmarks.digits import digits_contest
from experiments.benchmarks.frontier import GRIDS, PAPERS, text_contest, usual
from experiments.benchmarks.methods import Methods
from experiments.benchmarks.sections import ABOUT, Comparison, always, heading, run
from experiments.benchmarks.settings import Settings

SEEDS = (0, 1, 2)
OURS = "DMS, from random weights"
THEIRS = f"{methods.PAPER}, from random weights"
FIRST = (OURS, THEIRS, "DMS, from a pretrained supernet", "uniform", "random")
TEXT_BUDGETS, DIGITS_BUDGETS = (0.2, 0.1), (0.1, 0.04)
TEXT_STEPS, DIGITS_STEPS = 1200, 800
WARMUP_SHARE = 0.8
"""Of a search from random weights: its later layers look useless until the network has learned something."""
RANDOM_SEARCH_SHARE = 0.625
"""Length of such a search as a share of the retraining."""


def structures(steps: int, best: Settings, paper: Settings) -> Methods:
    """Label -> settings; `best` and `paper` search in a pretrained supernet."""
    return {
        OURS: partial(methods.at, unpretrained(steps, best)),
        THEIRS: partial(methods.at, unpretrained(steps, paper)),
        "DMS, from a pretrained supernet": partial(
            methods.at, dataclasses.replace(best, steps=steps, retrain="scratch")
        ),
        **methods.rules(["uniform", "uniform, layers too", "random"], steps, retrain="scratch"),
    }


def unpretrained(steps: int, best: Settings) -> Settings:
    """A search from random weights."""
    length = round(RANDOM_SEARCH_SHARE * steps)
    return dataclasses.replace(
        best, steps=steps, retrain="scratch", pretrained=False, search_steps=length, warmup=round(WARMUP_SHARE * length)
    )


def main(options: Options) -> None:
    text, digits = text_contest(options), digits_contest(options)

    def paper() -> Settings:
        return tuning.best(text, PAPERS[methods.PAPER])

    def on_text() -> Methods:
        rows = structures(TEXT_STEPS, usual(text), paper())
        freed = {label: rows[label] for label in (OURS, "uniform")}
        return {**rows, **methods.changed(freed, ", residual width too", residual=True)}

    grids = {methods.OURS: GRIDS[methods.OURS]}
    comparisons = [
        Comparison(heading(text), text, on_text, TEXT_BUDGETS, always(SEEDS), OURS, grids),
        Comparison(
            heading(digits),
            digits,
            lambda: structures(DIGITS_STEPS, usual(text), paper()),
            DIGITS_BUDGETS,
            always(SEEDS),
            OURS,
        ),  # fmt: skip
    ]
    opening = f"every structure retrained from new weights; {ABOUT}{OURS}, is better."
    run("scratch", "Found structures retrained from new weights", opening, comparisons, options, headline=FIRST)


if __name__ == "__main__":
    start(main, __doc__)
