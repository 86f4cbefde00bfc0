"""How far a method's structure is from the best there is, in a space small enough to train every structure.

    python -m experiments.benchmarks.regret [--quick | --tables]

About half an hour of one core; stopped, it goes on where it was. A decoder of bytes with two layers has 172
structures: widths 8 to 32 of the residual stream, 2 or 4 heads and 16 to 48 hidden features in every layer, 0 to 2
layers. All of them are trained, with three seeds, each from its slice of one random supernet, for as many steps as any
other. Then every method picks a structure under 25 and 40 % of the MACs, and the table says where it stands. The rate
of every search is chosen at 25 % on two seeds of its own, by what the structures picked score on other windows once
trained, from three rates that are widened where the end was best.

- place: of the pick among the structures of 80 to 100 % of the budget, by the mean over seeds; "1 of 30" is the best.
- loss to the best: bits/byte of the pick minus those of the band's best. The best of many noisy means looks better
  than it is, so it is chosen by two seeds and read off the third, in turns. It may be negative.

What it shows: whether a method finds good numbers of elements in a space where the answer is known. What it does not:
anything about larger spaces, about which elements stay (all structures keep the first ones of a random network), or
about weights that a search leaves behind.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from dms_jax.errors import Interrupted
from dms_jax.training.interrupt import InterruptFlag
from experiments.benchmarks import methods, pictures, tuning
from experiments.benchmarks.command import Options, start
from experiments.benchmarks.exhaustive import QUICK, Key, Size, Space, in_words, picked, scorer
from experiments.benchmarks.methods import OURS, PAPER, PAPER_SETTING, SEARCHED
from experiments.benchmarks.protocol import TRIED
from experiments.benchmarks.settings import Settings
from experiments.benchmarks.store import Cell, Cells, Say, file_label
from experiments.benchmarks.tables import Spread, percent, table
from experiments.benchmarks.tasks import Unit
from experiments.benchmarks.text_task import UNIT

BUDGETS, QUICK_BUDGETS = (0.25, 0.4), (0.4,)
BAND = 0.8  # a band reaches from this share of its budget to the budget

FROM_RANDOM = f"{OURS} from random weights"
STRATEGIES = {FROM_RANDOM: SEARCHED[OURS], OURS: SEARCHED[OURS], PAPER: SEARCHED[OURS], **SEARCHED}
"""Label -> strategy, of those that search."""
RULE_NAMES = {label: methods.RULES[label] for label in ("one Taylor threshold", "uniform")}
LABELS = {name: label for label, name in {**SEARCHED, **RULE_NAMES}.items()}
METHODS = (*STRATEGIES, *RULE_NAMES)
QUICK_METHODS = (OURS, *RULE_NAMES)


@dataclass(frozen=True, eq=False)
class Benchmark:
    """Cells of all structures and of all picks.

    Attributes:
      space: of the structures.
      cells: where results lie.
      methods: labels.
      budgets: fractions of the MACs; rates are chosen at the first.
      rates: that are tried, times each strategy's own.
      tried: seeds of the choice of rates.
    """

    space: Space
    cells: Cells
    methods: Sequence[str]
    budgets: Sequence[float]
    rates: Sequence[float] = tuning.RATES
    tried: Sequence[int] = TRIED

    @property
    def choice(self) -> tuple[str, Unit]:
        """What rates are chosen by: bits per byte of a pick, trained, on windows that no table looks at."""
        return "valid", UNIT

    @property
    def grids(self) -> tuning.Grids:
        """Candidates of every strategy."""
        return {label: self.grid(label) for label in self.methods if label in STRATEGIES}

    def grid(self, label: str) -> list[Settings]:
        """Candidates of a strategy."""
        name, steps = STRATEGIES[label], self.space.size.search_steps
        changes = {FROM_RANDOM: {"pretrained": False, "warmup": steps // 2}, PAPER: PAPER_SETTING}.get(label, {})
        own = Settings(name, self.budgets[0], 0, steps, retrain="none", **methods.own(name) | changes)
        return tuning.at_rates(own, self.rates)

    def settings(self, method: str, budget: float) -> Settings:
        """Of a method: the best rate, as far as it is known."""
        if method in RULE_NAMES:
            return Settings(RULE_NAMES[method], budget, 0, retrain="none")
        return methods.at(tuning.best(self, self.grid(method)), budget)

    @cached_property
    def shares(self) -> dict[Key, float]:
        """Of the full network's MACs, of every structure."""
        return {key: self.space.share(key) for key in self.space.keys}

    def band(self, budget: float) -> list[Key]:
        """The structures of 80 to 100 % of a budget."""
        return [key for key, share in self.shares.items() if BAND * budget <= share <= budget]

    def pick_cell(self, settings: Settings, seed: int) -> Cell:
        """Of a pick; its score, too, is there for seeds of the choice."""
        method = PAPER if settings.weight is not None else LABELS[settings.strategy]
        method = method if settings.pretrained else FROM_RANDOM
        named = {**asdict(self.space.size), "method": method, "budget": settings.budget}
        if method in STRATEGIES:
            named |= {name: getattr(settings, name) for name in ("rate", "ratio_schedule", "ratio_together")}
        return Cell("regret", f"{file_label(method)}-{100 * settings.budget:g}", named, named, seed)

    @property
    def asked(self) -> list[tuple[Settings, int]]:
        """Settings and seeds of all picks."""
        every = itertools.product(self.methods, self.budgets, range(self.space.size.seeds))
        return [(self.settings(method, budget), seed) for method, budget, seed in every]

    @property
    def machines(self) -> str:
        """On which ones the structures were trained and picked."""
        return self.cells.machines([*self._truth_cells.values(), *itertools.starmap(self.pick_cell, self.asked)])

    def fill(self, name: str, asked: Iterable[tuple[Settings, int]]) -> None:
        """Compute what is missing of picks."""
        work = [(self.pick_cell(s, seed), partial(self._pick, s, seed)) for s, seed in asked]
        self.cells.fill(work, name, self.space.data.name)

    def values(self, settings: Settings, seeds: Sequence[int], what: str = "test") -> dict[int, float]:
        """{seed: score} of picks that have one."""
        found = self.cells.found({seed: self.pick_cell(settings, seed) for seed in seeds})
        return {seed: float(result[what]) for seed, result in found.items()}

    def fill_all(self) -> None:
        """Compute what is missing: all structures first."""
        self.fill_structures()
        for label, grid in self.grids.items():
            tuning.settle(self, label, grid)
        self.fill("regret: picks", self.asked)

    def fill_structures(self) -> None:
        """Compute what is missing of all structures."""
        keys, part = self.space.keys, self.space.size.part
        parts = [keys[first : first + part] for first in range(0, len(keys), part)]
        work = [(cell, partial(self._truth, parts[i], seed)) for (seed, i), cell in self._truth_cells.items()]
        self.cells.fill(work, "regret: all structures", self.space.data.name)

    @property
    def _truth_cells(self) -> dict[tuple[int, int], Cell]:
        """Seed and number -> one of the cells that a seed's structures are cut into."""
        size = self.space.size
        every, named = itertools.product(range(size.seeds), range(-(-len(self.space.keys) // size.part))), asdict(size)
        return {
            (seed, part): Cell("regret", f"structures{part}", {**named, "part_number": part}, named, seed)
            for seed, part in every
        }

    @property
    def truth(self) -> dict[Key, np.ndarray]:
        """Structure -> `[seeds]` bits/byte; those whose cells are there for every seed."""
        found: dict[Key, list[float]] = {}
        for result in self.cells.found(self._truth_cells).values():
            for key, bits in result["bits"]:
                found.setdefault(tuple(key), []).append(bits)
        return {key: np.array(bits) for key, bits in found.items() if len(bits) == self.space.size.seeds}

    def picks(self, method: str, budget: float) -> list[Key]:
        """One a seed."""
        settings, seeds = self.settings(method, budget), range(self.space.size.seeds)
        found = self.cells.found({seed: self.pick_cell(settings, seed) for seed in seeds})
        return [tuple(result["pick"]) for result in found.values()]

    def _truth(self, keys: Sequence[Key], seed: int, interrupt: InterruptFlag, say: Say) -> dict[str, Any]:
        bits = []
        score = scorer(self.space, seed, "test")
        for key in keys:
            bits.append([list(key), round(score(key), 5)])
            say(f"{in_words(key)}: {bits[-1][1]:.3f} bits/byte")
            if interrupt.requested:
                raise Interrupted(0, "stopped")
        return {"bits": bits}

    def _pick(self, settings: Settings, seed: int, interrupt: InterruptFlag, say: Say) -> dict[str, Any]:
        if interrupt.requested:
            raise Interrupted(0, "stopped")
        key = self.space.key(picked(self.space, settings, seed))
        scored = {self.choice[0]: round(scorer(self.space, seed, "valid")(key), 5)} if seed in self.tried else {}
        return {"pick": list(key), **scored}


def loss_to_best(pick: np.ndarray, band: np.ndarray) -> float:
    """Mean over seeds of pick minus best, the best chosen by the other seeds.

    Args:
      pick: `[seeds]` scores, lower is better.
      band: `[structures, seeds]`.
    """
    seeds = band.shape[1]
    others = [np.delete(band, s, axis=1).mean(axis=1) for s in range(seeds)]
    return float(np.mean([pick[s] - band[np.argmin(others[s]), s] for s in range(seeds)]))


def tables(benchmark: Benchmark) -> tuple[list[str], str]:
    """A table a budget, and what RESULTS.md shows, places and losses, from the cells that are there."""
    truth, budgets = benchmark.truth, benchmark.budgets
    if len(truth) < len(benchmark.shares):
        return [f"{len(truth)} of {len(benchmark.shares)} structures are trained."], ""
    found = [_rows(benchmark, budget, truth) for budget in budgets]
    sections = [_section(benchmark, *one, truth) for one in zip(budgets, found, strict=True)]
    lines = [[rows[0][0], *(text for row in rows for text in row[1:3])] for rows in zip(*found, strict=True)]
    shown = itertools.product(budgets, ("place, a seed each", "loss to the best"))
    return sections, table(["method", *(f"{percent(budget)}: {what}" for budget, what in shown)], lines)


def draw(benchmark: Benchmark) -> Figure:
    """Every structure that is trained, and how far behind its band's best each pick is."""
    scores = {key: float(bits.mean()) for key, bits in benchmark.truth.items()}
    behind: dict[str, dict[float, list[float]]] = {method: {} for method in benchmark.methods}
    for budget, method in itertools.product(benchmark.budgets, benchmark.methods):
        best = min((scores[key] for key in benchmark.band(budget) if key in scores), default=np.nan)
        behind[method][budget] = [scores[p] - best for p in benchmark.picks(method, budget) if p in scores]
    return pictures.regrets([(benchmark.shares[key], score) for key, score in scores.items()], behind, "bits per byte")


def standing(picks: Sequence[Key], band: Sequence[Key], truth: Mapping[Key, np.ndarray]) -> list[str]:
    """Of picks: their places in a band and their loss to its best, as tables have them."""
    scores = np.stack([truth[key] for key in band])
    means = scores.mean(axis=1)
    places = ", ".join(str(1 + int(np.sum(means < truth[p].mean()))) for p in picks)
    losses = Spread.of(loss_to_best(truth[p], scores) for p in picks).text(3, sign=True)
    return [f"{places} of {len(band)}", losses]


def _rows(benchmark: Benchmark, budget: float, truth: Mapping[Key, np.ndarray]) -> list[list[str]]:
    """A row a method that has picked, and chance."""
    band, shares, rows = benchmark.band(budget), benchmark.shares, []
    scores = np.stack([truth[key] for key in band])
    for method in benchmark.methods:
        picks = benchmark.picks(method, budget)
        if not picks:
            continue
        bits = Spread.of(truth[p].mean() for p in picks).text(3)
        used = np.mean([100 * shares[p] for p in picks])
        names = ", ".join(dict.fromkeys(in_words(p) for p in picks))
        rows.append([method, *standing(picks, band, truth), bits, f"{used:.1f}", names])
    chance = np.mean([loss_to_best(row, scores) for row in scores])
    used = np.mean([100 * shares[key] for key in band])
    rows.append(["random (mean of the band)", f"{(len(band) + 1) / 2:g} of {len(band)}", f"{chance:+.3f}",
                 f"{scores.mean():.3f}", f"{used:.1f}", "-"])  # fmt: skip
    return rows


def _section(benchmark: Benchmark, budget: float, rows: list[list[str]], truth: Mapping[Key, np.ndarray]) -> str:
    """The table of one budget."""
    band = benchmark.band(budget)
    scores = np.stack([truth[key] for key in band])
    means = scores.mean(axis=1)
    best, order = band[int(np.argmin(means))], np.sort(means)
    error = float(np.mean(scores.std(axis=1, ddof=1)) / np.sqrt(scores.shape[1]))
    header = ["method", "place, a seed each", "loss to the best", "bits/byte", "MACs, %", "picks"]
    return (
        f"**{percent(budget)} of the MACs.** {len(band)} structures between {100 * BAND * budget:g} and "
        f"{percent(budget)}, from {order[0]:.3f} ({in_words(best)}) over {np.median(order):.3f} (median) to "
        f"{order[-1]:.3f} bits/byte; standard error of one structure's mean {error:.3f}.\n\n{table(header, rows)}"
    )


def benchmark_of(options: Options) -> Benchmark:
    """The benchmark, or its tiny version."""
    if options.quick:
        return Benchmark(Space(QUICK), options.cells, QUICK_METHODS, QUICK_BUDGETS, (1.0,), TRIED[:1])
    return Benchmark(Space(Size()), options.cells, METHODS, BUDGETS)


def main(options: Options) -> None:
    """Fill the cells and write the tables."""
    benchmark = benchmark_of(options)
    try:
        benchmark.fill_all()
    finally:
        sections, headline = tables(benchmark)
        parts = [options.drawn("regret", "All structures, and what was picked", draw(benchmark)), *sections]
        parts += [f"{tuning.OPENING[:-1]}, {percent(benchmark.budgets[0])} of the MACs:"]
        parts += [tuning.grids_table(benchmark, benchmark.grids), benchmark.machines]
        options.publish("regret", "Regret: where the picks stand among all structures", parts, headline=headline)


if __name__ == "__main__":
    start(main, __doc__)
