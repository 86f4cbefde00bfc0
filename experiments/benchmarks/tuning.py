"""Choosing how a strategy searches: a small grid on two extra seeds at one budget, by its validation score alone.

The grid is widened while the best candidate has the lowest or the highest rate of its length: nobody is held back by
where its grid ends. The depth of even networks is chosen likewise, at every budget, from all there are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Protocol

import numpy as np

from dms_jax import baselines
from dms_jax.errors import UserError
from dms_jax.space import SearchSpace
from experiments.benchmarks import methods
from experiments.benchmarks.methods import Method
from experiments.benchmarks.protocol import TRIED, Contest
from experiments.benchmarks.settings import Settings
from experiments.benchmarks.tables import percent, table
from experiments.benchmarks.tasks import Task, Unit

BUDGET = 0.2
SEARCH_SHARES = (0.0625, 0.125, 0.25)
"""Of all steps: 50, 100 and 200 of 800."""
RATES = (1.0, 0.5, 2.0)
"""Times the rate that a strategy has by itself; that one first, for the first of those that score alike is taken."""
LEAST_USED = 0.95
"""Of the budget, at a depth that is worth a try."""
UNDECIDED = 0.0
"""No cell keeps so many blocks: a table shows nothing before every depth was tried."""
LAYERED = "uniform, by Taylor, depth chosen"

OPENING = "What rates were chosen from, by validation score (bold) on seeds of their own:"

Grids = Mapping[str, Sequence[Settings]]
"""Label of a strategy -> its candidates."""


class Scored(Protocol):
    """Where candidates get their scores: a `Contest`, for one."""

    @property
    def choice(self) -> tuple[str, Unit]:
        """The score that choices look at, of validation data, and its unit."""
        ...

    @property
    def tried(self) -> Sequence[int]:
        """The seeds that choices are made on."""
        ...

    def fill(self, name: str, asked: Iterable[tuple[Settings, int]]) -> None:
        """Compute what is missing of settings and seeds."""
        ...

    def values(self, settings: Settings, seeds: Sequence[int], what: str = "test") -> Mapping[int, float]:
        """{seed: score} of those that are there."""
        ...


# --- rates ---


def grid(
    strategy: str, steps: int, lengths: Sequence[int] = (), budget: float = BUDGET, **settings: Any
) -> list[Settings]:
    """The candidates of one strategy: searches of some lengths, usually a few shares of all steps, at several rates."""
    lengths = lengths or [max(1, round(share * steps)) for share in SEARCH_SHARES]
    own = methods.own(strategy) | settings
    return [c for length in lengths for c in at_rates(Settings(strategy, budget, steps, length, **own))]


def at_rates(settings: Settings, rates: Sequence[float] = RATES) -> list[Settings]:
    """The same search at several rates; a strategy that learns no structure has no rate to choose."""
    rates = (1.0,) if settings.strategy == "iterative" else rates
    return [dataclasses.replace(settings, rate=settings.rate * rate) for rate in rates]


def settle(contest: Scored, label: str, candidates: Sequence[Settings]) -> list[Settings]:
    """Compute what is missing of a strategy's grid, widened as far as it has to be; all candidates."""
    while True:
        wide = widened(contest, candidates)
        contest.fill(f"how {label} searches", [(c, seed) for seed in contest.tried for c in wide])
        if widened(contest, candidates) == wide:
            return wide


def widened(contest: Scored, candidates: Sequence[Settings]) -> list[Settings]:
    """A grid with half the lowest or twice the highest rate of a length, where that was the best one so far."""
    wide = list(candidates)
    while len(scores_of(contest, wide)) == len(wide):
        best = chosen(contest, wide)
        rates = [c.rate for c in wide if c.search_steps == best.search_steps]
        if len(rates) == 1 or min(rates) < best.rate < max(rates):
            break
        wide.append(dataclasses.replace(best, rate=best.rate * (0.5 if best.rate == min(rates) else 2.0)))
    return wide


def chosen(contest: Scored, candidates: Sequence[Settings]) -> Settings:
    """The candidate of the best validation score, the first of several; the first of all while there are no scores."""
    scores = scores_of(contest, candidates)
    return min(scores, key=lambda c: scores[c]) if scores else candidates[0]


def best(contest: Scored, grid: Sequence[Settings]) -> Settings:
    """The candidate to take of a grid, widened as far as it is known to be worth it."""
    return chosen(contest, widened(contest, grid))


def searched(contest: Scored, grids: Grids) -> dict[str, Method]:
    """The best of every grid, at any budget."""
    return {label: partial(methods.at, best(contest, grid)) for label, grid in grids.items()}


def scores_of(contest: Scored, candidates: Sequence[Settings]) -> dict[Settings, float]:
    """The mean validation score of the candidates that have one for as many seeds as any of them has."""
    found = {c: contest.values(c, TRIED, contest.choice[0]) for c in candidates}
    most = max(len(scores) for scores in found.values())
    return {c: sum(s.values()) / most for c, s in found.items() if most and len(s) == most}


def score_texts(contest: Scored, candidates: Sequence[Settings], best: Settings | None = None) -> dict[Settings, str]:
    """Validation scores as tables have them, that of the best one bold."""
    (_, unit), scores = contest.choice, scores_of(contest, candidates)
    texts = {c: f"{unit.scale * scores[c]:.{unit.digits}f}" if c in scores else "-" for c in candidates}
    return {c: f"**{text}**" if c == best else text for c, text in texts.items()}


def grids_table(contest: Scored, grids: Grids) -> str:
    """Validation scores of candidates, widened as far as they are known to be worth it, the chosen ones bold."""
    rows = []
    for label, grid in grids.items():
        candidates = widened(contest, grid)
        if not scores_of(contest, candidates):
            continue
        texts = score_texts(contest, candidates, chosen(contest, candidates))
        for c in sorted(candidates, key=lambda c: (c.search_steps, c.rate)):
            rows.append([label, str(c.search_steps), f"{c.rate:g}", texts[c]])
    return table(["strategy", "search steps", "rate x steps", f"validation: {contest.choice[1].name}"], rows)


# --- depths ---


@dataclass(frozen=True)
class Depths:
    """Thinning evenly by Taylor importance at every depth that fits: a search by as many trainings.

    Attributes:
      contest: where their cells are.
      steps: of each.
      residual: the residual width shrinks, too.
    """

    contest: Contest
    steps: int
    residual: bool = False

    def candidates(self, budget: float) -> list[Settings]:
        """All of a budget."""
        shares = _fitting(self.contest.task, budget, self.residual)
        return [Settings("uniform_taylor", budget, self.steps, residual=self.residual, blocks=b) for b in shares]

    def best(self, budget: float) -> Settings:
        """The best by its validation score: the strongest rule there is, and no cheap one."""
        candidates = self.candidates(budget)
        if len(scores_of(self.contest, candidates)) < len(candidates):
            return dataclasses.replace(candidates[0], blocks=UNDECIDED)
        return chosen(self.contest, candidates)

    def fill(self, budget: float) -> None:
        """Compute what is missing of them."""
        asked = [(c, seed) for seed in self.contest.tried for c in self.candidates(budget)]
        self.contest.fill(f"{LAYERED}, {percent(budget)}", asked)

    def table(self, budgets: Sequence[float]) -> str:
        """Validation scores of all depths, the chosen ones bold."""
        rows = []
        for budget in budgets:
            candidates = self.candidates(budget)
            texts = score_texts(self.contest, candidates, self.best(budget))
            for c in candidates:
                share = "as many as fit" if c.blocks is None else f"{100 * c.blocks:.0f} %"
                rows.append([LAYERED, percent(budget), share, texts[c]])
        return table(["rule", "MACs", "blocks kept", f"validation: {self.contest.choice[1].name}"], rows)


@cache
def _fitting(task: Task, budget: float, residual: bool) -> tuple[float | None, ...]:
    """The shares of blocks at which a budget can be met and is used; None, as many as fit, in place of the largest."""
    space = (task.with_residual() if residual else task).space
    blocks = max((group.size for group in space.groups.values() if group.rules.gates), default=1)
    macs = {share: even_macs(space, budget, share) for share in (k / blocks for k in range(blocks, 0, -1))}
    used = int(budget * space.resources()["macs"]) * LEAST_USED
    return None, *[round(share, 6) for share, found in macs.items() if found is not None and found >= used][1:]


def even_macs(space: SearchSpace, budget: float, share: float) -> int | None:
    """MACs of the even network with a share of the blocks under a budget; None where nothing of that depth fits."""
    ranking = {name: np.zeros(group.size) for name, group in space.groups.items()}
    most = {"macs": int(budget * space.resources()["macs"])}
    try:
        return space.resources(baselines.uniform(space, ranking, most, blocks=share).kept)["macs"]
    except UserError:
        return None
