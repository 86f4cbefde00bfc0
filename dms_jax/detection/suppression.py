"""From a network's outputs to detections: scores, boxes, and non-maximum suppression of every class by itself."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from dms_jax.detection.boxes import decode, distances, iou, points, predictions
from dms_jax.errors import UserError
from dms_jax.models.yolov8 import STRIDES

SCORE, OVERLAP, MOST, CANDIDATES = 1e-3, 0.7, 300, 4096


class Detections(NamedTuple):
    """Objects found in images, the highest score first.

    Attributes:
      boxes: `[B, D, 4]` float32, pixels.
      scores: `[B, D]` float32 in 0 to 1; 0 behind the last detection.
      classes: `[B, D]` int32; -1 behind the last detection.
    """

    boxes: jax.Array
    scores: jax.Array
    classes: jax.Array


def detect(
    outputs: jax.Array,
    size: tuple[int, int],
    num_classes: int,
    *,
    score: float = SCORE,
    overlap: float = OVERLAP,
    most: int = MOST,
    candidates: int = CANDIDATES,
) -> Detections:
    """Detections of a batch; every class of every prediction is a candidate of its own.

    Args:
      outputs: `[B, A, 4 * bins + num_classes]` float, of the network.
      size: height and width of the images in pixels.
      num_classes: that the network tells apart.
      score: detections at or below it are left out.
      overlap: IoU above which the weaker of two of one class is left out.
      most: detections of an image, D.
      candidates: the most of an image that are looked at, by score.

    A prediction that is not finite is no candidate.

    Raises:
      UserError: a threshold or a number that is not possible, or outputs of other classes or another size.
    """
    for name, value in (("score", score), ("overlap", overlap)):
        if not 0 <= value <= 1:
            raise UserError(f"{name} {value} is not possible; give a number from 0 to 1")
    if most < 1 or candidates < 1:
        raise UserError(f"{most} detections of {candidates} candidates are not possible; give at least 1 of each")
    said = predictions(outputs, num_classes)
    boxes = decode(distances(said.sides), points(*size, STRIDES))

    def one(boxes: jax.Array, logits: jax.Array) -> Detections:
        count = min(candidates, logits.size)
        finite = jnp.all(jnp.isfinite(boxes), axis=-1, keepdims=True) & ~jnp.isnan(logits)
        scores, chosen = jax.lax.top_k(jnp.where(finite, jax.nn.sigmoid(logits), 0).reshape(-1), count)
        chosen_boxes, classes = boxes[chosen // num_classes], chosen % num_classes
        kept, there = suppress(chosen_boxes, scores, classes, score=score, overlap=overlap, most=most)
        found = Detections(chosen_boxes[kept], scores[kept], classes[kept].astype(jnp.int32))
        return Detections(
            jnp.where(there[:, None], found.boxes, 0), jnp.where(there, found.scores, 0),
            jnp.where(there, found.classes, -1),
        )  # fmt: skip

    return jax.vmap(one)(boxes, said.classes)


def suppress(
    boxes: jax.Array,
    scores: jax.Array,
    classes: jax.Array,
    *,
    score: float = SCORE,
    overlap: float = OVERLAP,
    most: int = MOST,
) -> tuple[jax.Array, jax.Array]:
    """Greedy non-maximum suppression: take the highest score, leave out what overlaps it in its class, and so on.

    Args:
      boxes: `[N, 4]` float.
      scores: `[N]` float; of equal ones the first is taken first. NaN is never taken.
      classes: `[N]` int.
      score: scores at or below it are not taken.
      overlap: IoU above which the weaker of two of one class is left out.
      most: how many are taken.

    Returns:
      `[most]` int32, the numbers of those taken, in order, and `[most]` bool, whether there is one.
    """

    def take(remaining: jax.Array, _: None) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        best = jnp.argmax(remaining)
        there = remaining[best] > score
        same = (classes == classes[best]) & (iou(boxes, boxes[best][None]) > overlap)
        gone = same | (jnp.arange(len(boxes)) == best)
        return jnp.where(gone, -jnp.inf, remaining), (best.astype(jnp.int32), there)

    start = jnp.where(jnp.isnan(scores), -jnp.inf, scores)
    _, (taken, there) = jax.lax.scan(take, start, length=most)
    return taken, there
