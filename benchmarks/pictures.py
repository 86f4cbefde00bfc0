"""The picture of a comparison, and how pictures become files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.cells import Spread
from benchmarks.command import Contest
from benchmarks.comparison import Seeds, percent
from benchmarks.contest import CONTROL
from benchmarks.methods import Methods
from dms_jax.report.drawing import SERIES, styled

MARKERS = "osD^v<>Pph*"


@styled
def frontier(contest: Contest, methods: Methods, budgets: Sequence[float], seeds: Seeds) -> Figure:
    """Draw scores over MACs with standard errors, a line a method."""
    figure = Figure(figsize=(7.0, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for i, (label, settings) in enumerate(methods.items()):
        spreads = {b: Spread.of(contest.values(settings(b), seeds(label, b)).values()) for b in budgets}
        if settings(budgets[0]).strategy == CONTROL:  # the same network at every budget
            _level(axes, label, next(iter(spreads.values())))
            continue
        aside = 1 + 0.008 * (i - len(methods) / 2)  # so that lines do not hide each other
        _line(axes, i, label, {100 * b * aside: spread for b, spread in spreads.items() if spread.count})
    axes.set_xscale("log")
    axes.set_xticks([100 * b for b in budgets], [percent(b) for b in budgets])
    axes.minorticks_off()
    axes.set_xlabel("MACs")
    axes.set_ylabel(contest.task.unit.name)
    if axes.get_legend_handles_labels()[0]:
        axes.legend()
    return figure


def _line(axes: Axes, i: int, label: str, spreads: dict[float, Spread]) -> None:
    if not spreads:
        return
    means = [spread.mean for spread in spreads.values()]
    errors = [0.0 if np.isnan(spread.error) else spread.error for spread in spreads.values()]
    axes.errorbar(
        list(spreads), means, errors, label=label, color=SERIES[i % len(SERIES)], marker=MARKERS[i % len(MARKERS)],
        markersize=4, capsize=2, linestyle="-" if i < len(SERIES) else "--",
    )  # fmt: skip


def _level(axes: Axes, label: str, spread: Spread) -> None:
    if spread.count:
        error = 0.0 if np.isnan(spread.error) else spread.error
        axes.axhspan(spread.mean - error, spread.mean + error, color="0.5", alpha=0.3, linewidth=0)
        axes.axhline(spread.mean, label=label, color="0.3", linestyle=":")


@styled
def save(figure: Figure, path: Path) -> Path:
    """Write a figure as SVG on white, text as text; equal figures give equal bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="svg", metadata={"Date": None})
    return path
