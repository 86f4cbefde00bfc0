"""Training a detector: data, recipe and devices put together for the COCO command."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from dms_jax import files
from dms_jax.data import box_loading, coco_files, objects, trees
from dms_jax.data.box_augment import BoxAugment
from dms_jax.data.images import NotPrepared
from dms_jax.data.objects import DetectionData
from dms_jax.detection import detection_loss
from dms_jax.detection.average_precision import MEASURES
from dms_jax.detection.evaluation import mean_average_precision
from dms_jax.detection.examples import examples
from dms_jax.detection.loss import as_floats
from dms_jax.errors import UserError
from dms_jax.method.loss import Loss
from dms_jax.training import optimizers, processes, shard_batch
from dms_jax.training.job import Job
from dms_jax.training.pipeline import FULL, LONGER, Network
from dms_jax.training.results import Quality
from dms_jax.training.runs import Run
from dms_jax.training.sizes import Sizes
from experiments.flags import Asked, default
from experiments.image_flags import Images, Weights
from experiments.image_preparation import fitted
from experiments.image_task import Task
from experiments.recipes import Preset, Recipe

COCO = "coco/2017"


@dataclass(frozen=True)
class Data(Images):
    """Which images, with boxes."""

    dataset: Annotated[str | None, default("coco/2017 where it is prepared, else bundled composites")] = None
    """A prepared TFDS detection set (coco/2017, voc/2007, ...), trees, or a directory of COCO's own files."""
    objects: Annotated[int | None, default("128; 16 for composites")] = None
    """Objects of an image that there is room for: to train on, the largest; to test on, more are an error."""


@dataclass(frozen=True)
class DetectionRecipe(Recipe):
    """How a detector is trained.

    What `Recipe` says of augmentation holds for pictures without boxes alone.

    Attributes:
      momentum: of SGD.
      plain_epochs: the last ones of every training, without mosaics.
      augment: what is done to pictures.
    """

    momentum: float = 0.937
    plain_epochs: float = 10.0
    augment: BoxAugment = BoxAugment()


# "SGD .01 to .0001 linear, momentum .937, decay 5e-4 on kernels, 3 epochs of warm-up, 500 epochs, moving average,
# gradients of at most 10", where the loss is the sum over the 64 images of a batch: here it is their mean.
YOLOV8 = DetectionRecipe(
    epochs=500,
    optimizer="sgd",
    learning_rate=0.01 * 64,
    reference_batch=64,
    schedule="linear",
    weight_decay=5e-4 / 64,
    warmup_epochs=3,
    average=0.9999,
    clip=10 / 64,
    label_smoothing=0.0,
)
# For composites of digits, which have a direction, in a run that is to be short.
COMPOSITES = DetectionRecipe(
    epochs=12,
    optimizer="adamw",
    learning_rate=2e-3,
    reference_batch=16,
    schedule="cosine",
    weight_decay=0.05,
    warmup_epochs=1,
    clip=10.0,
    label_smoothing=0.0,
    plain_epochs=3,
    augment=BoxAugment(mosaic=0.5, scale=0.3, flip=0),
)
COMPOSITES_SEARCH_EPOCHS, COMPOSITES_RESOLUTION = 6.0, 64

PRESETS: dict[str, Preset] = {
    "yolov8n": Preset(
        "yolov8s",
        640,
        4.2e9,
        30,
        YOLOV8,
        "YOLOv8-n 37.4 -> 39.4 mAP with 2.7 M parameters (without masks, as here, YOLOv8-n has 37.2)",
        {"block_multiplier": 0.5},
    )
}


@dataclass(frozen=True, eq=False)
class DetectionTask(Task):
    """Pictures with boxes, and a way to train on them; the attributes are those of `Task`."""

    data: DetectionData  # type: ignore[assignment]  # it has what the task looks at
    recipe: DetectionRecipe
    flags_data: Data  # type: ignore[assignment]
    flags: Weights  # type: ignore[assignment]

    @property
    def bundled_search_epochs(self) -> float:
        """Epochs of a search on the composites."""
        return COMPOSITES_SEARCH_EPOCHS

    def optimizer_at(self, rate: optax.Schedule) -> optax.GradientTransformation:
        """The recipe's optimizer at a learning rate."""
        r = self.recipe
        if r.optimizer != "sgd":
            return super().optimizer_at(rate)
        return optimizers.sgd(rate, r.momentum, weight_decay=r.weight_decay, clip=r.clip)

    def sizes(self, budgets: Asked, model: Any) -> Sizes | None:
        """Several sizes, where they are asked for; every one learns from the boxes alone."""
        return budgets.family

    def loss(self, model: nn.Module) -> Loss:
        """The detector's loss."""
        return detection_loss(model)

    def batches(self, plain_from: int | None = None) -> Callable[[int], dict[str, jax.Array]]:
        """From a step to its batch on the devices.

        Args:
          plain_from: the step from which on there are no mosaics; None: there is none.
        """
        load = box_loading.batches(
            self.data.train,
            self.batch,
            self.seed,
            size=self.size,
            num_classes=self.data.num_classes,
            augment=self.recipe.augment,
            plain_from=plain_from,
            most=self.most,
            workers=self.workers,
            shard=(jax.process_index(), jax.process_count()),
        )
        return lambda step: shard_batch(load(step), self.mesh)

    @property
    def most(self) -> int:
        """Objects of an image that a batch has room for."""
        return self.flags_data.objects or (16 if self.bundled else box_loading.MOST)

    def job(self, run: Run, model: nn.Module) -> Job:
        """Phases of this task in a run directory; the last epochs of every training, but not of a search, are plain."""
        plain = self.steps(self.recipe.plain_epochs) if self.recipe.plain_epochs else 0
        return dataclasses.replace(super().job(run, model), ending=lambda steps: self.batches(max(steps - plain, 0)))

    def evaluation(self) -> Iterable[dict[str, jax.Array]]:
        """The test images on the devices, each with weight 1 once."""
        tested = box_loading.evaluation(
            self.data.test,
            self.batch,
            size=self.size,
            num_classes=self.data.num_classes,
            most=self.most,
            workers=self.workers,
            shard=(jax.process_index(), jax.process_count()),
        )
        return (shard_batch(batch, self.mesh) for batch in tested)

    def examples(self, n: int = 4) -> np.ndarray:
        """The first test images, `[n, size, size, 3]` float32, the same on every host."""
        return np.asarray(as_floats(jnp.asarray(self._first(n)["image"])))

    def _first(self, n: int) -> dict[str, np.ndarray]:
        """The first test images with their objects, the same on every host."""
        tested = box_loading.evaluation(
            self.data.test, n, size=self.size, num_classes=self.data.num_classes, most=self.most
        )
        return next(iter(tested))

    @property
    def identity(self) -> dict[str, Any]:
        """What of images and training makes a job the one it is, defaults filled in."""
        return self._identity | ({} if self.flags_data.objects is None else {"objects": self.most})

    @property
    def quality(self) -> Quality:
        """Mean average precision on the test images, at IoU 0.50 to 0.95; beside it at 0.50, at 0.75, and by size."""

        def measure(fn: Any, params: Any) -> tuple[float, None, dict[str, float]]:
            found = mean_average_precision(fn, params, self.evaluation(), self.data.num_classes, self.mesh)
            return found["mAP"], None, found

        return Quality("mAP", "%", measure, parts=MEASURES[1:])

    @property
    def shown(self) -> Callable[[Mapping[str, Network]], Any]:
        """The first test images with what networks find in them."""

        def show(networks: Mapping[str, Network]) -> Any:
            names = sorted(networks, key=lambda name: name not in (FULL, LONGER))  # full and found side by side
            passes = {name: (networks[name].fn, networks[name].params) for name in names}
            return examples(passes, self._first(4), self.data.num_classes, self.mesh)

        return show


def open_pictures(flags: Data, size: int | None) -> tuple[DetectionData, bool]:
    """The set asked for; where none was asked for and COCO is not prepared, composites, saying so.

    Args:
      flags: as given.
      size: pixels of a side of composites; None: the usual.

    Returns:
      The pictures, and whether they are the bundled ones.

    Raises:
      UserError: a set that was asked for is not there.
    """
    if flags.dataset:
        directory = files.at_home(Path(flags.dataset))
        if coco_files.is_there(directory):
            return coco_files.open(directory), False
        if directory.is_absolute() or flags.dataset.startswith("."):  # which is no name of a set
            raise UserError(
                f"--dataset={flags.dataset} is no directory of COCO's own files: {directory / 'annotations'} is not "
                f"there; give one that holds annotations and pictures, a prepared TFDS set such as {COCO}, or "
                f"{trees.NAME}"
            )
    if flags.dataset == trees.NAME:
        return trees.open(flags.data_dir), False
    try:
        return objects.open(COCO if flags.dataset is None else flags.dataset, flags.data_dir), False
    except NotPrepared as missing:
        if flags.dataset is not None:
            raise
        size = COMPOSITES_RESOLUTION if size is None else size
        if processes.is_first():
            print(f"COCO is not at hand, so this runs shortly on composites of digits at {size} px: {missing}")
        return objects.composites(size), True


def prepare(flags_data: Data, flags: Weights, row: Preset, seed: int) -> DetectionTask:
    """Open the pictures, and put the task together.

    Args:
      flags_data, flags: as given.
      row: resolution and recipe where the flags say nothing else.
      seed: of everything drawn.

    Raises:
      UserError: data that are not there, a batch that cannot be cut, values that no training can have.
    """
    given = flags_data.resolution
    if given is not None and given % 32:
        raise UserError(f"--resolution {given} does not fit; give a multiple of 32")
    data, bundled = open_pictures(flags_data, given)
    usual = COMPOSITES if bundled else row.recipe
    if not isinstance(usual, DetectionRecipe):
        raise UserError(f"the recipe of {row.model} is for no detector")
    recipe, batch = fitted(flags_data, flags, usual, bundled)
    size = given or (COMPOSITES_RESOLUTION if bundled else row.resolution)
    task = DetectionTask(data, recipe, size, batch, seed, bundled, flags_data, flags)
    if isinstance(data.test, coco_files.Pictures) and data.test.most > task.most:  # before days of training
        number = int(np.argmax(np.diff(data.test.starts)))
        raise UserError(
            f"{data.test.name(number)} has {data.test.most} objects, and there is room for {task.most}; give "
            f"--objects {data.test.most}"
        )
    return task
