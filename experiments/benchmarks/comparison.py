"""Methods side by side: means over seeds, and differences to DMS from the same supernet."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from experiments.benchmarks.command import Contest
from experiments.benchmarks.methods import Methods
from experiments.benchmarks.tables import Spread, paired, table

Seeds = Callable[[str, float], Sequence[int]]
"""Of a method at a budget."""


def always(seeds: Sequence[int]) -> Seeds:
    """The same seeds for every method and budget."""
    return lambda label, budget: seeds


def percent(budget: float) -> str:
    """`20 %`."""
    return f"{100 * budget:g} %"


def tables(contest: Contest, methods: Methods, budgets: Sequence[float], seeds: Seeds, ours: str) -> list[str]:
    """Scores, what they cost at the middle one of the budgets, which cells have none, and whose machine it was.

    Args:
      contest: where the cells are.
      methods: label -> settings at a budget.
      budgets: fractions of the MACs, in the order of the columns.
      seeds: of a method at a budget.
      ours: the label that the others are compared with; a positive difference means that `ours` is better.
    """
    middle = budgets[(len(budgets) - 1) // 2]
    cells = [contest.cell(methods[m](budget), seed) for m in methods for budget in budgets for seed in seeds(m, budget)]
    return [
        compare(contest, methods, budgets, seeds, ours),
        costs(contest, methods, middle, seeds),
        failures(contest, methods, budgets, seeds),
        contest.cells.machines(cells),
    ]


def compare(contest: Contest, methods: Methods, budgets: Sequence[float], seeds: Seeds, ours: str) -> str:
    """A table: a row a method; for every budget mean ± standard error, the paired difference to `ours`, and seeds."""
    header, scale, digits = ["method"], contest.task.unit.scale, contest.task.unit.digits
    for budget in budgets:
        header += [f"{percent(budget)} of the MACs", f"minus {ours}", "seeds"]

    def values(label: str, budget: float) -> dict[int, float]:
        found = contest.values(methods[label](budget), seeds(label, budget))
        return {seed: scale * value for seed, value in found.items()}

    rows = []
    for label in methods:
        row = [label]
        for budget in budgets:
            spread = Spread.of(values(label, budget).values())
            difference = paired(values(ours, budget), values(label, budget)).text(digits, sign=True)
            row += [spread.text(digits), "" if label == ours else difference, str(spread.count)]
        rows.append(row)
    return table(header, rows)


def costs(contest: Contest, methods: Methods, budget: float, seeds: Seeds) -> str:
    """A table of MACs at one budget, and of the seconds of cells from CPUs; methods without cells there have no row."""
    rows = []
    for label, settings in methods.items():
        done = contest.finished(settings(budget), seeds(label, budget))
        if not done:
            continue
        timed = [r for seed, r in done.items() if contest.cells.on_cpu(contest.cell(settings(budget), seed))]
        parts = {
            name: Spread.of(cell["seconds"].get(name, 0.0) for cell in timed).text(0)
            for name in ("search", "finetune", "compile")
        }
        macs = Spread.of(cell["macs"] / contest.task.space.resources()["macs"] * 100 for cell in done.values())
        rows.append([label, macs.text(2), *parts.values()])
    header = [f"method, {percent(budget)}", "MACs, %", "search, CPU s", "finetuning, CPU s", "compilation, CPU s"]
    return table(header, rows)


def failures(contest: Contest, methods: Methods, budgets: Sequence[float], seeds: Seeds) -> str:
    """Lines on cells that ended without numbers; empty where there are none."""
    lines = []
    for label, settings in methods.items():
        for budget in budgets:
            for seed in seeds(label, budget):
                cell = contest.get(settings(budget), seed)
                if cell and "failed" in cell:
                    lines.append(f"{label}, {percent(budget)}, seed {seed}: {cell['failed']}")
    return "\n\n".join(lines)
