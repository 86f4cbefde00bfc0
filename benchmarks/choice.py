"""Choosing how a strategy searches: a small grid on one extra seed at 20 %, by its validation score alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.command import Contest, table
from benchmarks.contest import Settings
from dms_jax import strategies

SEED = 99
"""Not among the seeds that are reported."""
BUDGET = 0.2
SEARCH_SHARES = (0.125, 0.25)
"""Of all steps: 100 and 200 of 800."""
RATES = (0.5, 1.0, 2.0)
"""Times the rate that a strategy has by itself."""


def grid(strategy: str, steps: int, budget: float = BUDGET) -> list[Settings]:
    """The candidates of one strategy that searches; one that learns no structure has no rate to choose."""
    rates = (1.0,) if strategy == "iterative" else RATES
    usual = strategies.create(strategy).rate
    return [
        Settings(strategy, budget, steps, search_steps=round(share * steps), rate=usual * rate)
        for share in SEARCH_SHARES
        for rate in rates
    ]


def choose(contest: Contest, strategy: str, steps: int) -> Settings:
    """Compute what is missing of a strategy's grid, and return the best candidate."""
    candidates = grid(strategy, steps)
    contest.fill(f"how {strategy} searches", [(c, SEED) for c in candidates])
    return chosen(contest, candidates)


def chosen(contest: Contest, candidates: Sequence[Settings]) -> Settings:
    """The candidate of the best validation score; the first one while there are no scores."""
    scores = {c: contest.values(c, [SEED], "valid").get(SEED) for c in candidates}
    known = {c: score for c, score in scores.items() if score is not None}
    return min(known, key=lambda c: known[c]) if known else candidates[0]


def grid_table(contest: Contest, grids: Mapping[str, Sequence[Settings]]) -> str:
    """Validation scores of all candidates, the chosen ones bold."""
    rows, unit = [], contest.task.unit
    for label, candidates in grids.items():
        best = chosen(contest, candidates)
        for c in candidates:
            score = contest.values(c, [SEED], "valid").get(SEED)
            text = "-" if score is None else f"{unit.scale * score:.{unit.digits}f}"
            rows.append([label, str(c.search_steps), f"{c.rate:g}", f"**{text}**" if c == best else text])
    return table(["strategy", "search steps", "rate x steps", "validation score"], rows)
