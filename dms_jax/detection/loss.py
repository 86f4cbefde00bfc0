"""The loss of a detector: of classes, of boxes, and of the distributions that boxes are means of."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from dms_jax.detection.assignment import assign
from dms_jax.detection.boxes import complete_iou, decode, distances, encode, points, predictions
from dms_jax.errors import UserError
from dms_jax.method.loss import Loss
from dms_jax.models.yolov8 import STRIDES


class Gains(NamedTuple):
    """Weights of the parts of the loss."""

    classes: float = 0.5
    boxes: float = 7.5
    distributions: float = 1.5


GAINS = Gains()


class Parts(NamedTuple):
    """The loss of a batch, part by part, without gains; scalars."""

    classes: jax.Array
    boxes: jax.Array
    distributions: jax.Array


def detection_loss(model: Any, gains: Gains = GAINS) -> Loss:
    """The loss of `model(batch["image"], train=True)` against the batch's objects.

    The batch has "image" `[B, H, W, 3]`, uint8 or float in 0 to 1, "boxes" `[B, M, 4]` float in pixels, and "classes"
    `[B, M]` int, below 0 where an image has fewer than M objects. BatchNorm statistics are updated; the parts of the
    loss, without gains, are metrics.

    Args:
      model: a detector of the zoo.
      gains: weights of the parts.

    Raises:
      UserError: when traced: as `as_floats` and `parts`.
    """

    def loss(params: Any, batch: Mapping[str, jax.Array], key: jax.Array):
        images = as_floats(batch["image"])
        size = (images.shape[1], images.shape[2])
        outputs, changed = model.apply(params, images, train=True, mutable=["batch_stats"], rngs={"dropout": key})
        found = parts(outputs, size, batch["boxes"], batch["classes"], model.num_classes)
        value = sum((gain * part for gain, part in zip(gains, found, strict=True)), start=jnp.zeros(()))
        return value, {"state": dict(changed), "metrics": found._asdict()}

    return loss


def as_floats(images: jax.Array) -> jax.Array:
    """Images `[..., H, W, 3]` as the network takes them: 0 to 1, float32; those that are floats stay as they are.

    Raises:
      UserError: whole numbers other than uint8, whose range is not known.
    """
    if jnp.issubdtype(images.dtype, jnp.floating):
        return images
    if images.dtype != jnp.uint8:
        raise UserError(f"images are {images.dtype}; give uint8, or floats in 0 to 1")
    return images.astype(jnp.float32) / 255


def parts(outputs: jax.Array, size: tuple[int, int], boxes: Any, classes: Any, num_classes: int) -> Parts:
    """The parts of the loss of a batch, each a sum over predictions divided by the sum of the classification targets.

        classes: binary cross-entropy of all classes of all predictions, the target being the assignment's weight
        boxes: weight (1 - CIoU), of the predictions that are to find an object
        distributions: weight times the cross-entropy of the distances' distributions; a distance between two bins
          counts for each by its nearness, and the mean is taken over the four sides

    Args:
      outputs: `[B, A, 4 * bins + num_classes]` float, of the network.
      size: height and width of the images in pixels.
      boxes: `[B, M, 4]` float, of the objects in pixels.
      classes: `[B, M]` int, theirs; below 0 where there is none.
      num_classes: that the network tells apart.

    Returns:
      Scalars; NaN where an object has a class that is not below `num_classes`, or a box that
      is not finite: nothing else would tell of it.

    Raises:
      UserError: shapes that do not fit each other, or classes that are no whole numbers.
    """
    if boxes.ndim != 3 or boxes.shape[-1] != 4 or boxes.shape[:2] != classes.shape or len(boxes) != len(outputs):
        raise UserError(
            f"boxes of shape {boxes.shape} and classes of {classes.shape} are not those of {len(outputs)} images; give "
            "[images, objects, 4] and [images, objects]"
        )
    if not boxes.shape[1] or not jnp.issubdtype(classes.dtype, jnp.signedinteger):
        raise UserError(
            f"room for {boxes.shape[1]} objects with classes of {classes.dtype} is not possible; give room for at "
            "least one, and int32, -1 where an image has none"
        )
    there = classes >= 0
    possible = ~there | (classes < num_classes) & jnp.all(jnp.isfinite(boxes), axis=-1)
    boxes = jnp.where(there[..., None], boxes, 0)
    at, said = points(*size, STRIDES), predictions(outputs, num_classes)
    predicted = decode(distances(said.sides), at)
    given = jax.vmap(partial(assign, centers=jnp.asarray(at.centers)))(
        jax.nn.sigmoid(said.classes), predicted, boxes=boxes, classes=classes
    )
    weight = given.weight
    own_class = jnp.take_along_axis(classes, given.number, axis=1)
    own_box = jnp.take_along_axis(boxes, given.number[..., None], axis=1)
    target = jax.nn.one_hot(jnp.where(given.found, own_class, -1), num_classes) * weight[..., None]
    total = jnp.where(jnp.all(possible), jnp.maximum(jnp.sum(weight), 1), jnp.nan)
    wrong = jnp.sum(optax.sigmoid_binary_cross_entropy(said.classes, target))
    # of what is to find nothing, box and distances are any: they are given values at which all slopes are finite
    compared = jnp.where(given.found[..., None], predicted, own_box)
    missed = jnp.sum(jnp.where(given.found, weight * (1 - complete_iou(compared, own_box)), 0))
    spread = jnp.sum(weight * distribution_loss(said.sides, encode(own_box, at)))
    return Parts(wrong / total, missed / total, spread / total)


def distribution_loss(sides: jax.Array, wanted: jax.Array) -> jax.Array:
    """Cross-entropy `[...]` of logits `[..., 4, bins]` against distances `[..., 4]`, the mean over the four sides."""
    bins = sides.shape[-1]
    wanted = jnp.clip(wanted, 0, bins - 1.01)[..., None]
    steps = jnp.arange(bins, dtype=wanted.dtype).reshape((1,) * (wanted.ndim - 1) + (-1,))
    nearness = jnp.maximum(1 - jnp.abs(steps - wanted), 0)
    return jnp.mean(-jnp.sum(nearness * jax.nn.log_softmax(sides, axis=-1), axis=-1), axis=-1)
