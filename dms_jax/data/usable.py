"""Boxes that can be used, and what is wrong with the others."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from dms_jax.data.objects import Annotated

_SLACK = 1.0
"""Pixels by which a box may stick out of its picture; files round."""


class Usable(NamedTuple):
    """The objects of a picture that can be used, and what is wrong with the others.

    Attributes:
      boxes: `[M, 4]` float32, pixels.
      classes, crowd, areas: as `Annotated` has them, with every area told.
      faults: one text for each that cannot be used.
    """

    boxes: np.ndarray
    classes: np.ndarray
    crowd: np.ndarray
    areas: np.ndarray
    faults: tuple[str, ...]


def usable(annotated: Annotated, width: int, height: int, num_classes: int) -> Usable:
    """Leave out boxes that are none, and cut those off that stick out by less than a pixel.

    Args:
      annotated: as a source has it.
      width, height: of the picture in pixels.
      num_classes: of the set.
    """
    bounds = np.array([width, height, width, height], np.float32)
    given = np.asarray(annotated.boxes, np.float32).reshape(-1, 4) * bounds
    faults, kept = [], []
    for i, (box, c) in enumerate(zip(given, annotated.classes, strict=True)):
        fault = _fault(box, int(c), bounds, num_classes)
        if fault is None:
            kept.append(i)
        else:
            faults.append(fault)
    chosen = np.array(kept, np.int64)
    boxes = np.clip(given[chosen], 0, bounds)
    areas = annotated.areas[chosen]
    areas = np.where(np.isnan(areas), np.prod(boxes[:, 2:] - boxes[:, :2], axis=-1), areas)
    return Usable(boxes, annotated.classes[chosen], annotated.crowd[chosen], areas, tuple(faults))


def _fault(box: np.ndarray, c: int, bounds: np.ndarray, num_classes: int) -> str | None:
    if not np.all(np.isfinite(box)):
        return "a box that is not finite"
    if not 0 <= c < num_classes:
        return f"class {c}, and there are {num_classes}" if c >= 0 else "a class that the set does not list"
    if np.any(box < -_SLACK) or np.any(box > bounds + _SLACK):
        return f"a box outside of {bounds[0]:g} x {bounds[1]:g} pixels"
    cut = np.clip(box, 0, bounds)
    return "a box of no area" if np.any(cut[2:] <= cut[:2]) else None
