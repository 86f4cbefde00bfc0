"""Flags that the commands on images share: which images, and how weights are trained."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from experiments.flags import default
from experiments.recipes import Recipe

AnyRecipe = TypeVar("AnyRecipe", bound=Recipe)
OF_RECIPE = default("the recipe's")


@dataclass(frozen=True)
class Images:
    """Which images, of any task."""

    data_dir: Annotated[Path | None, default("TFDS's own")] = None
    """Where prepared sets lie."""
    resolution: Annotated[int | None, default("the network's")] = None
    """Pixels of a side."""
    batch: Annotated[int | None, default("the recipe's")] = None
    """Images a step, over all devices."""
    workers: Annotated[int | None, default("one a core, at most 16; 0 for bundled images")] = None
    """Processes that decode and augment, on every host; 0 does it in threads of the main process."""


@dataclass(frozen=True)
class Data(Images):
    """Which images, to tell apart."""

    dataset: Annotated[str | None, default("imagenet2012 where it is prepared, else the bundled digits")] = None
    """A prepared TFDS image classification set (imagenet2012, cifar10, ...), or synthetic: to measure speed."""
    center: Annotated[float | None, default("0.875; 1 for the bundled digits")] = None
    """Share of a side that evaluation shows."""


@dataclass(frozen=True)
class Weights:
    """How weights are trained, of any task; what is not given is the recipe's."""

    epochs: Annotated[float | None, OF_RECIPE] = None
    """Of retraining; may be a fraction."""
    optimizer: Annotated[Literal["sgd", "rmsprop", "adamw"] | None, OF_RECIPE] = None
    """sgd: Nesterov momentum, the recipe's or 0.9; rmsprop: as EfficientNets are trained."""
    learning_rate: Annotated[float | None, OF_RECIPE] = None
    """Peak, at the batch that is used; a recipe's own is scaled from its batch."""
    schedule: Annotated[Literal["cosine", "linear", "step", "exponential"] | None, OF_RECIPE] = None
    """cosine: to 0; linear: to 1 %; step: a tenth at 30, 60 and 90 %; exponential: 0.97 times every 2.4 epochs."""
    weight_decay: Annotated[float | None, OF_RECIPE] = None
    """On kernels alone."""
    warmup_epochs: Annotated[float | None, OF_RECIPE] = None
    """Of the learning rate, linear; at most a fifth of a phase."""
    average: Annotated[float | None, OF_RECIPE] = None
    """Decay of the moving average of the weights, which is then evaluated and kept; lower at first. 0 keeps none."""
    calibrate: Annotated[int | None, OF_RECIPE] = None
    """Batches over which BatchNorm statistics are estimated anew after training; 0 keeps the running ones."""
    accumulate: int = 1
    """Parts that a batch passes in, one after another, where it does not fit at once."""
    dtype: Annotated[Literal["float32", "bfloat16"] | None, default("float32 on CPU, bfloat16 elsewhere")] = None
    """Of computation; parameters stay float32."""
    fsdp: int = 1
    """Over how many devices parameters and optimizer states are cut."""

    def changed(self, recipe: AnyRecipe) -> AnyRecipe:
        """The recipe with what is given here put in."""
        names = {f.name for f in dataclasses.fields(recipe)} & {f.name for f in dataclasses.fields(self)}
        return dataclasses.replace(recipe, **{n: v for n in names if (v := getattr(self, n)) is not None})


@dataclass(frozen=True)
class Training(Weights):
    """How weights are trained; what is not given is the recipe's, that of the preset or of the network's family."""

    randaugment: Annotated[bool | None, OF_RECIPE] = None
    """Two operations of magnitude 9, standard deviation 0.5."""
    erasing: Annotated[float | None, OF_RECIPE] = None
    """Probability of erasing a rectangle."""
    mixup: Annotated[float | None, OF_RECIPE] = None
    """Alpha; 0 for none."""
    cutmix: Annotated[float | None, OF_RECIPE] = None
    """Alpha; 0 for none."""
    label_smoothing: Annotated[float | None, OF_RECIPE] = None
    """Share of a label spread over all classes."""
    drop_path: Annotated[float | None, OF_RECIPE] = None
    """Stochastic depth of the last block."""
    teacher: Annotated[str | None, default("none; a preset may ask for one")] = None
    """Directory of a network that teaches by DIST (Hugging Face weights, or a finished run), or none: retraining alone,
    the search looks at the labels."""
    teacher_model: Annotated[str | None, default("the preset's, or the directory's")] = None
    """Which network of the zoo the teacher's Hugging Face weights are of."""
    teacher_resolution: Annotated[int | None, default("the run's, the preset's, or that of the images")] = None
    """Pixels of a side that the teacher sees."""
    distill: float = 1.0
    """Weight of the teacher's part of the loss, beside the labels'."""
