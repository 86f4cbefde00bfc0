"""Kinds of architecture search beside each other: what each pays for a structure, and how good that one is.

    python -m experiments.benchmarks.kinds [--quick | --tables]

The space is that of `regret`, of which every structure is trained; this needs its cells. A few minutes of one core.

- zero-shot: every structure under the budget gets a score from random weights, the highest is taken. ZiCo's is the sum
  over kernels of the log of the sum over parameters of mean |g| / standard deviation of |g|, g the gradients of eight
  batches (Li et al., ICLR 2023). The number of parameters is another.
- one-shot: one supernet is trained, in every step another structure of it drawn at random; evolution looks for the
  best structure under the budget by the validation score with these shared weights.
- multi-shot: networks are trained and compared. Grown: from the smallest on, in three rounds that double the MACs up to
  the budget; in each, all structures of 80 to 100 % of the round's MACs that contain the last one are trained and the
  best is taken. Or every structure of 80 to 100 % of the budget is trained.
- Differentiable Model Scaling (DMS): one search, from random weights, or in a network that is trained first.

All see the batches of their seed, and validation windows where they look at scores. CPU seconds are without
compilation and without the training of what was found. A network under masks trains as slowly as the full one: where
many are trained, really smaller ones would take less.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from dms_jax.errors import Interrupted
from dms_jax.training.interrupt import InterruptFlag
from experiments.benchmarks import pictures, regret
from experiments.benchmarks.command import Options, start
from experiments.benchmarks.exhaustive import in_words
from experiments.benchmarks.methods import OURS
from experiments.benchmarks.searchers import KINDS, Search, dms
from experiments.benchmarks.settings import Settings
from experiments.benchmarks.store import Cell, Say, file_label
from experiments.benchmarks.tables import Spread, percent, table


@dataclass(frozen=True, eq=False)
class Benchmark:
    """Picks of all kinds, and where they stand among the structures of another benchmark.

    Attributes:
      truth: all structures, trained.
      seeds: of the picks.
      programs: what searches have compiled.
    """

    truth: regret.Benchmark
    seeds: Sequence[int]
    programs: dict[Any, Any] = field(default_factory=dict)

    def settings(self, kind: str, budget: float) -> Settings:
        """Its budget; of DMS, how it searches there."""
        if KINDS[kind] is not dms:
            return Settings(kind, budget, 0, retrain="none")
        return self.truth.settings(regret.FROM_RANDOM if "random" in kind else OURS, budget)

    def cell(self, kind: str, budget: float, seed: int) -> Cell:
        settings = self.settings(kind, budget)
        named = asdict(self.truth.space.size) | {"kind": kind, "budget": budget}
        named |= {name: getattr(settings, name) for name in ("rate", "ratio_schedule", "ratio_together")}
        return Cell("kinds", f"{file_label(kind)}-{100 * budget:g}", named, named, seed)

    def fill(self) -> None:
        """Compute what is missing."""
        work = [(self.cell(*one), partial(self._pick, *one)) for one in self._asked]
        self.truth.cells.fill(work, "kinds of search", self.truth.space.data.name)

    @property
    def _asked(self) -> Iterator[tuple[str, float, int]]:
        return itertools.product(KINDS, self.truth.budgets, self.seeds)

    def _pick(self, kind: str, budget: float, seed: int, interrupt: InterruptFlag, say: Say) -> dict[str, Any]:
        if interrupt.requested:
            raise Interrupted(0, "stopped")
        search = Search(self.truth, self.settings(kind, budget), seed, self.programs)
        key = KINDS[kind](search)
        return {"pick": list(key), "steps": search.steps, "seconds": round(search.seconds, 3)}

    def found(self, kind: str, budget: float) -> list[dict[str, Any]]:
        """Of the seeds that are there."""
        return list(self.truth.cells.found({seed: self.cell(kind, budget, seed) for seed in self.seeds}).values())

    def report(self) -> str:
        """A table a budget."""
        if len(self.truth.truth) < len(self.truth.shares):
            return "The structures of experiments.benchmarks.regret are to be trained first."
        cells = itertools.starmap(self.cell, self._asked)
        return "\n\n".join([*map(self._table, self.truth.budgets), self.truth.cells.machines(cells)])

    def _rows(self, budget: float) -> list[list[str]]:
        truth, band, rows = self.truth.truth, self.truth.band(budget), []
        for kind in KINDS:
            if found := self.found(kind, budget):
                keys = [tuple(result["pick"]) for result in found]
                seconds, steps = (np.mean([result[what] for result in found]) for what in ("seconds", "steps"))
                names = ", ".join(dict.fromkeys(map(in_words, keys)))
                rows.append([kind, f"{seconds:.1f}", f"{steps:,.0f}", *regret.standing(keys, band, truth), names])
        return rows

    def _table(self, budget: float) -> str:
        header = ["kind", "CPU seconds", "training steps", "place, a seed each", "loss to the best", "picks"]
        return f"**{percent(budget)} of the MACs.**\n\n{table(header, self._rows(budget))}"

    def draw(self) -> Figure:
        """Loss over CPU seconds, a panel a budget."""
        truth = self.truth.truth
        panels = {}
        for budget in self.truth.budgets if len(truth) == len(self.truth.shares) else ():
            scores = np.stack([truth[key] for key in self.truth.band(budget)])
            panels[f"{percent(budget)} of the MACs"] = {
                kind: (
                    float(np.mean([result["seconds"] for result in found])),
                    Spread.of(regret.loss_to_best(truth[tuple(result["pick"])], scores) for result in found),
                )
                for kind in KINDS
                if (found := self.found(kind, budget))
            }
        return pictures.costs(panels, "bits per byte behind the best")


def main(options: Options) -> None:
    """Fill the cells and write the tables."""
    truth = regret.benchmark_of(options)
    benchmark = Benchmark(truth, range(truth.space.size.seeds))
    try:
        truth.fill_structures()
        benchmark.fill()
    finally:
        parts = [options.drawn("kinds", "Regret over CPU seconds", benchmark.draw()), benchmark.report()]
        options.publish("kinds", "Kinds of search: regret over CPU seconds", parts)


if __name__ == "__main__":
    start(main, __doc__)
