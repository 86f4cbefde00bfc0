"""How deep a network of 24 blocks should be: every depth is trained, and searches say what they would have taken.

    python -m experiments.benchmarks.depth [--quick | --tables]

About half an hour of one core for three seeds. A decoder of bytes with 24 thin layers is pretrained; then, under 25 %
of its MACs, the network of every depth from 1 to 24 is finetuned, its blocks chosen by magnitude, widths and heads
thinned evenly to what the budget leaves (few layers cannot use all of it). That curve is the truth. Searches from the
same supernets pick depth and widths, and their networks are finetuned for as long: 300 steps in all, the search's 100
among them.

- regret of the depth: the curve at the depth that was picked less the curve at its best, both means over seeds.
- minus the best depth: the score of what was found less that of the even network of the best depth, by seed. Below 0
  where uneven widths are worth more than the right depth.

The best of 24 noisy means looks better than it is: it is chosen by the validation files, and read off the test files.
What it shows: whether a search finds depth where there is much to lose by it. What it does not: other budgets, and
networks whose blocks differ as those of stages do.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from experiments.benchmarks import methods, pictures, tuning
from experiments.benchmarks.command import Options, start
from experiments.benchmarks.protocol import Contest
from experiments.benchmarks.settings import Settings
from experiments.benchmarks.tables import INTERVALS, Spread, differences, percent, table
from experiments.benchmarks.text_task import QUICK, TextOptions, text_task

SIZE = TextOptions(
    width=24, layers=24, heads=3, kv_heads=3, head_dim=8, hidden=48, length=32, batch=8, pretrain_steps=500,
    valid_windows=512, test_windows=1024,
)  # fmt: skip
TINY = dataclasses.replace(QUICK, layers=3, hidden=16)
TITLE = "Depth: what searches take of 24 blocks"
BUDGET, STEPS, SEARCH_STEPS, RATE = 0.25, 300, 100, 2.5
SEEDS = (0, 1, 2)
EVEN, CHOSEN = "uniform, as many as fit", "uniform, depth by validation"
SEARCHES: Mapping[str, Mapping[str, Any]] = {
    "DMS": {},
    "DMS, block effects": {"effects": True},
    "DMS, on the target": {"on_target": True},
    "DMS, on the target, block effects": {"on_target": True, "effects": True},
}


@dataclasses.dataclass(frozen=True, eq=False)
class Benchmark:
    """Cells of every depth and of every search.

    Attributes:
      contest: where they lie.
      seeds: of the table.
      budget: fraction of the MACs.
      labels: of `SEARCHES`.
    """

    contest: Contest
    seeds: Sequence[int] = SEEDS
    budget: float = BUDGET
    labels: Sequence[str] = tuple(SEARCHES)

    @cached_property
    def even(self) -> dict[int, Settings]:
        """Number of blocks -> settings, of all depths that fit."""
        space = self.contest.task.space
        blocks = space.groups["depth"].size
        fitting = [k for k in range(1, blocks + 1) if tuning.even_macs(space, self.budget, k / blocks) is not None]
        return {k: Settings("uniform", self.budget, STEPS, blocks=round(k / blocks, 6)) for k in fitting}

    @cached_property
    def searches(self) -> dict[str, Settings]:
        """Label -> settings."""
        usual = Settings("dms", self.budget, STEPS, SEARCH_STEPS, **{**methods.own("dms"), "rate": RATE})
        return {label: dataclasses.replace(usual, **SEARCHES[label]) for label in self.labels}

    def asked(self) -> Iterator[tuple[Settings, int]]:
        """All cells, a seed after the other."""
        coarse = sorted(self.even, key=lambda k: (k % 4 > 0, k % 2 > 0))  # every fourth first, then every second
        first, *others = self.searches.values()
        even, some = [self.even[k] for k in coarse], len(coarse) // 4
        for seed in self.seeds:
            yield from ((settings, seed) for settings in (first, *even[:some], *others, *even[some:]))

    def curve(self, what: str = "test") -> dict[int, dict[int, float]]:
        """Number of blocks -> {seed: score}."""
        return {k: self.contest.values(settings, self.seeds, what) for k, settings in self.even.items()}

    def picks(self) -> dict[str, dict[int, tuple[int, float]]]:
        """Method -> {seed: (blocks kept, score)}."""
        found = {label: self._picked(settings) for label, settings in self.searches.items()}
        found[EVEN] = self._picked(self.even[max(self.even)])
        found[CHOSEN] = {}
        valid, test = self.curve("valid"), self.curve()
        for seed in self.seeds:
            scores = {k: by_seed[seed] for k, by_seed in valid.items() if seed in by_seed}
            if scores:  # of this seed alone, as a user would
                best = min(scores, key=lambda k, scores=scores: scores[k])
                found[CHOSEN][seed] = (best, test[best][seed])
        return found

    def _picked(self, settings: Settings) -> dict[int, tuple[int, float]]:
        done = self.contest.finished(settings, self.seeds)
        return {seed: (int(result["kept"]["depth"]), float(result["test"])) for seed, result in done.items()}

    @property
    def best(self) -> int:
        """The best depth by the mean validation score."""
        valid = {k: np.mean(list(scores.values())) for k, scores in self.curve("valid").items() if scores}
        return min(valid, key=lambda k: float(valid[k]))


def depths_table(benchmark: Benchmark) -> str:
    """The curve."""
    valid, test = benchmark.curve("valid"), benchmark.curve()
    best, lines = benchmark.best, []
    for k, settings in benchmark.even.items():
        done = benchmark.contest.finished(settings, benchmark.seeds)
        macs = np.mean([result["macs"] for result in done.values()]) if done else np.nan
        share = 100 * macs / benchmark.contest.task.space.resources()["macs"]
        name = f"**{k}**" if k == best else str(k)
        texts = [Spread.of(scores[k].values()).text() for scores in (valid, test)]
        lines.append([name, *texts, f"{share:.1f}", str(len(done))])
    return table(["blocks kept", "validation", "test", "MACs, %", "seeds"], lines)


def picks_table(benchmark: Benchmark) -> str:
    """What was picked."""
    curve = {k: Spread.of(scores.values()) for k, scores in benchmark.curve().items()}
    best, picks, lines = benchmark.best, benchmark.picks(), []
    scores = {label: [score for _, score in found.values()] for label, found in picks.items()}
    _, texts = differences(scores, lambda _: benchmark.curve()[best].values(), 3)
    for label, found in picks.items():
        regret = Spread.of(curve[k].mean - curve[best].mean for k, _ in found.values() if k in curve)
        lines.append([
            label, ", ".join(str(k) for k, _ in found.values()), regret.text(3, sign=True),
            Spread.of(scores[label]).text(), texts[label],
        ])  # fmt: skip
    header = ["method", "blocks, a seed each", "regret of the depth", "bits per byte", "minus the best depth"]
    return table(header, lines)


def contest_of(options: Options) -> Contest:
    """Cells on the deep network."""
    return Contest(text_task(TINY if options.quick else SIZE, "deep_text"), options)


def main(options: Options) -> None:
    contest = contest_of(options)
    benchmark = Benchmark(contest, contest.tried[:1], 0.7, ("DMS",)) if options.quick else Benchmark(contest)
    try:
        contest.fill("depth", benchmark.asked())
    finally:
        if any(benchmark.curve().values()):
            options.publish("depth", TITLE, report(benchmark, options), headline=picks_table(benchmark))
        else:
            print("Not computed yet.")


def report(benchmark: Benchmark, options: Options) -> list[str]:
    """The picture and both tables."""
    contest, curve = benchmark.contest, {k: Spread.of(scores.values()) for k, scores in benchmark.curve().items()}
    picks = {label: list(found.values()) for label, found in benchmark.picks().items() if found}
    trained, asked = sum(spread.count for spread in curve.values()), len(curve) * len(benchmark.seeds)
    return [
        f"`python -m experiments.benchmarks.depth`: bits per byte at {percent(benchmark.budget)} of the MACs, lower is "
        f"better. {INTERVALS}",
        options.drawn(
            "depth",
            "Every depth, and what was picked",
            pictures.depths(curve, picks, contest.task.unit.name),
        ),
        picks_table(benchmark),
        f"Every depth, evenly thin ({trained} of {asked} trainings are done); the best by validation bold:",
        depths_table(benchmark),
        contest.cells.machines(contest.cell(*asked) for asked in benchmark.asked()),
    ]


if __name__ == "__main__":
    start(main, __doc__)
