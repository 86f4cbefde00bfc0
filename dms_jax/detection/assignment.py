"""Which prediction is to find which object: task-aligned assignment.

Source: C. Feng et al., "TOOD: Task-aligned One-stage Object Detection", ICCV 2021 (arXiv 2108.07755).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from dms_jax.detection.boxes import complete_iou

TOP, ALPHA, BETA = 10, 0.5, 6.0


class Assignment(NamedTuple):
    """What every prediction of an image is to find.

    Attributes:
      found: `[A]` bool, whether it is to find an object.
      number: `[A]` int32, which of the image's objects; 0 where none.
      weight: `[A]` float32 in 0 to 1, its classification target: the alignment, scaled so that the best of an object
        gets the object's largest overlap; 0 where none.
    """

    found: jax.Array
    number: jax.Array
    weight: jax.Array


def assign(
    scores: jax.Array, predicted: jax.Array, centers: jax.Array, boxes: jax.Array, classes: jax.Array
) -> Assignment:
    """Assign the predictions of one image to its objects.

    The alignment of a prediction with an object is t = s^0.5 u^6, with s its score for the object's class and u its
    CIoU with the object's box, at least 0. Every object takes the 10 best-aligned predictions among those whose points
    lie inside its box; a prediction that several take goes to the one that it overlaps most.

    Args:
      scores: `[A, C]` float, probabilities of the classes.
      predicted: `[A, 4]` float, boxes in pixels.
      centers: `[A, 2]` float, points in pixels.
      boxes: `[M, 4]` float, the objects' in pixels.
      classes: `[M]` int, the objects'; below 0 where there is no object.

    Returns:
      No slope passes through it.
    """
    scores, predicted = jax.lax.stop_gradient((scores, predicted))
    eligible = _inside(centers, boxes) & (classes >= 0)[:, None]  # [M, A]
    overlap = jnp.where(eligible, jnp.maximum(complete_iou(boxes[:, None], predicted[None]), 0), 0)
    aligned = scores.T[jnp.maximum(classes, 0)] ** ALPHA * overlap**BETA
    taken = _best(jnp.where(eligible, aligned, -1), min(TOP, aligned.shape[1])) & eligible
    number = jnp.argmax(jnp.where(taken, overlap, -1), axis=0)
    taken &= number[None] == jnp.arange(len(boxes))[:, None]
    aligned, overlap = jnp.where(taken, aligned, 0), jnp.where(taken, overlap, 0)
    most = jnp.max(aligned, axis=1, keepdims=True)
    scaled = aligned / jnp.where(most > 0, most, 1) * jnp.max(overlap, axis=1, keepdims=True)
    found = jnp.any(taken, axis=0)
    return Assignment(found, jnp.where(found, number, 0).astype(jnp.int32), jnp.max(scaled, axis=0))


def _inside(centers: jax.Array, boxes: jax.Array) -> jax.Array:
    """`[M, A]`: whether a point lies inside a box, not on its edge."""
    beyond, before = centers[None] - boxes[:, None, :2], boxes[:, None, 2:] - centers[None]
    return jnp.all((beyond > 0) & (before > 0), axis=-1)


def _best(values: jax.Array, count: int) -> jax.Array:
    """`[M, A]`: whether a value is among the `count` largest of its row; the first of equal ones are."""
    _, chosen = jax.lax.top_k(values, count)
    rows = jnp.arange(len(values))[:, None]
    return jnp.zeros(values.shape, bool).at[rows, chosen].set(True)
