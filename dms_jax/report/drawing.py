"""What all pictures share: colours, type, and axes placed in inches."""

import math
from collections.abc import Sequence

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dms_jax.report.quantities import without_controls

# Hues of Okabe and Ito, told apart by colour-blind readers. The first value is for light paper, the second
# for a dark screen; a figure is drawn in the first, and a page replaces each by a CSS variable of that name.
COLORS = {
    "ink": ("#22272e", "#e4e7eb"),
    "muted": ("#656d78", "#98a1ad"),
    "rule": ("#d4d8dd", "#3a414b"),
    "blue": ("#0072b2", "#5eb3e6"),
    "orange": ("#d55e00", "#f08c4b"),
    "green": ("#00875f", "#45c79d"),
    "purple": ("#a8508a", "#dd9cc6"),
}
INK, MUTED, RULE, BLUE, ORANGE, GREEN, PURPLE = (light for light, _ in COLORS.values())
SERIES = (BLUE, ORANGE, GREEN, PURPLE, MUTED)
# A raster cannot follow the theme: this blue stands out from white paper and from a dark screen.
HEAT = (0x2F / 255, 0x8A / 255, 0xC9 / 255)

WIDTH = 9.0  # inches; 864 CSS pixels, the text width of the page
TITLE_HEIGHT = 0.62  # inches above the axes of every picture
MARGIN = 0.12  # inches around a picture; a page leaves them out

_SETTINGS = {
    "font.family": ["sans-serif"],
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 8.5,
    "text.color": INK,
    # a group's name may hold any character, `$` included
    "text.parse_math": False,
    "axes.facecolor": "none",
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "figure.dpi": 96,
    "savefig.dpi": 192,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "svg.fonttype": "none",
    "svg.hashsalt": "dms_jax",
}

# A decorator: draws with matplotlib's own defaults and these settings, whatever the user's are.
styled = matplotlib.style.context(["default", _SETTINGS])


def new_figure(height: float, title: str, subtitle: str = "") -> Figure:
    """Returns a figure `height` inches high under its title; axes are placed with `place`."""
    size = (WIDTH + 2 * MARGIN, height + TITLE_HEIGHT + 2 * MARGIN)
    figure = Figure(figsize=size, facecolor="white")
    left, top = MARGIN / size[0], 1 - MARGIN / size[1]
    figure.text(left, top - 0.02 / size[1], title, va="top", fontsize=11, fontweight="bold")
    figure.text(left, top - 0.27 / size[1], subtitle, va="top", color=MUTED)
    return figure


def place(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Returns new axes of a size in inches, `top` inches below the title, with quiet ticks."""
    total_width, total_height = figure.get_size_inches()
    bottom = total_height - MARGIN - TITLE_HEIGHT - top - height
    bounds = (
        (MARGIN + left) / total_width,
        bottom / total_height,
        width / total_width,
        height / total_height,
    )
    axes = figure.add_axes(bounds)
    axes.tick_params(which="both", color=MUTED, labelcolor=INK, labelsize=8, width=0.6, length=3)
    return axes


def inches_wide(axes: Axes) -> float:
    """Returns the width of axes in inches."""
    return axes.get_position().width * (WIDTH + 2 * MARGIN)


def rule_off(axes: Axes, axis: str) -> None:
    """Draws fine lines at the ticks of `axis` ("x" or "y")."""
    axes.grid(axis=axis, color=RULE, linewidth=0.5)  # pyright: ignore[reportArgumentType]


def log_axis(axes: Axes, low: float, high: float, labels: str = "{:g}") -> None:
    """Makes the y axis logarithmic from `low` to `high`, with plain numbers at 1, 2 and 5 of each decade."""
    margin = (high / low) ** 0.05
    low, high = low / margin, high * margin
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if high / low < 500 else (1,)
    ticks = [step * 10.0**decade for decade in decades for step in steps]
    ticks = [tick for tick in ticks if low <= tick <= high]
    axes.set_yscale("log")
    axes.set_ylim(low, high)
    axes.set_yticks(ticks, [labels.format(tick) for tick in ticks])
    axes.set_yticks([], minor=True)


def printable(name: str, length: int = 32) -> str:
    """Returns a name fit to draw: no control characters, the middle left out where it is too long."""
    clean = without_controls(" ".join(name.split("\n")))
    if len(clean) <= length:
        return clean
    head = (length - 1) // 2
    return f"{clean[:head]}…{clean[head + 1 - length :]}"


def even_choice(count: int, limit: int) -> Sequence[int]:
    """Returns at most `limit` indices below `count`, evenly spread, first and last among them."""
    if count <= limit:
        return range(count)
    return [round(i * (count - 1) / (limit - 1)) for i in range(limit)]
