"""How well a detector does: mean average precision over batches, on any number of devices and processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np

from dms_jax.detection.average_precision import Found, Truth, average_precision
from dms_jax.detection.loss import as_floats
from dms_jax.detection.suppression import Detections, detect
from dms_jax.training.mesh import replicated

_TRUTH = ("boxes", "classes", "crowd", "areas", "scale", "weight")


def mean_average_precision(
    fn: Callable[[Any, Any], Any],
    params: Any,
    batches: Iterable[Mapping[str, Any]],
    num_classes: int,
    mesh: jax.sharding.Mesh | None = None,
) -> dict[str, float]:
    """Mean average precision over batches, every image counted once.

    Args:
      fn: `(params, images) -> outputs`, of inference.
      params: the detector's.
      batches: as `dms_jax.data.box_loading.evaluation` has them. They may be cut over the devices of `mesh`; all
        processes then call this, with as many batches.
      num_classes: of the set.
      mesh: all devices; None: batches lie on one.

    Returns:
      `average_precision.MEASURES` -> 0 to 1, the same in every process.

    Raises:
      ValueError: there are no images.
    """

    def run(params: Any, batch: Mapping[str, jax.Array]) -> tuple[Detections, dict[str, jax.Array]]:
        images = as_floats(batch["image"])
        found = detect(fn(params, images), (images.shape[1], images.shape[2]), num_classes)
        return found, {name: batch[name] for name in _TRUTH}

    # on every process whole: each counts all images
    jitted = jax.jit(run) if mesh is None else jax.jit(run, out_shardings=replicated(mesh))
    truths: list[Truth] = []
    said: list[Found] = []
    waiting: list[Any] = []
    for batch in batches:
        waiting.append(jitted(params, batch))
        if len(waiting) > 1:  # the devices compute while these are counted
            _collect(waiting.pop(0), truths, said)
    for results in waiting:
        _collect(results, truths, said)
    if not truths:
        raise ValueError("the precision over no images is not a number; give at least one batch")
    return average_precision(truths, said, num_classes)


def _collect(results: Any, truths: list[Truth], said: list[Found]) -> None:
    """Objects and detections of the images of a batch, in pixels of the pictures as they are stored."""
    found, truth = jax.tree.map(np.asarray, results)
    for i in np.flatnonzero(truth["weight"] > 0):
        scale, there, seen = float(truth["scale"][i]), truth["classes"][i] >= 0, found.scores[i] > 0
        objects = {name: truth[name][i][there] for name in ("boxes", "classes", "crowd", "areas")}
        boxes = objects["boxes"].astype(np.float64) / scale
        truths.append(Truth(boxes, objects["classes"], objects["crowd"], objects["areas"]))
        said.append(
            Found(found.boxes[i][seen].astype(np.float64) / scale, found.scores[i][seen], found.classes[i][seen])
        )
