"""What detectors say about a few images, to be shown side by side."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from dms_jax.data.pictures import pillow
from dms_jax.detection.loss import as_floats
from dms_jax.detection.suppression import detect
from dms_jax.training.mesh import replicated

LEAST_SCORE = 0.25
"""Of a detection that is shown."""

SHOWN_SIDE = 320
"""Pixels of a side of an image in a report, at most."""

SHOWN_OBJECTS = 300
"""Of an image, at most: of more, the largest."""


def examples(
    networks: Mapping[str, tuple[Callable[[Any, Any], Any], Any]],
    batch: Mapping[str, np.ndarray],
    num_classes: int,
    mesh: jax.sharding.Mesh | None = None,
) -> dict[str, Any] | None:
    """Detections of several networks in the images of a batch, as JSON values: what `dms_jax.report` draws.

    With several processes all of them call this, with the same batch.

    Args:
      networks: name -> `(params, images) -> outputs` of inference, and its parameters.
      batch: "image" `[B, S, S, 3]` uint8, "boxes", "classes" and "weight" as `dms_jax.data.box_loading.evaluation`
        has them.
      num_classes: of the set.
      mesh: as `mean_average_precision` takes it.

    Returns:
      {"images": a list of {"png": base64, "size": pixels of a side, "objects": {"truth" or name: a list of {"box":
      pixels of the image that is shown, "class", and "score" of a detection}}}};
      None where no image of the batch could be read.
    """
    size = int(batch["image"].shape[1])
    shown = min(size, SHOWN_SIDE)

    def passed(fn: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        def run(params: Any, images: Any) -> Any:
            return detect(
                fn(params, as_floats(images)), (size, size), num_classes, score=LEAST_SCORE, most=SHOWN_OBJECTS
            )

        return jax.jit(run) if mesh is None else jax.jit(run, out_shardings=replicated(mesh))

    found = {
        name: jax.tree.map(np.asarray, passed(fn)(params, np.asarray(batch["image"])))
        for name, (fn, params) in networks.items()
    }
    images = []
    for i in np.flatnonzero(batch["weight"] > 0):
        truth = _largest(batch["boxes"][i], batch["classes"][i])
        objects = {"truth": _listed(*truth, None, shown / size)}
        for name, said in found.items():
            objects[name] = _listed(said.boxes[i], said.classes[i], said.scores[i], shown / size)
        images.append({"png": _png(batch["image"][i], shown), "size": shown, "objects": objects})
    return {"images": images} if images else None


def _largest(boxes: np.ndarray, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    there = np.flatnonzero(classes >= 0)
    areas = np.prod(boxes[there, 2:] - boxes[there, :2], axis=-1)
    shown = np.sort(there[np.argsort(-areas, kind="stable")[:SHOWN_OBJECTS]])
    return boxes[shown], classes[shown]


def _listed(boxes: np.ndarray, classes: np.ndarray, scores: np.ndarray | None, scale: float) -> list[dict[str, Any]]:
    listed = []
    for n in np.flatnonzero(classes >= 0):
        entry: dict[str, Any] = {"box": [round(float(x) * scale, 2) for x in boxes[n]], "class": int(classes[n])}
        listed.append(entry if scores is None else entry | {"score": round(float(scores[n]), 4)})
    return listed


def _png(pixels: np.ndarray, side: int) -> str:
    image = pillow().fromarray(np.asarray(pixels))
    if image.width != side:
        image = image.resize((side, side), pillow().Resampling.BILINEAR)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()
