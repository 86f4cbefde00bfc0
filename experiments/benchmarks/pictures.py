"""The pictures of the tables, and how pictures become files."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator

from dms_jax.report.drawing import INK, MUTED, RULE, SERIES, styled
from experiments.benchmarks.sharing import replacing
from experiments.benchmarks.tables import Spread, percent

MARKERS = "osD^v<>Pph*"
STYLES = ("-", "--", ":")
LEAST_SECONDS = 0.01
"""Where what costs nothing stands on a logarithmic axis."""
PLAIN = "{x:g}"
"""Of the numbers of logarithmic axes; powers would need mathematical type, which names of groups forbid."""

Lines = Mapping[str, Mapping[float, Spread]]
"""Label -> where on the x axis -> score."""


@dataclass(frozen=True)
class Panel:
    """Scores over budgets.

    Attributes:
      lines: label -> fraction of the MACs -> score; a label stands for the same method in all panels.
      unit: of the scores.
      title: above the panel.
      levels: label -> score of what has one budget alone.
    """

    lines: Lines
    unit: str
    title: str = ""
    levels: Mapping[str, Spread] = field(default_factory=dict)


def _row(count: int, **options: Any) -> tuple[Figure, Sequence[Axes]]:
    """Panels side by side."""
    figure = Figure(figsize=(9.0, 4.2), layout="constrained")
    return figure, figure.subplots(1, max(1, count), squeeze=False, **options)[0]


def _look(i: int, line: bool = False) -> dict[str, Any]:
    """Of what is drawn `i`th: points alone, or a line with points."""
    style = STYLES[i // len(SERIES) % len(STYLES)] if line else ""
    return {"color": SERIES[i % len(SERIES)], "marker": MARKERS[i % len(MARKERS)], "linestyle": style}


@styled
def scores_over_macs(panels: Sequence[Panel]) -> Figure:
    """Draw scores over MACs with standard errors, a line a method, panels side by side under one legend."""
    width = 7.0 if len(panels) == 1 else 9.0
    figure = Figure(figsize=(width, 4.2), layout="constrained")
    row = figure.subplots(1, len(panels), squeeze=False)[0]
    names = list(dict.fromkeys(label for panel in panels for label in panel.lines))
    handles = {}
    for axes, drawn in zip(row, panels, strict=True):
        for label, spreads in drawn.lines.items():
            aside = 1 + 0.008 * (names.index(label) - len(names) / 2)  # so that lines do not hide each other
            _line(axes, names.index(label), label, {100 * b * aside: s for b, s in spreads.items() if s.count})
        for label, spread in drawn.levels.items():
            _level(axes, label, spread)
        budgets = sorted({budget for spreads in drawn.lines.values() for budget in spreads})
        axes.set_xscale("log")
        axes.set_xticks([100 * b for b in budgets], [percent(b) for b in budgets])
        axes.minorticks_off()
        axes.set_xlabel("MACs")
        axes.set_ylabel(drawn.unit)
        axes.set_title(textwrap.fill(drawn.title, 88 // len(panels)), loc="left", fontsize="small")
        handles |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    if handles:
        labels = [textwrap.fill(label, 36) for label in handles]  # a wide legend would push the panels together
        figure.legend(handles.values(), labels, loc="outside right upper")
    return figure


def _line(axes: Axes, i: int, label: str, spreads: Mapping[float, Spread]) -> None:
    if not spreads:
        return
    means, errors = zip(*((spread.mean, _error(spread)) for spread in spreads.values()), strict=True)
    axes.errorbar(list(spreads), means, errors, label=label, markersize=4, capsize=2, **_look(i, line=True))


def _level(axes: Axes, label: str, spread: Spread) -> None:
    if spread.count:
        error = _error(spread)
        axes.axhspan(spread.mean - error, spread.mean + error, color="0.5", alpha=0.3, linewidth=0)
        axes.axhline(spread.mean, label=label, color="0.3", linestyle=":")


def _error(spread: Spread) -> float:
    """Its standard error; 0 where one value alone has none."""
    return 0.0 if np.isnan(spread.error) else spread.error


@styled
def differences(tables: Mapping[str, Mapping[str, Spread]], unit: str) -> Figure:
    """Draw differences to a usual setting with their intervals, a row a setting, under the names of their tables."""
    rows: list[tuple[str, Spread | None]] = []
    for name, spreads in tables.items():
        rows += [(name, None), *spreads.items()]
    figure = Figure(figsize=(7.0, 0.8 + 0.19 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    axes.axvline(0.0, color=MUTED, linewidth=1)
    for y, (_, spread) in enumerate(rows):
        if spread is not None and spread.count:
            axes.errorbar(spread.mean, y, xerr=_error(spread), color=SERIES[0], marker="o", markersize=4, capsize=2)
            axes.axhline(y, color=RULE, linewidth=0.4)
    axes.set_yticks(range(len(rows)), [label for label, _ in rows])
    for tick, (_, spread) in zip(axes.get_yticklabels(), rows, strict=True):
        tick.set_color(INK if spread is None else MUTED)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel(f"{unit} more than usual")
    return figure


@styled
def regrets(
    everything: Sequence[tuple[float, float]], behind: Mapping[str, Mapping[float, Sequence[float]]], unit: str
) -> Figure:
    """Draw all structures as dots, and how far behind the best ones the picks of every method are.

    Args:
      everything: (share of the MACs, score) of every structure.
      behind: method -> budget -> the score of each pick less that of the best structure there is.
      unit: of the scores.
    """
    figure, (cloud, row) = _row(2, gridspec_kw={"width_ratios": (3, 4)})
    cloud.plot([100 * x for x, _ in everything], [y for _, y in everything], linestyle="", marker=".", markersize=3,
               color=MUTED)  # fmt: skip
    cloud.set_xlabel("MACs, %")
    cloud.set_ylabel(unit)
    budgets = list(dict.fromkeys(budget for found in behind.values() for budget in found))
    for i, budget in enumerate(budgets):
        cloud.axvline(100 * budget, color=SERIES[i], linewidth=1)
        points = [
            (value, y + 0.12 * (k - (len(found[budget]) - 1) / 2))  # equal ones beside each other
            for y, found in enumerate(behind.values())
            for k, value in enumerate(found.get(budget, ()))
        ]
        x, y = [x for x, _ in points], [y + 0.4 * (i / max(1, len(budgets) - 1) - 0.5) for _, y in points]
        row.plot(x, y, markersize=4, label=percent(budget), **_look(i))
    row.axvline(0.0, color=MUTED, linewidth=1)
    row.set_yticks(range(len(behind)), list(behind))
    row.set_ylim(len(behind) - 0.5, -0.5)
    row.set_xlabel(f"{unit} behind the best")
    figure.legend(loc="outside lower right", ncols=max(1, len(budgets)))
    return figure


@styled
def costs(panels: Mapping[str, Mapping[str, tuple[float, Spread]]], unit: str) -> Figure:
    """Draw scores over CPU seconds, a point a method.

    Args:
      panels: title -> method -> (CPU seconds, score).
      unit: of the scores.
    """
    figure, row = _row(len(panels), sharey=True)
    for axes, (title, methods) in zip(row, panels.items(), strict=False):
        axes.axhline(0.0, color=MUTED, linewidth=1)
        for i, (label, (seconds, score)) in enumerate(methods.items()):
            x = max(seconds, LEAST_SECONDS)
            axes.errorbar(x, score.mean, _error(score), label=label, markersize=5, capsize=2, **_look(i))
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(PLAIN)
        axes.set_title(title, loc="left", fontsize="medium")
        axes.set_xlabel("CPU seconds")
    row[0].set_ylabel(unit)
    handles, labels = row[0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=2)
    return figure


@styled
def misses(panels: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]]) -> Figure:
    """Draw by how much budgets were missed.

    Args:
      panels: resource -> method -> (asked for as a fraction, achieved / asked for).
    """
    figure, row = _row(len(panels), sharey=True)
    for axes, (resource, methods) in zip(row, panels.items(), strict=True):
        axes.axhline(0.0, color=MUTED, linewidth=1)
        for i, (label, points) in enumerate(methods.items()):
            x, y = [100 * asked for asked, _ in points], [100 * (ratio - 1) for _, ratio in points]
            axes.plot(x, y, markersize=3, alpha=0.6, label=label, **_look(i))
        axes.set_xscale("log")
        axes.set_yscale("symlog", linthresh=0.1)
        axes.xaxis.set_major_formatter(PLAIN)
        axes.yaxis.set_major_formatter(PLAIN)
        axes.set_title(f"budgets on {resource}", loc="left", fontsize="medium")
        axes.set_xlabel("asked for, % of the full network")
    row[0].set_ylabel("achieved over asked for, % above or below")
    figure.legend(*row[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


@styled
def growth(times: Mapping[str, Mapping[int, float]]) -> Figure:
    """Draw seconds a call over sizes, both on logarithmic axes, a line a contender."""
    figure, (axes,) = _row(1)
    for i, (label, seconds) in enumerate(times.items()):
        ms = [1e3 * s for s in seconds.values()]
        axes.plot(list(seconds), ms, label=label, markersize=4, **_look(i, line=True))
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.yaxis.set_major_formatter(PLAIN)
    axes.set_xlabel("elements")
    axes.set_ylabel("ms a call, forward and gradient")
    figure.legend(loc="outside right upper")
    return figure


@styled
def tracks(panels: Mapping[str, Sequence[tuple[str, Sequence[float]]]], promised: float) -> Figure:
    """Draw r over target along searches, a line a search, panels side by side.

    Args:
      panels: title -> (label, log(r / target) at even distances of the way after the warm-up) of every search; searches
        of one label have one color.
      promised: |log(r / target)| that is shaded.
    """
    figure, row = _row(len(panels), sharey=True)
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
    figure, (axes,) = _row(1)
    x = [depth for depth, spread in curve.items() if spread.count]
    means, errors = [curve[depth].mean for depth in x], [_error(curve[depth]) for depth in x]
    axes.errorbar(x, means, errors, color=MUTED, marker=".", capsize=2, label="even networks")
    for i, (label, points) in enumerate(picks.items()):
        beside = [depth + 0.12 * (i - len(picks) / 2) for depth, _ in points]
        axes.plot(beside, [score for _, score in points], markersize=4, label=label, **_look(i))
    axes.set_xlabel("blocks kept")
    axes.set_ylabel(unit)
    figure.legend(loc="outside right upper")
    return figure


@styled
def save(figure: Figure, path: Path) -> Path:
    """Write a figure as SVG on white, text as text; equal figures give equal bytes."""
    with replacing(path) as part:
        figure.savefig(part, format="svg", metadata={"Date": None})
    return path
