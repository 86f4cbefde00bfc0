"""Pictures of what was measured step by step: resources against their targets, losses, accuracy."""

import itertools
import math
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dms_jax.report.drawing import (
    BLUE,
    GREEN,
    MUTED,
    ORANGE,
    PURPLE,
    WIDTH,
    inches_wide,
    log_axis,
    new_figure,
    place,
    printable,
    rule_off,
    styled,
)
from dms_jax.report.quantities import share
from dms_jax.report.run_files import Record

Points = list[tuple[float, float]]

LABELS = 0.75  # inches left of axes for the name of the values and ticks as wide as 0.0001
MOST_POINTS = 300  # of a curve; more are averaged block by block
# These follow one another; every other phase is a control, to be compared with the retraining.
PIPELINE = ("pretrain", "search", "finetune")

_COLORS = {"pretrain": MUTED, "search": BLUE, "finetune": GREEN}
_CONTROLS = (PURPLE, ORANGE, BLUE, MUTED)
_DASHES = ((0, ()), (0, (5, 1.5)), (0, (1.5, 1)), (0, (6, 1.5, 1.5, 1.5)))


def budgeted(records: Sequence[Record]) -> list[str]:
    """Returns the resources that have a target in the search's records, by name."""
    search = _phase(records, "search")
    known = sorted({key.removesuffix("_target") for record in search for key in record if key.endswith("_target")})
    return [name for name in known if _points(search, f"{name}_target") and _points(search, name)]


@styled
def resources(records: Sequence[Record], words: Mapping[str, str]) -> Figure:
    """Draws resources against their targets over the steps of a search, and the weight of the resource loss.

    Args:
      records: the lines of `metrics.jsonl`. Those of the phase "search" hold `macs` and `macs_target` (or
        `params` and `params_target`), fractions of the full network, and `weight_macs`, the multiplier.
      words: what to call each resource: {"macs": "MACs"}.

    Raises:
      ValueError: no record of the search has both a resource and its target.
    """
    names = budgeted(records)
    if not names:
        raise ValueError("no record of the search has a resource and its target")
    search = _phase(records, "search")
    weighted = any(_points(search, f"weight_{name}") for name in names)
    subtitle = "Resources of the network that would be kept, in per cent of the full one."
    subtitle += _averaging(search, names[0])
    figure = new_figure(4.1 if weighted else 3.05, _resources_title(search, names, words), subtitle)
    pitch = WIDTH / len(names)
    for index, name in enumerate(names):
        left, width = index * pitch + LABELS, pitch - LABELS - 0.15
        axes = place(figure, left, 0.1, width, 2.4)
        _draw_resource(axes, search, name, _called(name, words))
        if weighted:
            axes.set_xlabel("")
            axes.tick_params(labelbottom=False)
            _draw_weight(place(figure, left, 2.75, width, 0.85), search, name)
    return figure


@styled
def losses(records: Sequence[Record]) -> Figure:
    """Draws the loss of every phase over its own steps, and the accuracy below it where it was measured.

    Pretraining, search and retraining stand side by side on one scale; controls are drawn over the
    retraining.

    Args:
      records: the lines of `metrics.jsonl`, each with `phase`, `step` (counted within the phase), and `loss`,
        `task_loss` or `accuracy` (a fraction) where measured.

    Raises:
      ValueError: no record has a finite loss.
    """
    if not _points(records, "loss"):
        raise ValueError("no record has a finite loss")
    panels = _panels(records)
    measured = bool(_points(records, "accuracy"))
    phases = dict.fromkeys(printable(phase, 20) for panel in panels for phase in panel)
    title = f"Loss over the steps of {_listing(list(phases))}"
    subtitle = f"Every phase counts its own steps.{_averaging(records, 'loss')}"
    figure = new_figure(4.75 if measured else 3.25, title, subtitle)
    for index, (panel, left, width) in enumerate(_side_by_side(records, panels)):
        upper = place(figure, left, 0.25, width, 2.45)
        _draw_losses(upper, records, panel)
        column = [upper]
        if measured:
            column.append(place(figure, left, 2.95, width, 1.25))
            _draw_accuracies(column[1], records, panel)
            upper.set_xlabel("")
            upper.tick_params(labelbottom=False)
        for axes in column[: len(column) * (index > 0)]:
            axes.set_ylabel("")
            axes.tick_params(labelleft=False)
    return figure


def _draw_resource(axes: Axes, search: Sequence[Record], name: str, called: str) -> None:
    reached = _thin(_points(search, name, scale=100))
    target = _thin(_points(search, f"{name}_target", scale=100))
    axes.plot(*_xy(reached), color=BLUE, label="network kept", drawstyle="steps-post")
    axes.plot(*_xy(target), color=ORANGE, linestyle=(0, (4, 2)), label="target")
    values = [y for _, y in reached + target]
    logarithmic = max(values) > 5 * min(values) > 0
    _value_axis(axes, values, logarithmic)
    note = " (log scale)" if logarithmic else ""
    axes.set_ylabel(f"{called}, % of full{note}")
    axes.legend(loc="upper right")
    _step_axis(axes, search, "step of the search")


def _draw_weight(axes: Axes, search: Sequence[Record], name: str) -> None:
    points = _points(search, f"weight_{name}")
    axes.plot(*_xy(points), color=MUTED, drawstyle="steps-post")
    axes.set_ylim(0, 1.15 * max([y for _, y in points], default=1.0) or 1.0)
    axes.yaxis.set_major_locator(MaxNLocator(3))
    rule_off(axes, "y")
    axes.set_ylabel("weight of the\nresource loss")
    _step_axis(axes, search, "step of the search")


def _draw_losses(axes: Axes, records: Sequence[Record], panel: Sequence[str]) -> None:
    for index, phase in enumerate(panel):
        lines = _phase(records, phase)
        task, total = _thin(_points(lines, "task_loss")), _thin(_points(lines, "loss"))
        color = _color(panel, index)
        if task:  # the total also holds the resource loss: the task's is the one to compare between phases
            axes.plot(*_xy(total), color=color, linewidth=0.9, linestyle=(0, (1, 1.2)), label="task and resources")
            axes.plot(*_xy(task), color=color, label="task")
        else:
            axes.plot(*_xy(total), color=color, linestyle=_DASHES[index % 4], label=printable(phase, 20))
    if len(axes.lines) > 1:
        axes.legend(loc="upper right", fontsize=7.5)
    axes.set_title(_panel_title(panel), fontsize=9, loc="left")
    values = [y for name in ("loss", "task_loss") for _, y in _points(records, name)]
    logarithmic = min(values) > 0 and max(values) > 20 * min(values)
    _value_axis(axes, values, logarithmic)
    axes.set_ylabel("loss (log scale)" if logarithmic else "loss")
    _step_axis(axes, [record for record in records if record["phase"] in panel], "step")


def _draw_accuracies(axes: Axes, records: Sequence[Record], panel: Sequence[str]) -> None:
    for index, phase in enumerate(panel):
        points = _thin(_points(_phase(records, phase), "accuracy", scale=100))
        axes.plot(
            *_xy(points),
            color=_color(panel, index),
            linestyle=_DASHES[index % 4],
            marker="o" if len(points) < 40 else "",
            markersize=2.5,
        )
    if not _points([record for record in records if record["phase"] in panel], "accuracy"):
        axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", va="center", color=MUTED)
    _value_axis(axes, [y for _, y in _points(records, "accuracy", scale=100)], logarithmic=False)
    axes.set_ylabel("accuracy, %")
    _step_axis(axes, [record for record in records if record["phase"] in panel], "step")


def _value_axis(axes: Axes, values: Sequence[float], logarithmic: bool) -> None:
    low, high = min(values), max(values)
    if logarithmic:
        log_axis(axes, low, high)
    else:
        margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
        axes.set_ylim(low - margin, high + margin)
        axes.yaxis.set_major_locator(MaxNLocator(5))
    rule_off(axes, "y")


def _step_axis(axes: Axes, records: Sequence[Record], label: str) -> None:
    steps = [record["step"] for record in records]
    first, last = min(steps), max(steps)
    axes.set_xlim(first, last if last > first else first + 1)
    inches = inches_wide(axes)
    axes.xaxis.set_major_locator(MaxNLocator(max(1, min(8, int(inches / 0.6))), integer=True))
    axes.set_xlabel(label)


def _panels(records: Sequence[Record]) -> list[list[str]]:
    """The phases of each panel: one a phase of the pipeline, controls with the retraining."""
    present = list(dict.fromkeys(record["phase"] for record in records if _points([record], "loss")))
    panels = [[phase] for phase in PIPELINE if phase in present]
    controls = [phase for phase in present if phase not in PIPELINE]
    if controls and "finetune" in present:
        panels[-1] += controls
    elif controls:
        panels.append(controls)
    return panels


def _panel_title(panel: Sequence[str]) -> str:
    if panel[0] == "finetune" and len(panel) > 1:
        return "finetune and controls"
    return printable(panel[0], 20) if len(panel) == 1 else "controls"


def _side_by_side(
    records: Sequence[Record], panels: Sequence[Sequence[str]]
) -> list[tuple[Sequence[str], float, float]]:
    """Panels with their left edges and widths in inches: as wide as their steps are many, none too narrow."""
    spans = []
    for panel in panels:
        steps = [record["step"] for record in records if record["phase"] in panel]
        spans.append(max(steps) - min(steps) + 1)
    room = WIDTH - LABELS - 0.15 - 0.2 * (len(panels) - 1)
    least = min(1.8, room / len(panels))
    spare = room - least * len(panels)
    widths = [least + spare * span / sum(spans) for span in spans]
    lefts = [LABELS + total + 0.2 * index for index, total in enumerate(itertools.accumulate([0.0, *widths[:-1]]))]
    return list(zip(panels, lefts, widths, strict=True))


def _color(panel: Sequence[str], index: int) -> str:
    controls = [phase for phase in panel if phase not in _COLORS]
    phase = panel[index]
    return _COLORS[phase] if phase in _COLORS else _CONTROLS[controls.index(phase) % len(_CONTROLS)]


def _resources_title(search: Sequence[Record], names: Sequence[str], words: Mapping[str, str]) -> str:
    ends = []
    for name in names:
        reached, target = _points(search, name)[-1][1], _points(search, f"{name}_target")[-1][1]
        ends.append(f"{_called(name, words)} {share(reached)} (target {share(target)})")
    return f"At the end of the search: {', '.join(ends)}"


def _called(name: str, words: Mapping[str, str]) -> str:
    return printable(words.get(name, name), 30)


def _averaging(records: Sequence[Record], name: str) -> str:
    phases = {record["phase"] for record in records}
    block = max(_block(_points(_phase(records, phase), name)) for phase in phases)
    return f" A point is the mean of up to {block} records." if block > 1 else ""


def _listing(names: Sequence[str]) -> str:
    *before, last = names
    return f"{', '.join(before)} and {last}" if before else last


def _phase(records: Sequence[Record], phase: str) -> list[Record]:
    return [record for record in records if record["phase"] == phase]


def _points(records: Sequence[Record], name: str, scale: float = 1.0) -> Points:
    """Steps and finite values of a quantity, where it was recorded."""
    points = [(record["step"], record.get(name)) for record in records]
    return [(step, scale * value) for step, value in points if isinstance(value, int | float) and math.isfinite(value)]


def _thin(points: Points) -> Points:
    """Means of equal blocks, so that no curve has over MOST_POINTS points."""
    block = _block(points)
    if block == 1:
        return points
    blocks = [points[start : start + block] for start in range(0, len(points), block)]
    return [(sum(x for x, _ in b) / len(b), sum(y for _, y in b) / len(b)) for b in blocks]


def _block(points: Points) -> int:
    return max(1, math.ceil(len(points) / MOST_POINTS))


def _xy(points: Points) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]
