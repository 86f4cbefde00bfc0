"""Accuracy at equal measured time: a budget of milliseconds against a budget of MACs that takes as long.

    python -m experiments.benchmarks.equal_time [--quick | --tables]

A ResNet-20 on scikit-learn's digits, 64 images at once, and a small Llama on source code, 4 windows of 128 bytes at
once; 50 and 25 % of the full network's time, three seeds. Differentiable Model Scaling (DMS) searches under the budget
of milliseconds; what comes out is measured. Then it searches under a budget of MACs, which is bisected: what its ratios
are projected onto is measured, until it takes just as long as the other network; with that many MACs it searches once
more, and is bisected again. Both networks are finetuned, 800 steps each in all, and measured once more in turn.

Run it with nothing else on the machine. About three minutes a cell on digits and seven on text, an hour in all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from dms_jax.budgets.latency import Latency
from dms_jax.budgets.pieces import whole
from dms_jax.conduct import warm_cosine
from dms_jax.errors import UserError
from dms_jax.method.search import Search
from dms_jax.method.state import SearchState
from dms_jax.shrink import shrink
from dms_jax.space import SearchSpace
from dms_jax.structure import Structure
from dms_jax.training import supervised
from dms_jax.training.interrupt import InterruptFlag
from experiments.benchmarks import digits, tuning
from experiments.benchmarks.command import Options, start
from experiments.benchmarks.finding import search_of
from experiments.benchmarks.frontier import text_contest, usual
from experiments.benchmarks.latency import ROUNDS, in_turn
from experiments.benchmarks.methods import OURS
from experiments.benchmarks.protocol import TRIED, Contest, checksum, size_of
from experiments.benchmarks.sections import heading
from experiments.benchmarks.settings import Settings
from experiments.benchmarks.store import Cell, Say
from experiments.benchmarks.tables import (
    INTERVALS,
    Spread,
    apart,
    decided,
    difference_text,
    percent,
    table,
    write_section,
)
from experiments.benchmarks.tasks import Phases, Task

TITLE = "Accuracy at equal measured time: milliseconds against MACs"
SHARES, SEEDS, STEPS = (0.5, 0.25), (0, 1, 2), 800
TIMED, COUNTED = "timed", "counted"
WORDS = {TIMED: "milliseconds", COUNTED: "MACs, as long"}
"""Of the tables."""
HALVINGS, SEARCHES = 5, 2
NEARER = 1.25
"""Times the MACs that were found, up and down, where the second search is bisected."""


@dataclass(frozen=True, eq=False)
class Study:
    """One task.

    Attributes:
      contest: whose task, and where the cells lie.
      batch: inputs at once.
      search: from what is known when it is called to how DMS searches.
      shares: of the full network's time.
      seconds: that pieces are measured for.
      seeds: of every share.
    """

    contest: Contest
    batch: int
    search: Callable[[], Settings]
    shares: Sequence[float] = SHARES
    seconds: float = 60.0
    seeds: Sequence[int] = SEEDS

    def cell(self, share: float, seed: int) -> Cell:
        """The cell of both networks."""
        task, settings = self.contest.task, self._settings(share)
        found = settings.cell(task, self.contest.defaults, seed)
        own = {"batch": self.batch, "seconds": self.seconds}
        label = f"{100 * share:g}"
        return Cell(f"{task.name}_time", label, {**found.identity, **own}, {**found.settings, **own}, seed)

    def fill(self) -> None:
        """Compute what is missing."""
        asked = [(share, seed) for seed in self.seeds for share in self.shares]
        work = [(self.cell(*one), partial(self._compute, *one), True) for one in asked]
        self.contest.fill_cells(f"equal time, {self.contest.task.name}", work)

    def _settings(self, share: float) -> Settings:
        found = self.search()
        return replace(found.small if self.contest.quick else replace(found, steps=STEPS), budget=share)

    def _compute(self, share: float, seed: int, interrupt: InterruptFlag, say: Say) -> dict[str, Any]:
        resource = Latency(batch=self.batch, seconds=self.seconds)
        return pair(self.contest.task, self._settings(share), resource, seed, interrupt, say)

    def found(self, share: float) -> list[dict[str, Any]]:
        """The cells that are there and did not fail."""
        cells = [self.contest.cells.get(self.cell(share, seed)) for seed in self.seeds]
        return [cell for cell in cells if cell and "failed" not in cell]

    def scores(self) -> str:
        """A row a share and budget."""
        digits_shown, lines = self.contest.task.unit.digits, []
        values = {
            (share, key): [self.contest.task.unit.scale * cell[key]["test"] for cell in self.found(share)]
            for share in self.shares
            for key in WORDS
        }
        differences = {share: apart(values[share, TIMED], values[share, COUNTED]) for share in self.shares}
        sure = decided(differences)
        for share in self.shares:
            for key, budget in WORDS.items():
                cells = self.found(share)
                difference = difference_text(differences[share], digits_shown, share in sure) if key == COUNTED else ""
                ms, again, macs = (
                    Spread.of(100 * cell[key][name] / cell["full"][name] for cell in cells).text(1)
                    for name in ("ms", "again", "macs")
                )
                score = Spread.of(values[share, key])
                lines.append(
                    [percent(share), budget, score.text(digits_shown), difference, ms, again, macs, str(score.count)]
                )
        head = ["asked of the time", "budget of", self.contest.task.unit.name, f"minus {WORDS[TIMED]}", "measured, %"]
        return table([*head, "measured again, %", "MACs, %", "seeds"], lines)

    def tables(self) -> list[str]:
        """Scores, what failed, and whose machine it was."""
        if not any(self.found(share) for share in self.shares):
            return ["Not computed yet."]
        cells = [self.cell(share, seed) for share in self.shares for seed in self.seeds]
        failed = [cell["failed"] for one in cells if (cell := self.contest.cells.get(one)) and "failed" in cell]
        return [self.scores(), *failed, self.contest.cells.machines(cells)]


def pair(
    task: Task, settings: Settings, resource: Latency, seed: int, interrupt: InterruptFlag, say: Say
) -> dict[str, Any]:
    """A network under a budget of milliseconds, and one under MACs that takes as long.

    Args:
      task: what is learned.
      settings: how DMS searches; the budget is the share of the full network's milliseconds.
      resource: how they are measured.
      seed: of everything drawn.
      interrupt, say: of the benchmark.

    Returns:
      For each, and for the "full" network: "macs", "ms" as measured by the projection, "again" measured in turn; of the
      two their scores, "kept", and the "spread" of "ms".

    Raises:
      Interrupted: the flag was up.
    """
    supernet, work = task.pretrained(seed), Phases(task, seed, interrupt, say)
    space, usual = task.space.with_resources(resource), search_of(task, settings)
    try:
        timed = replace(usual, space=space, budget={"latency": settings.budget})
        state = work.run("search", timed.step, timed.init(supernet), settings.search_steps, task.pretrain_steps)
        first = timed.structure(state)
        found = {TIMED: (first, state), COUNTED: _as_long(work, settings, usual, space, supernet, _ms(space, first))}
        scores = {key: _finetuned(work, settings, *one) for key, one in found.items()}
    except UserError as error:  # a budget that cannot be reached is a result, too
        return {"failed": str(error)}
    structures = [structure for structure, _ in found.values()]
    flats = [resource.flat(space._network.at(space.kept(s))) for s in (None, *structures)]
    again = [ms for ms, _ in in_turn([whole(flat) for flat in flats], ROUNDS)]
    full = {"macs": space.resources()["macs"], "ms": space.measured()["latency"], "again": again[0]}
    each = {
        key: {
            **scores[key],
            **size_of(task, s),
            "ms": _ms(space, s),
            "spread": space.spreads(s)["latency"],
            "again": ms,
        }
        for (key, (s, _)), ms in zip(found.items(), again[1:], strict=True)
    }
    seconds = {name: round(value, 1) for name, value in work.seconds.items()}
    return {**each, "full": full, "supernet": checksum(supernet), "seconds": seconds, "test": each[TIMED]["test"]}


def _ms(space: SearchSpace, structure: Structure) -> float:
    return space.measured(structure)["latency"]


def _as_long(
    work: Phases, settings: Settings, usual: Search, space: SearchSpace, supernet: Any, most: float
) -> tuple[Structure, SearchState]:
    """The largest budget of MACs whose network takes at most so many milliseconds, searched for under that budget."""
    share, low, high, found = settings.budget, 0.0, 1.0, None
    for _ in range(SEARCHES):
        search = replace(usual, budget={"macs": share})
        state = work.run("search", search.step, search.init(supernet), settings.search_steps, work.task.pretrain_steps)
        for _ in range(HALVINGS):
            work.say(f"{share:.3f} of the MACs")
            try:
                (structure,) = search.structures(state, [{"macs": share}])
                fits = _ms(space, structure) <= most
            except UserError:  # fewer MACs than any network has
                fits, structure = False, None
            if structure is None:
                low = share
            elif fits:
                low, found = share, (structure, state, share)
            else:
                high = share
            share = (low + high) / 2
        if found is None:
            raise UserError(f"no budget of MACs gives a network of at most {most:.3g} ms")
        share = found[2]
        low, high = share / NEARER, min(1.0, NEARER * share)
    assert found is not None
    return found[0], found[1]


def _finetuned(work: Phases, settings: Settings, structure: Structure, state: SearchState) -> dict[str, float]:
    """Scores after the steps that are left, with the optimizer of the search."""
    task = work.task
    small, optimizer = (
        task.model.clone(structure=structure),
        task.optimizer(warm_cosine(task.learning_rate, settings.steps)),
    )
    begun = supervised.init(shrink(task.space, state.params, structure), optimizer)
    begun = replace(begun, opt_state=shrink(task.space, state.opt_state, structure))
    left, start = settings.steps - settings.search_steps, task.pretrain_steps + settings.search_steps
    return task.scores(small, work.train("finetune", small, begun, optimizer, left, start), work.seed)


def studies(options: Options) -> list[Study]:
    """Of the digits and of text; quick ones of the digits alone."""
    few, text = digits.digits_contest(options), text_contest(options)
    if options.quick:
        return [Study(few, 4, lambda: tuning.best(few, digits.GRIDS[OURS]), (0.7,), 2.0, TRIED[:1])]
    return [Study(few, 64, lambda: tuning.best(few, digits.GRIDS[OURS])), Study(text, 4, lambda: usual(text))]


def main(options: Options) -> None:
    found = studies(options)
    try:
        for study in found:
            study.fill()
    finally:
        opening = (
            "lower is better, means ± standard errors over seeds; times and MACs are shares of the full network's. A "
            "positive difference means that the budget of milliseconds is better."
        )
        parts = [f"`python -m experiments.benchmarks.equal_time`: {opening} {INTERVALS}"]
        for study in found:
            parts += [f"**{heading(study.contest)}**", *study.tables()]
        write_section("equal_time", TITLE, "\n\n".join(filter(None, parts)), folder=options.pages, page="latency")


if __name__ == "__main__":
    start(main, __doc__)
