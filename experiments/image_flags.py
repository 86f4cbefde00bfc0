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
    """Directory of the prepared datasets."""
    resolution: Annotated[int | None, default("the network's")] = None
    """Image resolution, in pixels per side."""
    batch: Annotated[int | None, default("the recipe's")] = None
    """Global batch size, in images."""
    workers: Annotated[int | None, default("one a core, at most 16; 0 for bundled images")] = None
    """Data-loading processes per host; 0 loads in threads of the main process."""


@dataclass(frozen=True)
class Data(Images):
    """Which images, to tell apart."""

    dataset: Annotated[str | None, default("imagenet2012 where it is prepared, else the bundled digits")] = None
    """Prepared TFDS image classification dataset (imagenet2012, cifar10, ...), or synthetic, to measure speed."""
    center: Annotated[float | None, default("0.875; 1 for the bundled digits")] = None
    """Center-crop fraction at evaluation."""


@dataclass(frozen=True)
class Weights:
    """How weights are trained, of any task; what is not given is the recipe's."""

    epochs: Annotated[float | None, OF_RECIPE] = None
    """Retraining epochs; may be fractional."""
    optimizer: Annotated[Literal["sgd", "rmsprop", "adamw"] | None, OF_RECIPE] = None
    """Optimizer. sgd: Nesterov momentum (the recipe's, or 0.9); rmsprop: as EfficientNets are trained."""
    learning_rate: Annotated[float | None, OF_RECIPE] = None
    """Peak learning rate at this batch size; a recipe's default scales with the batch."""
    schedule: Annotated[Literal["cosine", "linear", "step", "exponential"] | None, OF_RECIPE] = None
    """Schedule. cosine: to 0; linear: to 1 %; step: x 0.1 at 30, 60, 90 %; exponential: x 0.97 every 2.4 epochs."""
    weight_decay: Annotated[float | None, OF_RECIPE] = None
    """Weight decay, on kernels only."""
    warmup_epochs: Annotated[float | None, OF_RECIPE] = None
    """Linear learning-rate warm-up, in epochs; at most a fifth of a phase."""
    average: Annotated[float | None, OF_RECIPE] = None
    """Decay of the exponential moving average of the weights, which is then evaluated and saved; 0 disables it."""
    calibrate: Annotated[int | None, OF_RECIPE] = None
    """Batches for re-estimating BatchNorm statistics after training; 0 keeps the running statistics."""
    accumulate: int = 1
    """Gradient-accumulation steps."""
    dtype: Annotated[Literal["float32", "bfloat16"] | None, default("float32 on CPU, bfloat16 elsewhere")] = None
    """Computation dtype; parameters stay float32."""
    fsdp: int = 1
    """FSDP sharding degree."""

    def changed(self, recipe: AnyRecipe) -> AnyRecipe:
        """The recipe with what is given here put in."""
        names = {f.name for f in dataclasses.fields(recipe)} & {f.name for f in dataclasses.fields(self)}
        return dataclasses.replace(recipe, **{n: v for n in names if (v := getattr(self, n)) is not None})


@dataclass(frozen=True)
class Training(Weights):
    """How weights are trained; what is not given is the recipe's, that of the preset or of the network's family."""

    randaugment: Annotated[bool | None, OF_RECIPE] = None
    """RandAugment: two operations of magnitude 9, standard deviation 0.5."""
    erasing: Annotated[float | None, OF_RECIPE] = None
    """Random-erasing probability."""
    mixup: Annotated[float | None, OF_RECIPE] = None
    """Mixup alpha; 0 disables it."""
    cutmix: Annotated[float | None, OF_RECIPE] = None
    """CutMix alpha; 0 disables it."""
    label_smoothing: Annotated[float | None, OF_RECIPE] = None
    """Label smoothing."""
    drop_path: Annotated[float | None, OF_RECIPE] = None
    """Stochastic-depth rate of the last block."""
    teacher: Annotated[str | None, default("none; a preset may ask for one")] = None
    """Directory of a network that teaches by DIST (Hugging Face weights, or a finished run), or none: retraining alone,
    the search looks at the labels."""
    teacher_model: Annotated[str | None, default("the preset's, or the directory's")] = None
    """Architecture of the teacher's Hugging Face weights."""
    teacher_resolution: Annotated[int | None, default("the run's, the preset's, or that of the images")] = None
    """Resolution of the teacher, in pixels per side."""
    distill: float = 1.0
    """Weight of the distillation loss."""
