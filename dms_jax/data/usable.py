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
    wrong = faults(given, annotated.classes, bounds, num_classes)
    chosen = np.flatnonzero(wrong == 0)
    said = tuple(fault(int(wrong[i]), int(annotated.classes[i]), num_classes, bounds) for i in np.flatnonzero(wrong))
    boxes = np.clip(given[chosen], 0, bounds)
    areas = annotated.areas[chosen]
    areas = np.where(np.isnan(areas), np.prod(boxes[:, 2:] - boxes[:, :2], axis=-1), areas)
    return Usable(boxes, annotated.classes[chosen], annotated.crowd[chosen], areas, said)


def faults(boxes: np.ndarray, classes: np.ndarray, bounds: np.ndarray, num_classes: int) -> np.ndarray:
    """What is wrong with objects.

    Args:
      boxes: `[M, 4]` float32, pixels.
      classes: `[M]` int.
      bounds: `[4]` or `[M, 4]` float32: width, height, width and height of the picture in pixels.
      num_classes: of the set.

    Returns:
      `[M]` int; 0 where nothing is, and a number that `fault` has words for.
    """
    with np.errstate(invalid="ignore"):
        outside = np.any((boxes < -_SLACK) | (boxes > bounds + _SLACK), axis=-1)
        cut = np.clip(boxes, 0, bounds)
        empty = np.any(cut[:, 2:] <= cut[:, :2], axis=-1)
    finite, listed = np.all(np.isfinite(boxes), axis=-1), (classes >= 0) & (classes < num_classes)
    return np.select([~finite, ~listed, outside, empty], [1, 2, 3, 4], 0)


def fault(number: int, c: int, num_classes: int, bounds: np.ndarray) -> str:
    """What is wrong with an object of class `c`, in words.

    Args:
      number: as `faults` has it, above 0.
      c, num_classes: its class, and how many there are.
      bounds: `[4]`, of its picture.
    """
    out_of_range = f"class {c}, and there are {num_classes}" if c >= 0 else "a class that the set does not list"
    outside = f"a box outside of {bounds[0]:g} x {bounds[1]:g} pixels"
    return ("a box that is not finite", out_of_range, outside, "a box of no area")[number - 1]
