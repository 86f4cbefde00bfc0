"""A picture of the masks over the steps of a search."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dms_jax.report.drawing import (
    HEAT,
    MUTED,
    WIDTH,
    even_choice,
    inches_wide,
    new_figure,
    place,
    printable,
    styled,
)
from dms_jax.report.run_files import Record

MOST_GROUPS = 16
ROW_HEIGHT = 1.85  # inches
MOST_ROWS, MOST_COLUMNS = 256, 240  # of a heat map's pixels


def chosen_groups(mask_records: Sequence[Record], structure: Record) -> tuple[list[str], int]:
    """Returns the groups that `masks` draws, in the network's order, and how many have masks at all."""
    last = mask_records[-1]["masks"] if mask_records else {}
    recorded = [name for name in structure["groups"] if name in last]
    return [recorded[index] for index in even_choice(len(recorded), MOST_GROUPS)], len(recorded)


@styled
def masks(mask_records: Sequence[Record], structure: Record) -> Figure:
    """Draws masks over the steps of a search: one heat map a group, its elements sorted by their last mask.

    Args:
      mask_records: the lines of `masks.jsonl` in order of steps: `step`, and `masks`, which has one byte
        (255 * mask) an element in hexadecimal for every group.
      structure: the content of `structure.json`; it gives the order of the groups and the elements kept.

    Returns:
      At most `MOST_GROUPS` heat maps, evenly spread from the first layer to the last; the title says how
      many.

    Raises:
      ValueError: no mask was recorded.
    """
    names, recorded = chosen_groups(mask_records, structure)
    if not names:
        raise ValueError("no masks were recorded")
    columns = min(4, len(names))
    rows = math.ceil(len(names) / columns)
    some = f"{len(names)} of {recorded} groups, evenly spread over the network"
    title = "Masks during the search: " + (some if len(names) < recorded else f"all {recorded} groups")
    subtitle = "One row an element, sorted by its last mask."
    figure = new_figure(rows * ROW_HEIGHT + 0.1, title, subtitle)
    pitch = (WIDTH - 0.15) / columns
    for index, name in enumerate(names):
        row, column = divmod(index, columns)
        axes = place(figure, 0.5 + column * pitch, 0.3 + row * ROW_HEIGHT, pitch - 0.5, 1.2)
        _draw_heat(axes, mask_records, name, structure["groups"][name])
        if column == 0:
            axes.set_ylabel("elements")
            axes.yaxis.set_label_coords(-0.1 / inches_wide(axes), 0.5)  # between the ticks 0 and N
        if index + columns >= len(names):
            axes.set_xlabel("step of the search")
    _draw_key(place(figure, WIDTH - 1.15, -0.32, 0.9, 0.09))
    return figure


def _draw_heat(axes: Axes, mask_records: Sequence[Record], name: str, group: Record) -> None:
    records = [record for record in mask_records if name in record["masks"]]
    steps = [record["step"] for record in records]
    mask_ExS = np.stack([_decode(record["masks"][name]) for record in records], axis=1)
    kept = set(group["kept"])
    order = sorted(range(len(mask_ExS)), key=lambda e: (mask_ExS[e, -1], e in kept, mask_ExS[e].sum()), reverse=True)
    image = _pixels(mask_ExS[order], steps)
    first, last = steps[0], max(steps[-1], steps[0] + 1)
    axes.imshow(_heat(image), extent=(first, last, 0, len(order)), aspect="auto", interpolation="none", origin="lower")
    axes.set_title(f"{printable(name, 30)}\n{len(kept):,} of {len(order):,} kept", fontsize=7.5, loc="left")
    for side in axes.spines.values():
        side.set_visible(True)
    axes.xaxis.set_major_locator(MaxNLocator(3, integer=True))
    axes.set_yticks([0, len(order)], ["0", f"{len(order):,}"])
    axes.tick_params(labelsize=7)


def _draw_key(axes: Axes) -> None:
    ramp = np.linspace(0, 1, 64)[None, :]
    axes.imshow(_heat(ramp), extent=(0, 1, 0, 1), aspect="auto", interpolation="none")
    axes.set_xticks([])
    axes.set_yticks([])
    for side in axes.spines.values():
        side.set_visible(True)
    axes.text(-0.08, 0.5, "mask 0", ha="right", va="center", color=MUTED, fontsize=8)
    axes.text(1.08, 0.5, "1", va="center", color=MUTED, fontsize=8)


def _decode(text: str) -> np.ndarray:
    return np.frombuffer(bytes.fromhex(text), np.uint8) / 255


def _pixels(mask_ExS: np.ndarray, steps: Sequence[int]) -> np.ndarray:
    """Elements by time: means where there are more elements than rows, the last record before each column."""
    elements = len(mask_ExS)
    if elements > MOST_ROWS:
        edges = np.linspace(0, elements, MOST_ROWS + 1).astype(int)
        mask_ExS = np.add.reduceat(mask_ExS, edges[:-1], axis=0) / np.diff(edges)[:, None]
    # Steps need not be evenly spaced, pixels are.
    count = min(MOST_COLUMNS, max(1, steps[-1] - steps[0]))
    times = steps[0] + (steps[-1] - steps[0]) * (np.arange(count) + 1) / count
    return mask_ExS[:, np.searchsorted(steps, times, side="right") - 1]


def _heat(values: np.ndarray) -> np.ndarray:
    """One blue whose opacity is the value: the page shows through, so the picture follows its theme."""
    pixels = np.empty((*values.shape, 4))
    pixels[..., :3] = HEAT
    pixels[..., 3] = values
    return pixels
