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
from typing import Any

from dms_jax.budgets.latency import Latency
from dms_jax.errors import UserError
from dms_jax.method.search import Search
from dms_jax.method.state import SearchState
from dms_jax.shrink import shrink
from dms_jax.space import SearchSpace
from dms_jax.structure import Structure
from dms_jax.training.interrupt import InterruptFlag
from experiments.benchmarks import digits, tuning
from experiments.benchmarks.command import Options, start
from experiments.benchmarks.finding import search_of
from experiments.benchmarks.frontier import text_contest, usual
from experiments.benchmarks.latency import ROUNDS, in_turn
from experiments.benchmarks.methods import OURS
from experiments.benchmarks.protocol import TRIED, Contest, checksum, size_of
from experiments.benchmarks.sections import heading
from experiments.benchmarks.settings import Made, Settings
from experiments.benchmarks.store import Cell, Say
from experiments.benchmarks.tables import INTERVALS, Spread, differences, percent, table
from experiments.benchmarks.tasks import Phases, Task

TITLE = "Accuracy at equal measured time: milliseconds against MACs"
SHARES, SEEDS, STEPS = (0.5, 0.25), (0, 1, 2), 800
TIMED, COUNTED = "timed", "counted"
WORDS = {TIMED: "milliseconds", COUNTED: "MACs, as long"}
"""Of the tables."""
HALVINGS, SEARCHES = 5, 2
NEARER = 1.25
"""Times the MACs that were found, up and down, where the second search is bisected."""


@dataclass(frozen=True)
class Pair(Made):
    """Two networks that take as long.

    Attributes:
      search: how DMS searches; its budget is the share of the full network's milliseconds.
      batch: inputs at once.
      seconds: that pieces are measured for.
    """

    search: Settings
    batch: int
    seconds: float = 60.0

    @property
    def small(self) -> Pair:
        """The same in a few steps."""
        return replace(self, search=replace(self.search.small, budget=self.search.budget))

    def cell(self, task: Task, seed: int) -> Cell:
        """The cell of both networks."""
        found, own = self.search.cell(task, seed), {"batch": self.batch, "seconds": self.seconds}
        label = f"{100 * self.search.budget:g}"
        return Cell(f"{task.name}_time", label, {**found.identity, **own}, {**found.settings, **own}, seed)


@dataclass(frozen=True, eq=False)
class Study:
    """One task.

    Attributes:
      contest: where the cells lie.
      pair: from a share of the full network's time to the two networks.
      shares: of the full network's time.
      seeds: of every share.
    """

    contest: Contest
    pair: Callable[[float], Pair]
    shares: Sequence[float] = SHARES
    seeds: Sequence[int] = SEEDS

    def fill(self) -> None:
        """Compute what is missing."""
        asked = [(self.pair(share), seed) for seed in self.seeds for share in self.shares]
        self.contest.fill(f"equal time, {self.contest.task.name}", asked)

    def scores(self) -> str:
        """A row a share and budget."""
        unit, lines = self.contest.task.unit, []
        found = {share: list(self.contest.finished(self.pair(share), self.seeds).values()) for share in self.shares}
        values = {(s, key): [unit.scale * c[key]["test"] for c in found[s]] for s in self.shares for key in WORDS}
        counted = {share: values[share, COUNTED] for share in self.shares}
        _, texts = differences(counted, lambda share: values[share, TIMED], unit.digits)
        for (share, key), scores in values.items():
            shares = [
                Spread.of(100 * cell[key][name] / cell["full"][name] for cell in found[share]).text(1)
                for name in ("ms", "again", "macs")
            ]
            score, difference = Spread.of(scores), texts[share] if key == COUNTED else ""
            line = [percent(share), WORDS[key], score.text(unit.digits), difference, *shares, str(score.count)]
            lines.append(line)
        head = ["asked of the time", "budget of", unit.name, f"minus {WORDS[TIMED]}", "measured, %"]
        return table([*head, "measured again, %", "MACs, %", "seeds"], lines)

    def tables(self) -> list[str]:
        """Scores, what failed, and whose machine it was."""
        cells = [self.contest.cell(self.pair(share), seed) for share in self.shares for seed in self.seeds]
        found = [cell for one in cells if (cell := self.contest.cells.get(one))]
        failed = [cell["failed"] for cell in found if "failed" in cell]
        if len(failed) == len(found):
            return ["Not computed yet."]
        return [self.scores(), *failed, self.contest.cells.machines(cells)]


def pair(task: Task, settings: Pair, seed: int, interrupt: InterruptFlag, say: Say) -> dict[str, Any]:
    """A network under a budget of milliseconds, and one under MACs that takes as long.

    Args:
      task: what is learned.
      settings: how DMS searches, and how milliseconds are measured.
      seed: of everything drawn.
      interrupt, say: of the benchmark.

    Returns:
      For each, and for the "full" network: "macs", "ms" as measured by the projection, "again" measured in turn; of the
      two their scores, "kept", and the "spread" of "ms".

    Raises:
      Interrupted: the flag was up.
    """
    resource, how = Latency(batch=settings.batch, seconds=settings.seconds), settings.search
    supernet, work = task.pretrained(seed), Phases(task, seed, interrupt, say)
    space, usual = task.space.with_resources(resource), search_of(task, how)
    try:
        timed = replace(usual, space=space, budget={"latency": how.budget})
        state = work.run("search", timed.step, timed.init(supernet), how.search_steps, task.options.pretrain_steps)
        first = timed.structure(state)
        found = {TIMED: (first, state), COUNTED: _as_long(work, how, usual, space, supernet, _ms(space, first))}
        scores = {key: _finetuned(work, how, *one) for key, one in found.items()}
    except UserError as error:  # a budget that cannot be reached is a result, too
        return {"failed": str(error)}
    again = in_turn(space, resource, (None, *(structure for structure, _ in found.values())), ROUNDS)
    full = {"macs": space.resources()["macs"], "ms": space.measured()["latency"], "again": again[0]}
    each = {}
    for (key, (s, _)), ms in zip(found.items(), again[1:], strict=True):
        times = {"ms": _ms(space, s), "spread": space.spreads(s)["latency"], "again": ms}
        each[key] = {**scores[key], **size_of(task, s), **times}
    return {**each, "full": full, "supernet": checksum(supernet), "seconds": work.spent, "test": each[TIMED]["test"]}


def _ms(space: SearchSpace, structure: Structure) -> float:
    return space.measured(structure)["latency"]


def _as_long(
    work: Phases, settings: Settings, usual: Search, space: SearchSpace, supernet: Any, most: float
) -> tuple[Structure, SearchState]:
    """The largest budget of MACs whose network takes at most so many milliseconds, searched for under that budget."""
    share, low, high, found = settings.budget, 0.0, 1.0, None
    start = work.task.options.pretrain_steps
    for _ in range(SEARCHES):
        search = replace(usual, budget={"macs": share})
        state = work.run("search", search.step, search.init(supernet), settings.search_steps, start)
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
    task, small = work.task, work.task.model.clone(structure=structure)
    left, start = settings.steps - settings.search_steps, task.options.pretrain_steps + settings.search_steps
    variables, opt_state = (shrink(task.space, tree, structure) for tree in (state.params, state.opt_state))
    return task.scores(small, work.finetune(small, variables, left, start, opt_state, settings.steps).params, work.seed)


def study(contest: Contest, batch: int, search: Callable[[], Settings], **measured: Any) -> Study:
    """Of a task, how it is measured, and how DMS searches as far as that is known when it is called."""

    def made(share: float) -> Pair:
        return Pair(replace(search(), steps=STEPS, budget=share), batch, **measured)

    return Study(replace(contest, compute=pair), made)


def studies(options: Options) -> list[Study]:
    """Of the digits and of text; quick ones of the digits alone."""
    few, text = digits.digits_contest(options), text_contest(options)

    def best() -> Settings:
        return tuning.best(few, digits.GRIDS[OURS])

    if options.quick:
        return [replace(study(few, 4, best, seconds=2.0), shares=(0.7,), seeds=TRIED[:1])]
    return [study(few, 64, best), study(text, 4, lambda: usual(text))]


def main(options: Options) -> None:
    found = studies(options)
    try:
        for one in found:
            one.fill()
    finally:
        opening = (
            "lower is better, means ± standard errors over seeds; times and MACs are shares of the full network's. A "
            "positive difference means that the budget of milliseconds is better."
        )
        parts = [f"`python -m experiments.benchmarks.equal_time`: {opening} {INTERVALS}"]
        for one in found:
            parts += [f"**{heading(one.contest)}**", *one.tables()]
        options.publish("equal_time", TITLE, parts, page="latency")


if __name__ == "__main__":
    start(main, __doc__)
