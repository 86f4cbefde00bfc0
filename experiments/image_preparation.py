"""Tasks on images as flags ask for them: the set that is there, the recipe for its batch, the teacher."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax

from dms_jax.data import images
from dms_jax.data.images import ImageData
from dms_jax.errors import UserError
from dms_jax.structure import Structure
from dms_jax.training import processes
from experiments.image_flags import AnyRecipe, Data, Images, Training, Weights
from experiments.image_networks import described, network
from experiments.image_task import Task, Teacher
from experiments.recipes import DIGITS, SMALL_DIGITS, Recipe

IMAGENET, SYNTHETIC = "imagenet2012", "synthetic"


def open_images(flags: Data, size: int, small: int) -> tuple[ImageData, bool]:
    """The set asked for; where none was asked for and ImageNet is not prepared, the bundled digits, saying so.

    Args:
      flags: as given.
      size: pixels of a side of synthetic images.
      small: of digits.

    Returns:
      The images, and whether they are the bundled ones.

    Raises:
      UserError: a set that was asked for is not there.
    """
    if flags.dataset == SYNTHETIC:
        return images.synthetic(1000, size), False
    try:
        return images.open(flags.dataset or IMAGENET, flags.data_dir), False
    except images.NotPrepared as missing:
        if flags.dataset is not None:
            raise
        if processes.is_first():
            print(f"ImageNet is not at hand, so this runs shortly on scikit-learn's digits at {small} px: {missing}")
        return images.digits(small), True


def prepare(
    flags_data: Data,
    flags: Training,
    recipe: Recipe,
    size: int,
    seed: int,
    taught_by: tuple[str, int] | None = None,
    small: int | None = None,
) -> Task:
    """Open the images, find the teacher, and put the task together.

    Args:
      flags_data, flags: as given.
      recipe: to train by where the flags say nothing else.
      size: pixels of a side that the network sees.
      seed: of everything drawn.
      taught_by: network and resolution of the teacher that a preset asks for.
      small: pixels of a side of the bundled digits where they take the place of data that is not there: many of them
        are seen in the time of few large ones. Resources stay those of `size`. None: digits are `size` large, too.

    Raises:
      UserError: data or weights that are not there, a batch that cannot be cut, values that no training can have.
    """
    small = size if small is None else min(small, size)
    data, bundled = open_images(flags_data, size, small)
    counted = size if bundled and small < size else None
    if bundled:
        size, recipe = small, DIGITS if counted is None else SMALL_DIGITS
    recipe, batch = fitted(flags_data, flags, recipe, bundled)
    asked = None if bundled or flags_data.dataset == SYNTHETIC else taught_by
    task = Task(data, recipe, size, batch, seed, bundled, flags_data, flags, counted=counted)
    return dataclasses.replace(task, teacher=_teacher(task, asked))


def fitted(flags_data: Images, flags: Weights, recipe: AnyRecipe, bundled: bool) -> tuple[AnyRecipe, int]:
    """The recipe with what the flags say and the learning rate of the batch, and the batch.

    Args:
      flags_data, flags: as given.
      recipe: to train by where the flags say nothing else.
      bundled: whether the batch may grow to one image a device.

    Raises:
      UserError: a batch that cannot be cut, values that no training can have.
    """
    recipe, batch = flags.changed(recipe), flags_data.batch
    if batch is None:
        batch = max(recipe.reference_batch, len(jax.devices())) if bundled else recipe.reference_batch
    pieces = len(jax.devices()) * max(flags.accumulate, 1)
    if batch < 1 or flags.accumulate < 1 or batch % pieces:
        raise UserError(
            f"--batch {batch} cannot be cut over {len(jax.devices())} devices in {flags.accumulate} parts; take a "
            f"multiple of {pieces}"
        )
    if flags.learning_rate is None:
        recipe = dataclasses.replace(recipe, learning_rate=recipe.learning_rate * batch / recipe.reference_batch)
    for name in ("epochs", "learning_rate"):
        if not 0 < getattr(recipe, name) < float("inf"):
            raise UserError(f"--{name.replace('_', '-')} {getattr(recipe, name)} is not possible; give one above 0")
    if recipe.calibrate < 0:
        raise UserError(f"--calibrate {recipe.calibrate} is not possible; give a number of batches, or 0")
    return recipe, batch


def _teacher(task: Task, asked: tuple[str, int] | None) -> Teacher | None:
    flags, path = task.flags, Path(task.flags.teacher or "")
    if flags.teacher == "none" or (flags.teacher is None and asked is None):
        return None
    if flags.teacher is None:
        name, resolution = asked or ("", 0)
        raise UserError(
            f"this preset is taught by {name} at {resolution} px: give its weights with --teacher DIR, or say "
            "--teacher none"
        )
    name = flags.teacher_model or (asked[0] if asked else None)
    resolution = flags.teacher_resolution
    if resolution is None and (path / "structure.json").exists():
        resolution = described(Structure.load(path / "structure.json"), path).size
    if resolution is None:
        resolution = asked[1] if asked else task.size
    classes = task.data.num_classes
    model, variables = network(path, name, resolution=resolution, num_classes=classes, dtype=task.dtype)
    return Teacher(model, variables, resolution)
