"""Pictures of searches: how near they stay to their target, and how deep a network should be and is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator

from dms_jax.report.drawing import MUTED, RULE, SERIES, styled
from experiments.benchmarks.pictures import MARKERS, PLAIN
from experiments.benchmarks.tables import Spread


@styled
def tracks(panels: Mapping[str, Sequence[tuple[str, Sequence[float]]]], promised: float) -> Figure:
    """Draw r over target along searches, a line a search, panels side by side.

    Args:
      panels: title -> (label, log(r / target) at even distances of the way after the warm-up) of every search; searches
        of one label have one color.
      promised: |log(r / target)| that is shaded.
    """
    figure = Figure(figsize=(9.0, 4.2), layout="constrained")
    row = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    labels = sorted({label for lines in panels.values() for label, _ in lines})
    for axes, (title, lines) in zip(row, panels.items(), strict=True):
        axes.axhspan(np.exp(-promised), np.exp(promised), color=RULE, alpha=0.6, linewidth=0)
        for label, line in lines:
            x, color = (np.arange(len(line)) + 0.5) / max(1, len(line)), SERIES[labels.index(label)]
            axes.plot(x, np.exp(line), color=color, linewidth=0.7, alpha=0.6)
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=20))
        axes.yaxis.set_major_formatter(PLAIN)
        axes.yaxis.set_minor_locator(NullLocator())
        axes.set_xlim(0, 1)
        axes.set_title(title, loc="left", fontsize="medium")
        axes.set_xlabel("share of the steps after the warm-up")
    row[0].set_ylabel("r over target")
    handles = [Line2D([], [], color=SERIES[i], label=label) for i, label in enumerate(labels)]
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=len(labels))
    return figure


@styled
def depths(curve: Mapping[int, Spread], picks: Mapping[str, Sequence[tuple[int, float]]], unit: str) -> Figure:
    """Draw the score of every depth, and what methods picked at their own scores.

    Args:
      curve: number of blocks -> score of the even network.
      picks: method -> (number of blocks, score) of every seed.
      unit: of the scores.
    """
    figure = Figure(figsize=(9.0, 4.2), layout="constrained")
    axes = figure.add_subplot()
    x = [depth for depth, spread in curve.items() if spread.count]
    means = [curve[depth].mean for depth in x]
    errors = [0.0 if np.isnan(curve[depth].error) else curve[depth].error for depth in x]
    axes.errorbar(x, means, errors, color=MUTED, marker=".", capsize=2, label="even networks")
    for i, (label, points) in enumerate(picks.items()):
        axes.plot(
            [depth + 0.12 * (i - len(picks) / 2) for depth, _ in points], [score for _, score in points], linestyle="",
            color=SERIES[i % len(SERIES)], marker=MARKERS[i % len(MARKERS)], markersize=4, label=label,
        )  # fmt: skip
    axes.set_xlabel("blocks kept")
    axes.set_ylabel(unit)
    figure.legend(loc="outside right upper")
    return figure
