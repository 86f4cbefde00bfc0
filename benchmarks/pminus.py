"""The paper's Table 2 in small: structure parameters alone, on a pretrained network, with nothing retrained.

    python -m benchmarks.pminus [--quick | --tables]

Every strategy has 300 steps in which the weights stay as they are (pipeline p-); the structure found is cut out of the
pretrained network and measured as it is. BatchNorm's statistics are measured anew on 50 batches, for every method.
Text at 75 and 50 % of the MACs, digits at 50 and 25 %, three seeds: about 50 minutes on one core. Shows how well a
method finds what a network can do without; not how good the result is after finetuning.
"""

from __future__ import annotations

from collections.abc import Sequence

import tyro

from benchmarks import choice
from benchmarks.command import Options, write_section
from benchmarks.comparison import Methods, compare, costs, failures
from benchmarks.contest import CONTROL, Settings
from benchmarks.digits import digits_contest
from benchmarks.frontier import SEARCHED
from benchmarks.llama import OURS, text_contest
from dms_jax import strategies
from dms_jax.errors import exit_on_user_error

SEEDS = (0, 1, 2)
STEPS, QUICK_STEPS = 300, 2
TEXT_BUDGETS, DIGITS_BUDGETS = (0.75, 0.5), (0.5, 0.25)


def frozen_methods(steps: int) -> Methods:
    """Strategies that leave the weights alone."""

    def searched(strategy: str, budget: float) -> Settings:
        return Settings(strategy, budget, steps, steps, strategies.create(strategy).rate, retrain="none")

    def plain(strategy: str, budget: float) -> Settings:
        return Settings(strategy, budget, 0, retrain="none")

    return {
        **{label: (lambda b, name=name: searched(name, b)) for label, name in SEARCHED.items()},
        "one Taylor threshold": lambda b: plain("threshold", b),
        "uniform": lambda b: plain("uniform", b),
        "random": lambda b: plain("random", b),
        "unpruned": lambda b: plain(CONTROL, 1.0),
    }


def main(options: Options) -> None:
    tasks = [
        (text_contest(options), TEXT_BUDGETS, "bits per byte", 1.0, 3),
        (digits_contest(options), DIGITS_BUDGETS, "test error, %", 100.0, 2),
    ]
    methods = frozen_methods(QUICK_STEPS if options.quick else STEPS)
    kept = [OURS, "uniform"] if options.quick else list(methods)
    methods = {label: methods[label] for label in kept}
    seeds = (choice.SEED,) if options.quick else SEEDS

    def of(label: str, budget: float) -> Sequence[int]:
        return seeds

    parts = ["`python -m benchmarks.pminus`: nothing retrained; lower is better, means ± standard errors over seeds."]
    try:
        for contest, budgets, *_ in tasks:
            asked = [(s(b), seed) for b in budgets[-1:] if options.quick for seed in seeds for s in methods.values()]
            asked = asked or [(s(b), seed) for b in budgets for seed in seeds for s in methods.values()]
            contest.fill(f"pminus, {contest.task.name}", asked)
    finally:
        for contest, budgets, unit, scale, digits in tasks:
            parts += [f"**{contest.task.data}: {unit}**"]
            parts += [compare(contest, methods, budgets, of, OURS, scale=scale, digits=digits)]
            parts += [costs(contest, methods, budgets[0], of), failures(contest, methods, budgets, of)]
        title = "Structure parameters alone, nothing retrained"
        write_section("pminus", title, "\n\n".join(filter(None, parts)), quick=options.quick)


if __name__ == "__main__":
    exit_on_user_error(lambda: main(tyro.cli(Options, description=__doc__)))()
