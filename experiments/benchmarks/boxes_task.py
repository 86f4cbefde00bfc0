"""A YOLOv8-n on small pictures with boxes: composites of digits over photographs, or crowns of trees from the air."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Literal

import jax
import jax.numpy as jnp

from dms_jax import models
from dms_jax.data import box_loading, digits, objects, trees
from dms_jax.data.objects import DetectionData
from dms_jax.detection import detection_loss
from dms_jax.detection.evaluation import mean_average_precision
from dms_jax.errors import UserError
from dms_jax.space import SearchSpace
from dms_jax.training import optimizers
from experiments.benchmarks.tasks import CACHE, Task, TaskOptions, Unit
from experiments.detection_task import COMPOSITES

MAP = Unit("mAP, %", -100.0, 1)
"""Scores are lower where a network is better: mAP with its sign turned, which the tables turn back."""
PREPARED = CACHE / "data"
KNOWN = {
    "composites": ("composites of scikit-learn's digits over its photographs, {size} x {size} pixels", digits.CLASSES),
    "trees": ("trees (annotations 4a2bc87a and 1f6c3982)", 1),
}
"""The name and the number of classes of what is learned: tables are made where the pictures are not prepared."""


@dataclass(frozen=True)
class BoxesOptions(TaskOptions):
    """The size of the task.

    Attributes:
      data: what is learned.
      size: pixels of a side that the network sees; pieces of photographs have about 128 and are made smaller.
      small: a network of a few channels, and a few pictures to test on.
    """

    data: Literal["composites", "trees"] = "composites"
    size: int = 64
    batch: int = 16
    pretrain_rate: float = 2e-3
    pretrain_steps: int = 400
    learning_rate: float = 2e-3
    small: bool = False


QUICK = BoxesOptions(batch=4, pretrain_steps=2, small=True)
_SMALL: dict[str, Any] = {"widths": (8, 8, 16, 16, 16), "blocks": (1, 1, 1, 1), "bins": 4, "width_multiplier": 1.0}


def boxes_task(options: BoxesOptions) -> Task:
    """The task of these options; scores are of the test pictures, and nothing is chosen by them.

    The pictures are opened by the first batch and the first scores: see `opened` for what is raised then.
    """
    name, classes = described(options)
    model = models.create("yolov8n", num_classes=classes, **(_SMALL if options.small else {}))
    recipe = COMPOSITES
    augment = dataclasses.replace(recipe.augment, flip=0.5 if options.data == "trees" else 0)  # digits have a direction

    def scores(network: Any, variables: Any, seed: int) -> dict[str, float]:
        tested = box_loading.evaluation(opened(options).test, 16, size=options.size, num_classes=classes)
        found = mean_average_precision(partial(network.apply, train=False), variables, tested, classes)
        defined = {name: value for name, value in found.items() if not math.isnan(value)}  # there are no large objects
        return {"test": -found["mAP"], **defined}

    @lru_cache(maxsize=1)
    def batches(seed: int) -> Callable[[int], Any]:
        shown = {"size": options.size, "num_classes": classes, "augment": augment}
        return box_loading.batches(opened(options).train, options.batch, seed, **shown, most=32)

    return Task(
        name=options.data,
        options=options,
        data=name,
        space=SearchSpace.from_model(model, jax.ShapeDtypeStruct((1, options.size, options.size, 3), jnp.float32)),
        loss=detection_loss,
        batches=batches,
        optimizer=partial(optimizers.adamw, weight_decay=recipe.weight_decay, clip=recipe.clip),
        scores=scores,
        unit=MAP,
        choice=("test", MAP),
    )


def described(options: BoxesOptions) -> tuple[str, int]:
    """The name of the pictures and their number of classes."""
    name, classes = KNOWN[options.data]
    return name.format(size=options.size), classes


@lru_cache(maxsize=1)
def opened(options: BoxesOptions) -> DetectionData:
    """The pictures.

    Raises:
      dms_jax.data.images.NotPrepared: the trees are not.
      UserError: they are not those that stored scores are of.
    """
    found = trees.open(PREPARED) if options.data == "trees" else objects.composites(options.size)
    if (found.name, found.num_classes) != described(options):
        raise UserError(
            f"{found.name} of {found.num_classes} classes is not what stored scores are of, "
            f"{' of '.join(map(str, described(options)))} classes; remove {PREPARED} and prepare the trees again"
        )
    if options.small and options.data == "composites":
        assert isinstance(found.test, objects.Composites)
        return dataclasses.replace(found, test=dataclasses.replace(found.test, length=8))
    return found
