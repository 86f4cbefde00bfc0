"""Choosing how a strategy searches: a small grid on two extra seeds at 20 %, by its validation score alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks import methods
from benchmarks.command import Contest, table
from benchmarks.contest import Settings

SEED, SEEDS = 99, (99, 98)
"""Not among the seeds that are reported; quick runs take the first alone."""
BUDGET = 0.2
SEARCH_SHARES = (0.125, 0.25)
"""Of all steps: 100 and 200 of 800."""
RATES = (0.5, 1.0, 2.0)
"""Times the rate that a strategy has by itself."""


def grid(strategy: str, steps: int, budget: float = BUDGET) -> list[Settings]:
    """The candidates of one strategy that searches; one that learns no structure has no rate to choose."""
    rates, own = (1.0,) if strategy == "iterative" else RATES, methods.own(strategy)
    return [
        Settings(strategy, budget, steps, round(share * steps), **own | {"rate": own["rate"] * rate})
        for share in SEARCH_SHARES
        for rate in rates
    ]


def choose(contest: Contest, strategy: str, steps: int) -> Settings:
    """Compute what is missing of a strategy's grid, and return the best candidate."""
    candidates = grid(strategy, steps)
    contest.fill(f"how {strategy} searches", [(c, seed) for seed in SEEDS for c in candidates])
    return chosen(contest, candidates)


def chosen(contest: Contest, candidates: Sequence[Settings]) -> Settings:
    """The candidate of the best validation score; the first one while there are no scores."""
    scores = scores_of(contest, candidates)
    return min(scores, key=lambda c: scores[c]) if scores else candidates[0]


def scores_of(contest: Contest, candidates: Sequence[Settings]) -> dict[Settings, float]:
    """The mean validation score of the candidates that have one for as many seeds as any of them has."""
    found = {c: contest.values(c, SEEDS, "valid") for c in candidates}
    most = max(len(scores) for scores in found.values())
    return {c: sum(s.values()) / most for c, s in found.items() if most and len(s) == most}


def grid_table(contest: Contest, grids: Mapping[str, Sequence[Settings]]) -> str:
    """Validation scores of all candidates, the chosen ones bold."""
    rows, unit = [], contest.task.unit
    for label, candidates in grids.items():
        best, scores = chosen(contest, candidates), scores_of(contest, candidates)
        for c in candidates:
            score = scores.get(c)
            text = "-" if score is None else f"{unit.scale * score:.{unit.digits}f}"
            rows.append([label, str(c.search_steps), f"{c.rate:g}", f"**{text}**" if c == best else text])
    return table(["strategy", "search steps", "rate x steps", "validation score"], rows)
