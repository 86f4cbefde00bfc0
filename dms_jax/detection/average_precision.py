"""Mean average precision as COCO measures it, in NumPy; and by pycocotools, COCO's own program.

Source: T.-Y. Lin et al., "Microsoft COCO: Common Objects in Context", ECCV 2014 (arXiv 1405.0312), and the definitions
at cocodataset.org: 101 points of recall, IoU from 0.50 to 0.95, at most 100 detections of a class in an image, crowds
and objects of other sizes ignored.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dms_jax.errors import UserError

THRESHOLDS = np.linspace(0.5, 0.95, 10)
"""Of IoU."""

RECALLS = np.linspace(0, 1, 101)

SIZES: dict[str, tuple[float, float]] = {
    "all": (0, 1e10),
    "small": (0, 32**2),
    "medium": (32**2, 96**2),
    "large": (96**2, 1e10),
}
"""Areas of objects, least and largest, in square pixels."""

MOST = 100
"""Detections of a class in an image that count."""

MEASURES = ("mAP", "mAP50", "mAP75", "mAP small", "mAP medium", "mAP large")


@dataclass(frozen=True, eq=False)
class Truth:
    """The objects of one image.

    Attributes:
      boxes: `[M, 4]` float, left, upper, right, lower in pixels.
      classes: `[M]` int from 0.
      crowd: `[M]` bool: a region with many objects, which is ignored; None: none is.
      areas: `[M]` float, square pixels; None: those of the boxes.
    """

    boxes: np.ndarray
    classes: np.ndarray
    crowd: np.ndarray | None = None
    areas: np.ndarray | None = None

    @property
    def is_crowd(self) -> np.ndarray:
        """`[M]` bool."""
        return np.zeros(len(self.classes), bool) if self.crowd is None else np.asarray(self.crowd, bool)

    @property
    def size(self) -> np.ndarray:
        """`[M]` float64, square pixels."""
        return _area(np.asarray(self.boxes, np.float64)) if self.areas is None else np.asarray(self.areas, np.float64)


@dataclass(frozen=True, eq=False)
class Found:
    """The detections in one image: boxes `[D, 4]`, scores `[D]` and classes `[D]`, of real detections alone."""

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray


def average_precision(truths: Sequence[Truth], found: Sequence[Found], num_classes: int) -> dict[str, float]:
    """Mean average precision over images.

    Args:
      truths: of every image.
      found: in every image, in the same order.
      num_classes: of the set.

    Returns:
      `MEASURES` -> 0 to 1; NaN where no object is of that size. A class without objects counts nowhere.

    Raises:
      UserError: not as many detections as images, arrays of an image that do not fit each other, numbers that are not
        finite, or a class that is none of the set.
    """
    _check(truths, found, num_classes)
    precision = {name: np.full((len(THRESHOLDS), num_classes), np.nan) for name in SIZES}
    images: list[list[_Image]] = [[] for _ in range(num_classes)]
    for truth, said in zip(truths, found, strict=True):
        for c in np.union1d(truth.classes, said.classes).astype(int):
            images[c].append(_Image(*_of_class(truth, said, c)))
    for c, of_class in enumerate(images):
        for name, bounds in SIZES.items():
            precision[name][:, c] = _class_precision(of_class, bounds)
    return {
        "mAP": _mean(precision["all"]),
        "mAP50": _mean(precision["all"][0]),
        "mAP75": _mean(precision["all"][5]),
        **{f"mAP {name}": _mean(precision[name]) for name in ("small", "medium", "large")},
    }


def by_pycocotools(truths: Sequence[Truth], found: Sequence[Found], num_classes: int) -> dict[str, float]:
    """The same, by COCO's own program.

    Raises:
      UserError: it is missing; or as `average_precision`.
    """
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        raise UserError("pycocotools is missing: install dms_jax[detection]") from error
    _check(truths, found, num_classes)
    objects, detections = [], []
    for i, (truth, said) in enumerate(zip(truths, found, strict=True)):
        rows = zip(truth.boxes, truth.classes, truth.is_crowd, truth.size, strict=True)
        for box, c, crowd, size in rows:
            row = {"id": len(objects) + 1, "area": float(size), "iscrowd": int(crowd)}
            objects.append({**row, **_record(i, box, c)})
        for box, score, c in zip(said.boxes, said.scores, said.classes, strict=True):
            detections.append({**_record(i, box, c), "score": float(score)})
    with contextlib.redirect_stdout(io.StringIO()):
        coco: Any = COCO()
        coco.dataset = {
            "info": {},
            "images": [{"id": i} for i in range(len(truths))],
            "categories": [{"id": c, "name": str(c)} for c in range(num_classes)],
            "annotations": objects,
        }
        coco.createIndex()
        if not detections:
            empty = average_precision(truths, found, num_classes)
            return {name: 0.0 if value == value else value for name, value in empty.items()}
        evaluation: Any = COCOeval(coco, coco.loadRes(detections), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    values = evaluation.stats[: len(MEASURES)]
    return {name: float(v) if v >= 0 else float("nan") for name, v in zip(MEASURES, values, strict=True)}


def _record(image: int, box: Any, c: Any) -> dict[str, Any]:
    left, upper, right, lower = map(float, box)
    return {"image_id": image, "category_id": int(c), "bbox": [left, upper, right - left, lower - upper]}


def _check(truths: Sequence[Truth], found: Sequence[Found], num_classes: int) -> None:
    if len(truths) != len(found):
        raise UserError(f"{len(found)} images have detections and {len(truths)} have objects; give as many of each")
    for i, image in enumerate((*truths, *found)):
        _check_arrays(image, f"image {i % len(truths)}")
        wrong = [c for c in np.asarray(image.classes).tolist() if not 0 <= c < num_classes]
        if wrong:
            raise UserError(f"image {i % len(truths)} has class {wrong[0]}, and there are {num_classes}, from 0")


def _check_arrays(image: Truth | Found, which: str) -> None:
    """Refuse arrays that do not fit each other, and numbers that are none: NaN has no place in an order."""
    count, kind = len(image.classes), "detections" if isinstance(image, Found) else "objects"
    if not np.issubdtype(np.asarray(image.classes).dtype, np.integer) and count:
        raise UserError(f"{kind} of {which} have classes of {np.asarray(image.classes).dtype}; give whole numbers")
    others = {"scores": image.scores} if isinstance(image, Found) else {"crowd": image.crowd, "areas": image.areas}
    for name, array, shape in (("boxes", image.boxes, (count, 4)), *((n, a, (count,)) for n, a in others.items())):
        if array is None:
            continue
        there = np.asarray(array)
        if there.shape != shape and (count or there.size):
            raise UserError(f"{kind} of {which} have {name} of shape {there.shape}; give {shape}, as there are classes")
        if not np.all(np.isfinite(there)):
            raise UserError(f"{kind} of {which} have {name} that are not finite; leave these out")


def _mean(precision: np.ndarray) -> float:
    there = precision[~np.isnan(precision)]
    return float(np.mean(there)) if there.size else float("nan")


@dataclass(eq=False)
class _Image:
    """One class in one image: objects, and detections from the highest score on, with their overlaps `[D, M]`."""

    size: np.ndarray
    crowd: np.ndarray
    scores: np.ndarray
    areas: np.ndarray
    overlaps: np.ndarray


def _of_class(truth: Truth, said: Found, c: int) -> tuple[np.ndarray, ...]:
    mine, theirs = np.asarray(truth.classes) == c, np.flatnonzero(np.asarray(said.classes) == c)
    theirs = theirs[np.argsort(-np.asarray(said.scores)[theirs], kind="stable")][:MOST]
    boxes, found = (np.asarray(b, np.float64).reshape(-1, 4) for b in (truth.boxes, said.boxes))
    crowd, found = truth.is_crowd[mine], found[theirs]
    overlaps = _overlaps(found, boxes[mine], crowd)
    return truth.size[mine], crowd, np.asarray(said.scores, np.float64)[theirs], _area(found), overlaps


def _area(boxes: np.ndarray) -> np.ndarray:
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def _overlaps(found: np.ndarray, boxes: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """IoU `[D, M]`; of a crowd, the share of the detection that lies in it."""
    a, b = found[:, None], boxes[None]
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    common = np.prod(np.maximum(sides, 0), axis=-1)
    union = np.where(crowd[None], _area(a), _area(a) + _area(b) - common)
    return np.divide(common, union, out=np.zeros_like(common), where=union > 0)


def _class_precision(images: Sequence[_Image], bounds: tuple[float, float]) -> np.ndarray:
    """Average precision `[T]` of one class; NaN where it has no objects of that size."""
    rows = [_matched(image, bounds) for image in images]
    objects = sum(count for *_, count in rows)
    if not objects:
        return np.full(len(THRESHOLDS), np.nan)
    scores = np.concatenate([image.scores for image in images])
    order = np.argsort(-scores, kind="stable")
    right, ignored = (np.concatenate([row[i] for row in rows], axis=1)[:, order] for i in (0, 1))
    return np.array([_area_under(r & ~i, ~r & ~i, objects) for r, i in zip(right, ignored, strict=True)])


def _area_under(right: np.ndarray, wrong: np.ndarray, objects: int) -> float:
    """The mean over 101 recalls of the best precision at that recall or above."""
    hits, misses = np.cumsum(right), np.cumsum(wrong)
    precision = hits / (hits + misses + np.spacing(1))
    best = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.searchsorted(hits / objects, RECALLS, side="left")
    return float(np.mean(np.concatenate([best, [0.0]])[np.minimum(at, len(best))]))


def _matched(image: _Image, bounds: tuple[float, float]) -> tuple[np.ndarray, np.ndarray, int]:
    """`[T, D]`, which detections find an object, and which are ignored; and how many objects there are to find."""
    outside = (image.size < bounds[0]) | (image.size > bounds[1])
    ignore = image.crowd | outside
    order = np.argsort(ignore, kind="stable")
    ignore, crowd, overlaps = ignore[order], image.crowd[order], image.overlaps[:, order]
    right = np.zeros((len(THRESHOLDS), len(image.scores)), bool)
    ignored = np.zeros_like(right)
    far = (image.areas < bounds[0]) | (image.areas > bounds[1])
    ignored[:] = far
    taken = np.zeros((len(THRESHOLDS), len(ignore)), bool)
    for d in np.flatnonzero(np.max(overlaps, axis=1, initial=0) >= THRESHOLDS[0]):
        row = overlaps[d]
        free = (row >= THRESHOLDS[:, None]) & ~(taken & ~crowd)
        to_find = free & ~ignore
        # one that is ignored where there is no other
        best = np.where(np.where(to_find.any(axis=1, keepdims=True), to_find, free), row, -1)
        chosen = len(row) - 1 - np.argmax(best[:, ::-1], axis=1)  # of equal ones the last
        hit = np.flatnonzero(free.any(axis=1))
        g = chosen[hit]
        taken[hit, g], right[hit, d], ignored[hit, d] = True, True, ignore[g]
    return right, ignored, int(np.sum(~ignore))
