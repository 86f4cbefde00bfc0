"""Pictures of a structure: the width of every layer, the blocks kept in every stage."""

import itertools
import math
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from dms_jax.report.drawing import (
    MUTED,
    SERIES,
    WIDTH,
    new_figure,
    place,
    printable,
    rule_off,
    styled,
)
from dms_jax.report.run_files import Record

LEGEND = "Outline: full network. Filled: kept."


@dataclass(frozen=True)
class _Line:
    """One line of the picture of widths: the bar of a group, or the heading of a stage (no group)."""

    text: str
    group: Record | None = None
    stage: str | None = None  # the heading it stands under


@dataclass(frozen=True)
class _Layout:
    """Sizes in inches, and type in points, for a number of columns."""

    columns: int
    line: float
    type_size: float

    @property
    def letter(self) -> float:
        return 0.0086 * self.type_size  # the width of an average letter


@styled
def widths(structure: Record) -> Figure:
    """Draws the width of every layer before and after a search, in the order of the network.

    Args:
      structure: the content of `structure.json`; depth groups are left to `depth`.

    Returns:
      One bar a group: the outline is its size in the full network, the filled part what is kept. Bars are on
      a square-root scale where the widest group is over 16 times the narrowest, and the axis says so.

    Raises:
      ValueError: every group is a depth group.
    """
    groups = {name: group for name, group in structure["groups"].items() if group["kind"] != "depth"}
    if not groups:
        raise ValueError("the structure has no width groups to draw")
    lines = _lines(groups)
    layout = _layout(len(lines))
    columns = _columns(lines, layout.columns)
    longest = max(map(len, columns))
    figure = new_figure(longest * layout.line + 0.55, _widths_title(structure, groups), LEGEND)
    pitch = WIDTH / layout.columns
    label_width = max(len(line.text) for line in lines) * layout.letter + 0.15
    number_width = max(len(_kept_of(group)) for group in groups.values()) * layout.letter + 0.05
    colors = _kind_colors(groups)
    for index, column in enumerate(columns):
        bar_width = pitch - label_width - number_width - 0.15
        height = len(column) * layout.line
        axes = place(figure, index * pitch + label_width, 0, bar_width, height)
        _scale(axes, [group["size"] for group in groups.values()], bar_width)
        _draw_column(axes, column, layout, colors, left=-label_width / bar_width)
    if len(colors) > 1:
        patches = [Patch(color=color, label=printable(kind)) for kind, color in colors.items()]
        figure.legend(handles=patches, loc="upper right", ncols=len(patches), bbox_to_anchor=(0.99, 0.99))
    return figure


@styled
def depth(structure: Record) -> Figure:
    """Draws which removable blocks every stage keeps: a filled square is kept, an empty one removed.

    Args:
      structure: the content of `structure.json`.

    Raises:
      ValueError: the structure has no depth group.
    """
    groups = {name: group for name, group in structure["groups"].items() if group["kind"] == "depth"}
    if not groups:
        raise ValueError("the structure has no depth groups to draw")
    kept = sum(len(group["kept"]) for group in groups.values())
    total = sum(group["size"] for group in groups.values())
    title = f"{kept} of {total} removable blocks are kept"
    line = 0.26
    figure = new_figure(
        len(groups) * line + 0.1, title, "One square a removable block, the first at the left. Filled: kept."
    )
    names = {name: printable(name.removesuffix("/depth"), 40) for name in groups}
    label_width = max(map(len, names.values())) * 0.075 + 0.15
    most = max(group["size"] for group in groups.values())
    cell = min(line, (WIDTH - label_width - 0.9) / most)
    axes = place(figure, label_width, 0, cell * most, len(groups) * line)
    axes.set(xlim=(0, most), ylim=(len(groups), 0))
    axes.set_axis_off()
    for row, (name, group) in enumerate(groups.items()):
        _draw_blocks(axes, row, group, cell / line)
        axes.text(-label_width / cell, row + 0.5, names[name], va="center")
        axes.text(group["size"] + 0.1 / cell, row + 0.5, _kept_of(group), va="center", color=MUTED)
    return figure


def _draw_blocks(axes: Axes, row: int, group: Record, aspect: float) -> None:
    kept = set(group["kept"])
    side = 0.72
    for block in range(group["size"]):
        axes.bar(
            block + 0.5,
            side * min(1.0, aspect),
            width=side,
            bottom=row + 0.5 - side * min(1.0, aspect) / 2,
            facecolor=SERIES[0] if block in kept else "none",
            edgecolor=SERIES[0] if block in kept else MUTED,
            linewidth=0.7,
        )


def _lines(groups: Record) -> list[_Line]:
    """Headings and bars: neighbours of one stage (the first part of their names) under its heading."""
    lines: list[_Line] = []
    for stage, members in itertools.groupby(groups.items(), key=lambda item: item[0].split("/")[0]):
        named = list(members)
        if len(named) == 1:
            lines.append(_Line(printable(named[0][0], 24), named[0][1]))
            continue
        heading = printable(stage, 24)
        lines.append(_Line(heading))
        for name, group in named:
            lines.append(_Line(printable(name.split("/", 1)[-1], 24), group, heading))
    return lines


def _layout(lines: int) -> _Layout:
    if lines <= 36:
        return _Layout(columns=1, line=0.19, type_size=8.5)
    if lines <= 100:
        return _Layout(columns=2, line=0.165, type_size=7.5)
    return _Layout(columns=3, line=0.14, type_size=6.8)


def _columns(lines: list[_Line], count: int) -> list[list[_Line]]:
    """Cuts the lines into columns of about one length; a stage that is cut repeats its heading."""
    length = math.ceil(len(lines) / count)
    columns: list[list[_Line]] = []
    while lines:
        size = length
        if len(lines) > length > 1 and lines[length - 1].group is None:
            size -= 1  # a heading does not end a column
        column, lines = lines[:size], lines[size:]
        stage = column[0].stage
        columns.append([_Line(f"{stage}, continued"), *column] if stage is not None else column)
    return columns


def _scale(axes: Axes, sizes: list[int], inches: float) -> None:
    widest = max(sizes)
    square_root = widest > 16 * min(sizes)
    if square_root:
        axes.set_xscale("function", functions=(_signed_root, _signed_square))
    axes.set_xlim(0, widest)
    ticks = _nice_ticks(widest, square_root, max(2, int(inches / 0.8)))
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.set_xlabel("elements, square-root scale" if square_root else "elements", fontsize=8)
    rule_off(axes, "x")


def _signed_root(x: Any) -> Any:
    return abs(x) ** 0.5


def _signed_square(x: Any) -> Any:
    return x**2


def _nice_ticks(widest: int, square_root: bool, count: int) -> list[int]:
    """Powers of two (or equal steps) up to the widest group: widths are made of powers of two."""
    if square_root:
        top = 2 ** math.floor(math.log2(widest))
        return sorted({0, *(top // 4**i for i in range(count) if top // 4**i > widest / 200)})
    step = max(1, 2 ** round(math.log2(widest / count)))
    return list(range(0, widest + 1, step))


def _draw_column(axes: Axes, column: list[_Line], layout: _Layout, colors: dict[str, str], left: float) -> None:
    """Draws bars, names and numbers; `left` is where the column begins, in widths of the axes."""
    axes.set_ylim(len(column) - 0.5, -0.5)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    bars = [(row, line.group) for row, line in enumerate(column) if line.group is not None]
    rows = [row for row, _ in bars]
    fills = [colors[group["kind"]] for _, group in bars]
    axes.barh(rows, [len(group["kept"]) for _, group in bars], height=0.66, color=fills)
    sizes = [group["size"] for _, group in bars]
    axes.barh(rows, sizes, height=0.66, facecolor="none", edgecolor=MUTED, linewidth=0.6)
    style: dict[str, Any] = {"va": "center", "fontsize": layout.type_size}
    beside = axes.get_yaxis_transform()
    for row, line in enumerate(column):
        if line.group is None:
            axes.text(left, row, line.text, transform=beside, fontweight="bold", **style)
            continue
        axes.text(left * (1 if line.stage is None else 0.93), row, line.text, transform=beside, **style)
        number_at = (line.group["size"], row)
        offset: dict[str, Any] = {"xytext": (3, 0), "textcoords": "offset points"}
        axes.annotate(_kept_of(line.group), number_at, color=MUTED, **offset, **style)


def _kept_of(group: Record) -> str:
    return f"{len(group['kept']):,} / {group['size']:,}"


def _kind_colors(groups: Record) -> dict[str, str]:
    kinds = dict.fromkeys(group["kind"] for group in groups.values())
    return {kind: SERIES[index % len(SERIES)] for index, kind in enumerate(kinds)}


def _widths_title(structure: Record, groups: Record) -> str:
    kept = sum(len(group["kept"]) for group in groups.values())
    total = sum(group["size"] for group in groups.values())
    name = printable(structure["model"]["name"])
    return f"{name} keeps {kept:,} of {total:,} elements in {len(groups)} groups"
