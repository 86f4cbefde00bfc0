"""Methods side by side: means over seeds, and differences to DMS from the same supernet."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.cells import Spread, paired
from benchmarks.command import Contest, table
from benchmarks.contest import Settings

Methods = Mapping[str, Callable[[float], Settings]]
Seeds = Callable[[str, float], Sequence[int]]  # of a method at a budget


def percent(budget: float) -> str:
    """`20 %`."""
    return f"{100 * budget:g} %"


def compare(
    contest: Contest,
    methods: Methods,
    budgets: Sequence[float],
    seeds: Seeds,
    ours: str,
    *,
    digits: int = 3,
    scale: float = 1.0,
) -> str:
    """A table: a row a method; for every budget mean ± standard error, seeds, and the paired difference to `ours`.

    Args:
      contest: where the cells are.
      methods: label -> settings at a budget.
      budgets: fractions.
      seeds: of a method at a budget.
      ours: the label that the others are compared with; a positive difference means that `ours` is better.
      digits: after the point.
      scale: what scores are multiplied by (100 for per cent).
    """
    header = ["method"]
    for budget in budgets:
        header += [f"{percent(budget)} of the MACs", f"minus {ours}", "seeds"]
    rows = []
    for label, settings in methods.items():
        row = [label]
        for budget in budgets:
            mine = {k: scale * v for k, v in contest.values(settings(budget), seeds(label, budget)).items()}
            reference = contest.values(methods[ours](budget), seeds(ours, budget))
            difference = paired({k: scale * v for k, v in reference.items()}, mine)
            spread = Spread.of(mine.values())
            row += [spread.text(digits), "" if label == ours else difference.text(digits, sign=True), str(spread.count)]
        rows.append(row)
    return table(header, rows)


def costs(contest: Contest, methods: Methods, budget: float, seeds: Seeds) -> str:
    """A table of CPU seconds, MACs and steps at one budget."""
    rows = []
    for label, settings in methods.items():
        cells = [contest.get(settings(budget), seed) for seed in seeds(label, budget)]
        done = [cell for cell in cells if cell and "seconds" in cell]
        parts = {
            name: Spread.of(cell["seconds"].get(name, 0.0) for cell in done).text(0)
            for name in ("search", "finetune", "compile")
        }
        macs = Spread.of(cell["macs"] / contest.task.space.resources()["macs"] * 100 for cell in done)
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


def draw_frontier(
    contest: Contest, methods: Methods, budgets: Sequence[float], seeds: Seeds, path: Path, ylabel: str
) -> None:
    """The picture: scores over MACs with standard errors, a line a method, as SVG; equal numbers give equal bytes."""
    from matplotlib.figure import Figure

    from dms_jax.report.drawing import SERIES, styled

    @styled
    def draw() -> None:
        figure = Figure(figsize=(7.0, 4.2), layout="constrained")
        axes = figure.add_subplot()
        markers = "osD^v<>Pph*"
        for i, (label, settings) in enumerate(methods.items()):
            points = [(b, Spread.of(contest.values(settings(b), seeds(label, b)).values())) for b in budgets]
            points = [(100 * b * (1 + 0.008 * (i - len(methods) / 2)), s) for b, s in points if s.count]
            if not points:
                continue
            x, spreads = zip(*points, strict=True)
            errors = [0.0 if np.isnan(s.error) else s.error for s in spreads]
            axes.errorbar(
                x, [s.mean for s in spreads], errors, label=label, color=SERIES[i % len(SERIES)],
                marker=markers[i % len(markers)], markersize=4, capsize=2, linestyle="-" if i < len(SERIES) else "--",
            )  # fmt: skip
        axes.set_xscale("log")
        axes.set_xticks([100 * b for b in budgets], [percent(b) for b in budgets])
        axes.minorticks_off()
        axes.set_xlabel("MACs")
        axes.set_ylabel(ylabel)
        if axes.get_legend_handles_labels()[0]:
            axes.legend()
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="svg", metadata={"Date": None})

    draw()
