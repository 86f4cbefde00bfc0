"""What the residual width is worth: searched or thinned beside everything else, on text at 20 and 10 % of the MACs.

    python -m experiments.benchmarks.width [--quick | --tables]

The text task of `frontier`, 800 steps in all from the same pretrained supernet, three seeds, five for the rows at 10 %
that are read first; Differentiable Model Scaling (DMS), thinning evenly by magnitude and by Taylor importance, each
with the residual width left alone (cells that `frontier` has, too) and with it among what may shrink; the other
strategies with the same freedom, and the best of all depths of even networks. All search as `frontier` chose it. About
three hours of one core. Shows what one more dimension gives to a method; rates were chosen without it.
"""

from __future__ import annotations

from collections.abc import Sequence

from experiments.benchmarks import methods, tuning
from experiments.benchmarks.command import Options, start
from experiments.benchmarks.frontier import GRIDS, PAPERS, STEPS, text_contest
from experiments.benchmarks.methods import OURS, PAPER, Methods
from experiments.benchmarks.sections import ABOUT, Comparison, heading, run

BUDGETS = (0.1, 0.2)
WIDE = ", residual width too"
SIMPLEX, THRESHOLD = "projection onto the capped simplex", "one Taylor threshold"
FIRST = tuple(f"{label}{WIDE}" for label in (OURS, PAPER, SIMPLEX, THRESHOLD, tuning.LAYERED))
"""Those of five seeds at the lowest budget."""


def seeds(label: str, budget: float) -> Sequence[int]:
    """Of a row at a budget."""
    return range(5 if label in FIRST and budget == BUDGETS[0] else 3)


def main(options: Options) -> None:
    contest = text_contest(options)
    depths = tuning.Depths(contest, STEPS, residual=True)

    def rows() -> Methods:
        searched = tuning.searched(contest, {**GRIDS, **PAPERS})
        both = {OURS: searched[OURS], **methods.rules(["uniform, by Taylor", "uniform"], STEPS)}
        found: Methods = {}
        for label, method in both.items():
            found = {**found, **methods.changed({label: method}, WIDE, residual=True), label: method}
        others = {label: method for label, method in searched.items() if label not in both}
        others |= methods.rules([THRESHOLD], STEPS)
        return {**found, **methods.changed(others, WIDE, residual=True), f"{tuning.LAYERED}{WIDE}": depths.best}

    grids = {OURS: GRIDS[OURS]}
    comparison = Comparison(heading(contest), contest, rows, BUDGETS, seeds, f"{OURS}{WIDE}", grids, depths)
    about = "The depth of even networks whose residual width shrinks, too, by validation score (bold):"
    run(
        "width", "Searching the residual width, too", f"{ABOUT}{OURS}{WIDE}, is better.", [comparison], options,
        lambda: {about: depths.table(comparison.shown)},
        (f"{OURS}{WIDE}", f"{PAPER}{WIDE}", OURS, f"{SIMPLEX}{WIDE}", f"{tuning.LAYERED}{WIDE}"),
    )  # fmt: skip


if __name__ == "__main__":
    start(main, __doc__)
