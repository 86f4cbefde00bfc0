"""Pictures of the method that no report of a run has: the operator, why ranks, and widths over a search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import accumulate

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dms_jax.report.drawing import BLUE, GREEN, INK, MUTED, ORANGE, PURPLE, WIDTH, new_figure, place, rule_off, styled
from dms_jax.report.run_files import Record
from dms_jax.topk import normalize_importance, soft_mask

ELEMENTS, RATIO, FINE = 32, 0.5, 1024
SHARPNESSES = ((0.25, ORANGE, "λ = N/4"), (1.0, BLUE, "λ = N"), (4.0, GREEN, "λ = 4N"))
"""As multiples of N: N for widths, 4N for depth and heads, and a softer one beside them."""
HUES = (BLUE, ORANGE, GREEN, PURPLE, INK)


# --- the operator ---


@styled
def operator() -> Figure:
    """Draws the mask and its derivative in the ratio over the rank, for three sharpnesses."""
    title = "The sharper the mask, the fewer elements the ratio feels"
    subtitle = f"{ELEMENTS} elements (dots) by importance, a = {RATIO:g}. Widths take λ = N, depth and heads 4N."
    figure = new_figure(2.85, title, subtitle)
    panels = place(figure, 0.55, 0.3, 3.75, 2.1), place(figure, 5.15, 0.3, 3.75, 2.1)
    for multiple, color, label in SHARPNESSES:
        for axes, dots, curve in zip(panels, _curves(ELEMENTS, multiple), _curves(FINE, multiple), strict=True):
            axes.plot(np.arange(FINE) / FINE, curve, color=color, linewidth=1.1)
            axes.plot(np.arange(ELEMENTS) / ELEMENTS, dots, "o", color=color, markersize=3, label=label)
    for axes in panels:
        axes.axvline(RATIO, color=MUTED, linewidth=0.6, linestyle=(0, (3, 2)))
        axes.set_xlabel("rank of the element, c' = rank / N")
        axes.set_xlim(-0.01, 1.0)
        rule_off(axes, "y")
    _label_operator(*panels)
    return figure


@partial(jax.jit, static_argnums=0)
def _curves(size: int, multiple: float) -> tuple[jax.Array, jax.Array]:
    """Mask and derivative of `size` elements in ascending order, at the sharpness of ELEMENTS of them."""

    def mask(ratio: jax.Array) -> jax.Array:
        return soft_mask(jnp.arange(size, dtype=jnp.float32), ratio, sharpness=multiple * ELEMENTS)

    return jax.jvp(mask, (jnp.float32(RATIO),), (jnp.float32(1.0),))


def _label_operator(mask: Axes, slope: Axes) -> None:
    mask.set_title("forward: the mask m", loc="left", fontsize=8.5)
    slope.set_title("gradient: dm/da", loc="left", fontsize=8.5)
    mask.set_ylim(-0.03, 1.03)
    slope.set_ylim(-ELEMENTS * 1.06, ELEMENTS * 0.04)
    mask.text(RATIO + 0.01, -0.01, "a", color=MUTED)
    (soft, color, name), (_, usual, usual_name), (_, sharp, sharp_name) = SHARPNESSES
    mask.text(0.27, 0.21, name, color=color, ha="right")
    mask.text(0.395, 0.065, usual_name, color=usual, ha="right")
    mask.text(0.49, 0.9, sharp_name, color=sharp, ha="right")
    slope.text(0.22, -ELEMENTS * 0.12, name, color=color)
    slope.text(0.57, -ELEMENTS * 0.2, usual_name, color=usual)
    slope.text(0.52, -ELEMENTS * 0.8, sharp_name, color=sharp)


# --- ranks ---


@styled
def ranks(importance: Mapping[str, np.ndarray]) -> Figure:
    """Draws one group's raw importance, and how many elements stay at a ratio, raw and by rank, in every group.

    Args:
      importance: {group: [N]} as a search gathered it.
    """
    scaled = {name: _scaled(c) for name, c in importance.items()}
    shown = max(scaled, key=lambda name: len(scaled[name]))
    half = float(np.median([np.median(c) for c in scaled.values()]))
    title = f"On raw importance, a ratio of {half:.2f} drops half of the elements; on ranks, one of 0.50"
    subtitle = f"Taylor importance of a pretrained ResNet on digits; {half:.2f} is the median of {len(scaled)} groups."
    figure = new_figure(2.85, title, subtitle)
    _draw_bars(place(figure, 0.55, 0.3, 3.75, 2.1), shown, scaled[shown])
    _draw_kept(place(figure, 5.15, 0.3, 3.75, 2.1), scaled)
    return figure


def _scaled(importance: np.ndarray) -> np.ndarray:
    """c scaled to [0, 1] in its group, as DMS without normalisation takes it."""
    low, high = float(importance.min()), float(importance.max())
    return (importance - low) / (high - low or 1.0)


def _draw_bars(axes: Axes, name: str, scaled: np.ndarray) -> None:
    order = np.argsort(scaled, kind="stable")
    axes.bar(np.arange(len(order)), scaled[order], width=0.8, color=ORANGE)
    rank = np.asarray(normalize_importance(scaled))[order]
    axes.plot(np.arange(len(order)), rank, color=BLUE)
    axes.set_title(f"one group, {name}: its {len(order)} elements, sorted", loc="left", fontsize=8.5)
    axes.text(0.42, 0.52, "rank / N", color=BLUE, transform=axes.transAxes, ha="right")
    axes.text(0.6, 0.22, "raw, scaled to [0, 1]", color=ORANGE, transform=axes.transAxes, ha="center")
    axes.set_xlabel("elements, the least important first")
    axes.set_ylabel("c'")
    axes.set_xlim(-0.6, len(order) - 0.4)
    axes.set_ylim(0, 1.03)
    rule_off(axes, "y")


def _draw_kept(axes: Axes, scaled: Mapping[str, np.ndarray]) -> None:
    ratio = np.linspace(0, 1, 401)
    for c in scaled.values():
        axes.plot(ratio, [100 * np.mean(c >= a) for a in ratio], color=ORANGE, linewidth=0.8, drawstyle="steps-post")
    axes.plot([0, 1], [100, 0], color=BLUE, linewidth=1.8)
    axes.set_title("what a ratio keeps of every group", loc="left", fontsize=8.5)
    axes.text(0.55, 50, "rank / N: every group", color=BLUE)
    axes.text(0.4, 33, "raw:\na line a group", color=ORANGE)
    axes.set_xlabel("pruning ratio a")
    axes.set_ylabel("elements kept, %")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 103)
    rule_off(axes, "y")


# --- widths over a search ---


@styled
def widths(mask_records: Sequence[Record], structure: Record) -> Figure:
    """Draws how many elements the masks of every width group keep over the steps of a search, a panel a stage.

    Args:
      mask_records: the lines of `masks.jsonl`.
      structure: the content of `structure.json`.
    """
    names = [name for name, group in structure["groups"].items() if group["kind"] == "width"]
    stages = list(dict.fromkeys(name.split("/")[0] for name in names if "/" in name))
    panels = {stage: [n for n in names if n.startswith(stage + "/")] for stage in stages}
    panels[stages[0]] = [n for n in names if "/" not in n] + panels[stages[0]]
    title = "Widths during the search: every group finds its own"
    subtitle = "Elements with a mask of at least 1/2. Dotted: the block was removed, and its inner widths with it."
    figure = new_figure(2.85, title, subtitle)
    pitch = WIDTH / len(panels)
    for index, (stage, groups) in enumerate(panels.items()):
        axes = place(figure, 0.45 + index * pitch, 0.3, pitch - 1.42, 2.15)
        axes.set_title(stage, loc="left", fontsize=8.5)
        _draw_counts(axes, mask_records, {name: structure["groups"][name] for name in groups}, stage)
        if index == 0:
            axes.set_ylabel("elements kept")
    return figure


def _draw_counts(axes: Axes, mask_records: Sequence[Record], groups: Mapping[str, Record], stage: str) -> None:
    steps = [record["step"] for record in mask_records]
    ends: list[tuple[int, str, str]] = []
    for index, (name, group) in enumerate(groups.items()):
        counts = [sum(byte > 127 for byte in bytes.fromhex(record["masks"][name])) for record in mask_records]
        color = HUES[index % len(HUES)]
        style = (0, (1, 1.2)) if group["removed"] else "-"
        axes.plot(steps, counts, color=color, linestyle=style, drawstyle="steps-post")
        number = "removed" if group["removed"] else f"{counts[-1]}"
        ends.append((counts[-1], f"{name.removeprefix(stage + '/')} {number}", color))
    axes.set_xlim(steps[0], max(steps[-1], steps[0] + 1))
    axes.set_ylim(0, 1.03 * max(group["size"] for group in groups.values()))
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.set_xlabel("step of the search")
    rule_off(axes, "y")
    ends.sort()
    for (_, text, color), y in zip(
        ends, _apart([count for count, *_ in ends], 0.065 * axes.get_ylim()[1]), strict=True
    ):
        axes.annotate(text, (1.03, y), xycoords=("axes fraction", "data"), color=color, va="center", fontsize=7.5)


def _apart(heights: Sequence[float], least: float) -> list[float]:
    """Ascending heights moved up until neighbours are `least` apart."""
    return list(accumulate(heights, lambda below, height: max(height, below + least)))
