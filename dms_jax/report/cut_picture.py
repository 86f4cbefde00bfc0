"""A picture of the importance of elements, and where each group was cut."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dms_jax.report.drawing import BLUE, MUTED, RULE, WIDTH, even_choice, new_figure, place, printable, styled
from dms_jax.report.run_files import Record

MOST_GROUPS = 16
ROW_HEIGHT = 1.35  # inches
LEAST = 1e-4
"""Of a group's largest importance: what is below is drawn there."""


def ranked_groups(structure: Record, results: Record) -> dict[str, Record]:
    """{group: its importances in order} of those that are still there and whose importances the run wrote down."""
    groups = (results.get("network") or {}).get("groups") or {}
    ranked = {name: groups.get(name, {}).get("importance") for name in structure["groups"]}
    gone = {name for name, group in structure["groups"].items() if group.get("removed")}
    return {name: found for name, found in ranked.items() if found is not None and name not in gone}


@styled
def cut(structure: Record, results: Record) -> Figure:
    """Draws the importance of the elements of every group in order, and where the group was cut.

    Args:
      structure: the content of `structure.json`.
      results: the content of `results.json`; its "network" has the importances.

    Returns:
      At most `MOST_GROUPS` curves, evenly spread over the network; the title says how many.

    Raises:
      ValueError: the run has no importances.
    """
    ranked = ranked_groups(structure, results)
    if not ranked:
        raise ValueError("the run wrote no importances down")
    names = [list(ranked)[i] for i in even_choice(len(ranked), MOST_GROUPS)]
    columns = min(4, len(names))
    rows = math.ceil(len(names) / columns)
    some = f"all {len(ranked)} groups" if len(names) == len(ranked) else f"{len(names)} of {len(ranked)} groups"
    subtitle = "In shares of the largest of the group, most important first. Blue: kept. Gray: dropped."
    figure = new_figure(rows * ROW_HEIGHT + 0.1, f"Importance of elements: {some}", subtitle)
    pitch = (WIDTH - 0.15) / columns
    for index, name in enumerate(names):
        row, column = divmod(index, columns)
        axes = place(figure, 0.5 + column * pitch, 0.2 + row * ROW_HEIGHT, pitch - 0.5, 0.75)
        _draw(axes, name, ranked[name], structure["groups"][name])
    return figure


def _draw(axes: Axes, name: str, ranked: Record, group: Record) -> None:
    at, values = np.array(ranked["at"]) + 0.5, np.maximum(np.array(ranked["values"]), LEAST)
    kept, size = ranked["kept"], group["size"]
    # every element is as wide as a rank; between those that were written down the curve is straight
    at, values = np.array([0.0, *at, size]), np.array([values[0], *values, values[-1]])
    fine = np.unique([*np.linspace(0, size, 257), kept])
    curve = np.exp(np.interp(fine, at, np.log(values)))
    for part, color in ((fine <= kept, BLUE), (fine >= kept, MUTED)):
        axes.fill_between(
            fine[part], LEAST, curve[part], color=color, linewidth=0, alpha=1.0 if color == BLUE else 0.45
        )
    axes.axvline(kept, color=MUTED, linewidth=0.8, linestyle=(0, (3, 2)))
    axes.set_yscale("log")
    axes.set_ylim(LEAST, 1)
    axes.set_yticks([LEAST, 1e-2, 1], ["0.0001", "0.01", "1"])
    axes.set_yticks([], minor=True)
    axes.set_xlim(0, size)
    axes.set_xticks([0, kept, size] if 0.12 < kept / size < 0.88 else [0, size])
    axes.grid(axis="y", color=RULE, linewidth=0.5)
    axes.set_title(f"{printable(name, 30)}: {kept:,} of {size:,}", fontsize=7.5, loc="left")
    axes.tick_params(labelsize=7)
