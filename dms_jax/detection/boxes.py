"""Boxes (left, upper, right, lower) in pixels, and how a network predicts them: as distances from grid points.

A prediction at a point of stride s is a distribution over 0 to bins - 1 for each of the four sides; its mean, times s,
is how far that side is from the point (X. Li et al., "Generalized Focal Loss", NeurIPS 2020, arXiv 2006.04388).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dms_jax.errors import UserError

EPSILON = 1e-7


class Points(NamedTuple):
    """Where predictions are made.

    Attributes:
      centers: `[A, 2]` float32, (x, y) in pixels.
      strides: `[A]` float32, pixels.
    """

    centers: np.ndarray
    strides: np.ndarray


def points(height: int, width: int, strides: Sequence[int]) -> Points:
    """The centers of the cells of every stride, one stride after the other, each in rows.

    Args:
      height, width: of the images in pixels, multiples of every stride.
      strides: sides of a cell in pixels.
    """
    centers, sizes = [], []
    for stride in strides:
        y, x = np.mgrid[: height // stride, : width // stride].reshape(2, -1).astype(np.float32)
        centers.append((np.stack([x, y], axis=-1) + np.float32(0.5)) * np.float32(stride))
        sizes.append(np.full(len(x), stride, np.float32))
    return Points(np.concatenate(centers), np.concatenate(sizes))


class Predictions(NamedTuple):
    """What a network says.

    Attributes:
      sides: `[..., A, 4, bins]` float, logits of the distances to left, upper, right and lower side.
      classes: `[..., A, C]` float, logits.
    """

    sides: jax.Array
    classes: jax.Array


def predictions(outputs: jax.Array, num_classes: int) -> Predictions:
    """Cut a network's outputs `[..., A, 4 * bins + num_classes]` into those of boxes and of classes.

    Raises:
      UserError: outputs that have not so many classes.
    """
    bins, rest = divmod(outputs.shape[-1] - num_classes, 4)
    if num_classes < 1 or bins < 2 or rest:
        raise UserError(
            f"{outputs.shape[-1]} outputs a prediction are not those of {num_classes} classes; give the classes that "
            "the network tells apart, and outputs of 4 * bins + classes"
        )
    sides, classes = jnp.split(outputs, [outputs.shape[-1] - num_classes], axis=-1)
    return Predictions(sides.reshape(*sides.shape[:-1], 4, -1), classes)


def distances(sides: jax.Array) -> jax.Array:
    """Means `[..., 4]` of the distributions with logits `[..., 4, bins]`, in strides."""
    bins = jnp.arange(sides.shape[-1], dtype=sides.dtype)
    return jax.nn.softmax(sides, axis=-1) @ bins


def decode(distances: jax.Array, at: Points) -> jax.Array:
    """Boxes `[..., A, 4]` in pixels whose sides are so many strides `[..., A, 4]` from the points.

    Raises:
      UserError: not as many distances as points.
    """
    if distances.shape[-2] != len(at.strides):
        raise UserError(
            f"{distances.shape[-2]} predictions are not those of {len(at.strides)} points; give height and width of "
            "the images that the network saw"
        )
    shape = (1,) * (distances.ndim - 2)
    centers = jnp.asarray(at.centers).reshape(*shape, -1, 2)
    pixels = distances * jnp.asarray(at.strides).reshape(*shape, -1, 1)
    return jnp.concatenate([centers - pixels[..., :2], centers + pixels[..., 2:]], axis=-1)


def encode(boxes: jax.Array, at: Points) -> jax.Array:
    """Distances `[..., A, 4]` in strides from the points to the sides of boxes `[..., A, 4]`: the inverse of `decode`.

    Below 0 where a point is outside of its box.
    """
    shape = (1,) * (boxes.ndim - 2)
    centers = jnp.asarray(at.centers).reshape(*shape, -1, 2)
    pixels = jnp.concatenate([centers - boxes[..., :2], boxes[..., 2:] - centers], axis=-1)
    return pixels / jnp.asarray(at.strides).reshape(*shape, -1, 1)


def area(boxes: jax.Array) -> jax.Array:
    """`[..., 4]` -> `[...]` float, square pixels; 0 where right is not beyond left, or lower beyond upper."""
    (boxes,) = _floats(boxes)
    return jnp.prod(jnp.maximum(boxes[..., 2:] - boxes[..., :2], 0), axis=-1)


def iou(a: jax.Array, b: jax.Array) -> jax.Array:
    """Intersection over union of boxes `[..., 4]` of shapes that broadcast: `[...]` in 0 to 1; 0 for empty boxes.

    Of whole numbers and of half precision it is computed in float32: areas have more digits than they hold.
    """
    a, b = jnp.broadcast_arrays(*_floats(a, b))
    upper, lower = jnp.maximum(a[..., :2], b[..., :2]), jnp.minimum(a[..., 2:], b[..., 2:])
    common = area(jnp.concatenate([upper, lower], axis=-1))
    return common / (area(a) + area(b) - common + EPSILON)


def complete_iou(a: jax.Array, b: jax.Array) -> jax.Array:
    """IoU less what centers and aspects differ by: `[...]` in -1.5 to 1, with a slope where boxes do not touch.

        CIoU = IoU - |center_a - center_b|^2 / diagonal^2 - alpha v
        v = (2 / pi)^2 (arctan(w_b / h_b) - arctan(w_a / h_a))^2,  alpha = v / (1 - IoU + v), a constant

    `diagonal` is that of the smallest box around both. It is computed as `iou`.

    Source: Z. Zheng et al., "Distance-IoU Loss", AAAI 2020 (arXiv 1911.08287).
    """
    a, b = jnp.broadcast_arrays(*_floats(a, b))
    overlap = iou(a, b)
    around = jnp.maximum(a[..., 2:], b[..., 2:]) - jnp.minimum(a[..., :2], b[..., :2])
    apart = (a[..., :2] + a[..., 2:] - b[..., :2] - b[..., 2:]) / 2
    distance = jnp.sum(apart**2, axis=-1) / (jnp.sum(around**2, axis=-1) + EPSILON)
    v = (2 / math.pi) ** 2 * (_aspect(b) - _aspect(a)) ** 2
    alpha = jax.lax.stop_gradient(v / (1 - overlap + v + EPSILON))
    return overlap - distance - alpha * v


def _floats(*boxes: jax.Array) -> tuple[jax.Array, ...]:
    """At least float32."""
    return tuple(jnp.asarray(x, jnp.promote_types(x.dtype, jnp.float32)) for x in boxes)


def _aspect(boxes: jax.Array) -> jax.Array:
    size = boxes[..., 2:] - boxes[..., :2]
    return jnp.arctan(size[..., 0] / (size[..., 1] + EPSILON))
