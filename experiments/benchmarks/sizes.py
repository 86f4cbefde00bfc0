"""Several sizes from one search against a search for each: a nested family, uniform slices, each size alone.

    python -m experiments.benchmarks.sizes [--quick | --tables]

A small Llama on the source of the Python standard library at 50, 20 and 10 % of its MACs, a ResNet-20 on scikit-learn's
digits at 25, 10 and 4 %; three seeds. About an hour of one core, without what it shares with other benchmarks: the
networks that are searched alone are those of `frontier` and `digits`.

What counts as a step: every network of a table takes 800 steps after pretraining, on the same batches in the same
order. Alone, a size has a search and then its finetuning. A family has one search, to the smallest size, and then joint
steps in each of which all its networks learn (the largest, the smallest, and one between, of which there is one). So
the small networks of a family take as many steps as those that are alone, and the supernet a third as many.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from experiments.benchmarks import digits, families, methods, pictures, tuning
from experiments.benchmarks.command import Options, start
from experiments.benchmarks.families import Nested, small_sizes
from experiments.benchmarks.frontier import text_contest, usual
from experiments.benchmarks.methods import OURS, Methods
from experiments.benchmarks.protocol import TRIED, Contest
from experiments.benchmarks.sections import ABOUT, heading
from experiments.benchmarks.settings import Settings
from experiments.benchmarks.store import Cell
from experiments.benchmarks.tables import INTERVALS, Spread, differences, percent, picture_link, table, write_section

TITLE = "Several sizes from one search, against a search for each"
SEEDS = (0, 1, 2)
STEPS = 800
ALONE = f"{OURS}, each size alone"
TOGETHER, TAUGHT, EACH = "family, together", "family, together, taught by the largest", "family, each size by itself"
MIDDLE = "family of a search to the middle size, together"
EVEN, EVEN_ALONE = "uniform slices, together", "uniform, each size alone"
RULE = (
    f"**What counts as a step.** Every network of a table takes {STEPS} steps after pretraining, on the same batches "
    "in the same order. Alone, a size has a search and then its finetuning. A family has one search, to the smallest "
    "size, and then joint steps in each of which all three networks learn: the largest, the smallest, and one "
    "between, of which there is one. So the small networks of a family take as many steps as those that are alone, "
    f"and the supernet a third as many. Uniform slices have no search, and {STEPS} joint steps."
)
EXPECTED = (
    "**What was expected**, written before the first cell was computed. By itself the family's smallest network is "
    "what a search alone finds, so level; the larger ones, whose ratios were found for the smallest and moved "
    "together, a little behind (0.01 to 0.03 bits). Together, one set of weights costs something, most at the largest "
    "size, whose weights serve the others, too (0.02 to 0.05 bits), and being taught gives some of it back to the "
    "smaller ones. Uniform slices together are behind the family by what uniform is behind a search alone. On the "
    "digits all differences are within errors."
)


@dataclass(frozen=True, eq=False)
class Study:
    """The table of one task.

    Attributes:
      contest: whose task; its cells are those of networks that are alone.
      sizes: fractions of the MACs, from the largest.
      search: from what is known when it is called to how DMS searches.
      quick: two of the rows, one seed.
    """

    contest: Contest
    sizes: tuple[float, ...]
    search: Callable[[], Settings]
    quick: bool = False

    @property
    def shown(self) -> tuple[float, ...]:
        """The sizes of the tables."""
        return small_sizes(len(self.sizes)) if self.quick else self.sizes

    @property
    def seeds(self) -> tuple[int, ...]:
        """Of every row."""
        return TRIED[:1] if self.quick else SEEDS

    @property
    def alone(self) -> Methods:
        """Networks that know of no other size."""
        rows = {ALONE: partial(methods.at, replace(self.search(), steps=STEPS))}
        return rows if self.quick else {**rows, EVEN_ALONE: methods.rules(["uniform"], STEPS)["uniform"]}

    @property
    def families(self) -> Mapping[str, Nested]:
        """Label -> how its sizes are made."""
        ours = Nested(replace(self.search(), steps=STEPS, budget=1.0), self.sizes, together=True)
        even = replace(ours, search=Settings("uniform", 1.0, STEPS))
        rows = {
            TOGETHER: ours,
            TAUGHT: replace(ours, taught=True),
            EACH: replace(ours, together=False),
            MIDDLE: replace(ours, aim=1),
            EVEN: even,
        }
        return {TAUGHT: rows[TAUGHT], EACH: rows[EACH]} if self.quick else rows

    @property
    def labels(self) -> list[str]:
        """The rows, in the order of the tables."""
        order = (ALONE, TOGETHER, TAUGHT, EACH, MIDDLE, EVEN, EVEN_ALONE)
        return [label for label in order if label in self.alone or label in self.families]

    def fill(self, label: str) -> None:
        """Compute what is missing of a row."""
        name = f"sizes, {label}, {self.contest.task.name}"
        if label in self.alone:
            method = self.alone[label]
            self.contest.fill(name, [(method(size), seed) for size in self.shown for seed in self.seeds])
        elif label in self.families:
            families.fill(self.contest, name, [(self.families[label], seed) for seed in self.seeds])

    def done(self, label: str, size: float) -> dict[int, dict[str, float]]:
        """{seed: scores and MACs} of the networks that are there."""
        if label in self.alone:
            return self.contest.finished(self.alone[label](size), self.seeds)
        found, place = {}, self.shown.index(size)
        for seed in self.seeds:
            cell = families.get(self.contest, self.families[label], seed)
            if cell and "failed" not in cell:
                found[seed] = {name: x[place] for name, x in cell.items() if isinstance(x, list)}
        return found

    def values(self, label: str, size: float) -> list[float]:
        """Scores, in the unit of the tables."""
        return [self.contest.task.unit.scale * found["test"] for found in self.done(label, size).values()]

    @property
    def begun(self) -> bool:
        """Whether any number of a family is there."""
        return any(self.values(label, self.shown[0]) for label in self.families)

    def scores(self) -> str:
        """A row a way; of every size mean ± standard error, and the difference to networks searched alone."""
        unit, first = self.contest.task.unit, self.labels[0]
        found = {(label, size): self.values(label, size) for label in self.labels for size in self.shown}
        others = {key: values for key, values in found.items() if key[0] != first}
        _, texts = differences(others, lambda key: found[first, key[1]], unit.digits)
        lines = []
        for label in self.labels:
            line = [label]
            for size in self.shown:
                spread = Spread.of(found[label, size])
                line += [spread.text(unit.digits), texts.get((label, size), ""), str(spread.count)]
            lines.append(line)
        heads = [x for size in self.shown for x in (f"{percent(size)} of the MACs", f"minus {first}", "seeds")]
        return table(["networks", *heads], lines)

    def costs(self) -> str:
        """MACs of every size, and CPU seconds of all sizes together, of cells from CPUs; of whole rows alone."""
        full, lines = self.contest.task.space.resources()["macs"], []
        for label in self.labels:
            macs = [Spread.of(100 * x["macs"] / full for x in self.done(label, size).values()) for size in self.shown]
            parts = ("search", "finetune", "compile")
            seconds = [Spread.of(self.seconds(label, part)).text(0) for part in parts]
            if all(x.count for x in macs):
                lines.append([label, ", ".join(f"{x.mean:.2f}" for x in macs), *seconds])
        return table(["networks", "MACs, %", "search, CPU s", "finetuning, CPU s", "compilation, CPU s"], lines)

    def seconds(self, label: str, part: str) -> list[float]:
        """CPU seconds that all sizes of a row took for one part, a number a seed."""
        found = []
        for seed in self.seeds:
            cells = self.cells(label, seed)
            if cells and all(self.contest.cells.on_cpu(cell) for cell in cells):
                results = [self.contest.cells.get(cell) or {} for cell in cells]
                found.append(sum(result.get("seconds", {}).get(part, 0.0) for result in results))
        return found

    def cells(self, label: str, seed: int) -> list[Cell]:
        """The cells behind a row."""
        if label in self.alone:
            return [self.contest.cell(self.alone[label](size), seed) for size in self.shown]
        return [families.cell_of(self.contest, self.families[label], seed)]

    def tables(self) -> list[str]:
        """Scores, what they cost, and whose machine it was."""
        if not self.begun:
            return ["Not computed yet."]
        cells = [cell for label in self.labels for seed in self.seeds for cell in self.cells(label, seed)]
        return [self.scores(), self.costs(), self.contest.cells.machines(cells)]

    def panel(self) -> pictures.Panel:
        """Its part of the picture."""
        lines = {label: {size: Spread.of(self.values(label, size)) for size in self.shown} for label in self.labels}
        return pictures.Panel(lines, self.contest.task.unit.name, heading(self.contest))


def studies(options: Options) -> Sequence[Study]:
    """Of text and of the digits."""
    text, few = text_contest(options), digits.digits_contest(options)
    return [
        Study(text, (0.5, 0.2, 0.1), lambda: usual(text), options.quick),
        Study(few, (0.25, 0.1, 0.04), lambda: tuning.best(few, digits.GRIDS[OURS]), options.quick),
    ]


def main(options: Options) -> None:
    found = studies(options)
    try:
        for label in (TOGETHER, EACH, EVEN, ALONE, EVEN_ALONE, MIDDLE, TAUGHT):
            for study in found:
                study.fill(label)
    finally:
        better = f"{ABOUT}networks that were searched alone are better."
        parts = [f"`python -m experiments.benchmarks.sizes`: {better} {INTERVALS}", RULE, EXPECTED]
        figure = pictures.scores_over_macs([study.panel() for study in found])
        parts.append(picture_link(TITLE, pictures.save(figure, options.pictures / "sizes.svg"), options.pages))
        for study in found:
            parts += [f"**{heading(study.contest)}**", *study.tables()]
        write_section("sizes", TITLE, "\n\n".join(filter(None, parts)), folder=options.pages)


if __name__ == "__main__":
    start(main, __doc__)
