"""Training on images: data, recipe and devices put together for the ImageNet commands."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from dms_jax import models
from dms_jax.data import loading, mixing
from dms_jax.data.augment import Augment
from dms_jax.data.images import ImageData
from dms_jax.data.randaugment import RandAugment
from dms_jax.elements import Searchable
from dms_jax.method.loss import Loss
from dms_jax.training import make_mesh, optimizers, place, schedules, shard_batch, supervised
from dms_jax.training.distillation import Distillation, image_teacher, taught
from dms_jax.training.job import Job
from dms_jax.training.pipeline import Network
from dms_jax.training.plan import Steps
from dms_jax.training.results import Quality
from dms_jax.training.runs import Run
from dms_jax.training.sizes import Sizes
from experiments.flags import Asked
from experiments.image_flags import Data, Training
from experiments.image_sizes import image_sizes
from experiments.recipes import (
    DIGITS_SEARCH_EPOCHS,
    SMALL_DIGITS_SEARCH_EPOCHS,
    Recipe,
)


@dataclass(frozen=True)
class Teacher:
    """A network that teaches: what it is, its variables, and pixels of a side that it sees."""

    model: Searchable
    variables: Any
    resolution: int


@dataclass(frozen=True, eq=False)
class Task:
    """Images, and a way to train on them.

    Attributes:
      data: the images.
      recipe: how to train, with the batch's learning rate in it.
      size: pixels of a side that the network sees.
      batch: images a step, over all devices and processes.
      seed: of everything drawn.
      bundled: the digits take the place of data that is not there.
      flags_data, flags: as given.
      teacher: None where nobody teaches.
      counted: pixels of a side of the image that resources are of; None: `size`.
    """

    data: ImageData
    recipe: Recipe
    size: int
    batch: int
    seed: int
    bundled: bool
    flags_data: Data
    flags: Training
    teacher: Teacher | None = None
    counted: int | None = None

    @property
    def example(self) -> jax.ShapeDtypeStruct:
        """The image that resources are of."""
        size = self.counted or self.size
        return jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)

    @cached_property
    def mesh(self) -> jax.sharding.Mesh:
        """All devices of all processes."""
        return make_mesh(fsdp=self.flags.fsdp)

    @property
    def untaught(self) -> Task:
        """The same without a teacher: as a search trains, whose losses tell elements apart by the labels alone."""
        return dataclasses.replace(self, teacher=None)

    @property
    def dtype(self) -> str:
        """Of computation."""
        return self.flags.dtype or ("float32" if jax.default_backend() == "cpu" else "bfloat16")

    @property
    def workers(self) -> int:
        """Processes that load."""
        if self.flags_data.workers is not None:
            return self.flags_data.workers
        return 0 if self.bundled else min(os.cpu_count() or 1, 16)

    @property
    def center(self) -> float:
        """Share of a side that evaluation shows: digits fill the whole of it."""
        return (1.0 if self.bundled else 0.875) if self.flags_data.center is None else self.flags_data.center

    @property
    def average(self) -> optax.Schedule | None:
        """Decay of the moving average of the weights, from the steps done; None keeps none."""
        return schedules.average_decay(self.recipe.average) if self.recipe.average else None

    @property
    def pixels(self) -> int:
        """Of a side, of the images in a batch: what the larger of network and teacher sees."""
        return max(self.size, self.teacher.resolution if self.teacher else 0)

    @property
    def bundled_search_epochs(self) -> float:
        """Epochs of a search on the bundled images."""
        return DIGITS_SEARCH_EPOCHS if self.counted is None else SMALL_DIGITS_SEARCH_EPOCHS

    @property
    def description(self) -> str:
        """The images in words."""
        train, test = len(self.data.train), len(self.data.test)
        found = f"{self.data.name}: {train:,} training and {test:,} test images of {self.data.num_classes} classes"
        return found if self.counted is None else f"{found}; resources are of one image of {self.counted} px"

    def steps(self, epochs: float) -> int:
        """Optimizer steps of so many epochs, at least 1."""
        return max(schedules.steps_of(epochs, len(self.data.train), self.batch), 1)

    def optimizer(self, steps: int) -> optax.GradientTransformation:
        """The recipe's, for a phase of so many steps."""
        r, warmup = self.recipe, self._warmup(steps)
        if r.schedule == "cosine":
            rate = schedules.cosine(r.learning_rate, max(steps, 1), warmup)
        elif r.schedule == "linear":
            rate = schedules.linear(r.learning_rate, max(steps, 1), warmup, 0.01 * r.learning_rate)
        elif r.schedule == "step":
            drops = sorted({max(round(share * steps), warmup + 1) for share in (0.3, 0.6, 0.9)})
            rate = schedules.step(r.learning_rate, drops, warmup=warmup)
        else:
            every = r.decay_epochs * len(self.data.train) / self.batch
            rate = schedules.exponential(r.learning_rate, every, r.decay, warmup)
        return self.optimizer_at(rate)

    def optimizer_at(self, rate: optax.Schedule) -> optax.GradientTransformation:
        """The recipe's optimizer at a learning rate."""
        make = getattr(optimizers, self.recipe.optimizer)
        return make(rate, weight_decay=self.recipe.weight_decay, clip=self.recipe.clip)

    def search_rate(self, steps: int) -> optax.Schedule:
        """Of the weights in a search: constant at a fifth of the peak, reached in the recipe's warm-up."""
        rate, warmup = self.recipe.learning_rate / 5, self._warmup(steps)
        return optax.linear_schedule(0.0, rate, warmup) if warmup else optax.constant_schedule(rate)

    def _warmup(self, steps: int) -> int:
        """Of the learning rate, in a phase of so many steps."""
        return min(schedules.steps_of(self.recipe.warmup_epochs, len(self.data.train), self.batch), steps // 5)

    def loss(self, model: nn.Module) -> Loss:
        """The task's loss for a network, taught where there is a teacher."""
        distillation = (
            Distillation(kind="dist", beta=self.flags.distill, gamma=self.flags.distill) if self.teacher else None
        )
        return supervised.classification_loss(model, distillation, resolution=self.size)

    def sizes(self, budgets: Asked, model: nn.Module) -> Sizes | None:
        """Several sizes, where they are asked for, and how the largest teaches the others."""
        return image_sizes(budgets, model, self.size)

    def batches(self) -> Callable[[int], dict[str, jax.Array]]:
        """From a step to its batch on the devices: augmented, mixed, and with the teacher's answers."""
        r = self.recipe
        augment = Augment((r.crop, 1.0), flip=r.flip, rand_augment=RandAugment() if r.randaugment else None)
        load = loading.batches(
            self.data.train,
            self.batch,
            self.seed,
            size=self.pixels,
            augment=augment,
            workers=self.workers,
            shard=(jax.process_index(), jax.process_count()),
        )
        rules = mixing.Mixing(r.mixup, r.cutmix, erasing=r.erasing, label_smoothing=r.label_smoothing)
        key = jax.random.fold_in(jax.random.key(self.seed), 1)
        mix = jax.jit(
            lambda batch, step: mixing.mix(batch, jax.random.fold_in(key, step), rules, self.data.num_classes)
        )

        def plain(step: int) -> dict[str, jax.Array]:
            return mix(shard_batch(load(step), self.mesh), step)

        if self.teacher is None:
            return plain
        t = self.teacher
        teach = image_teacher(t.model, t.variables, resolution=t.resolution, classes=self.data.num_classes)
        return taught(plain, teach, place(t.variables, self.mesh))

    def job(self, run: Run, model: nn.Module) -> Job:
        """Phases of this task in a run directory, for a network."""
        key = jax.random.key(self.seed)
        how: dict[str, Any] = {"accumulate": self.flags.accumulate, "calibrate": self.recipe.calibrate}
        return Job(run, self.loss(model), self.batches(), self.mesh, key, **how)

    def later(self, run: Run, model: nn.Module, steps: Steps) -> Job | None:
        """What trains after a search, where that is another job than before; None: it is the same."""
        return None if self.teacher is None else self.job(run, model)

    def evaluation(self) -> Iterable[dict[str, jax.Array]]:
        """The test images on the devices, each with weight 1 once."""
        shard = (jax.process_index(), jax.process_count())
        tested = loading.evaluation(
            self.data.test, self.batch, self.size, crop=self.center, workers=self.workers, shard=shard
        )
        for batch in tested:
            on_devices = shard_batch(batch, self.mesh)
            yield on_devices | {"image": _normalize(on_devices["image"])}

    def examples(self, n: int = 4) -> np.ndarray:
        """The first test images, `[n, size, size, 3]` float32, the same on every host."""
        first = next(iter(loading.evaluation(self.data.test, n, self.size, crop=self.center)))
        return np.asarray(_normalize(first["image"]))

    @property
    def identity(self) -> dict[str, Any]:
        """What of images and training makes a job the one it is, defaults filled in.

        Where images lie, who loads them and over what devices states are cut is no part of it.
        """
        teacher: dict[str, Any] = {"teacher": None, "teacher_resolution": None, "distill": None}
        if self.teacher is not None:
            teacher = {"teacher": self.flags.teacher, "teacher_resolution": self.teacher.resolution}
            teacher["distill"] = self.flags.distill
        return {**self._identity, "center": self.center, **teacher}

    @property
    def _identity(self) -> dict[str, Any]:
        """The part of it that every task on images has."""
        return {
            "dataset": self.data.name,
            "resolution": self.size,
            **({} if self.counted is None else {"counted_resolution": self.counted}),
            "batch": self.batch,
            "accumulate": self.flags.accumulate,
            "dtype": self.dtype,
            "seed": self.seed,
            **dataclasses.asdict(self.recipe),
            "average": self.recipe.average or None,
        }

    @property
    def quality(self) -> Quality:
        """Top-1 accuracy on the test images."""
        return Quality("top-1 accuracy", "%", lambda fn, v: supervised.accuracy(fn, v, self.evaluation())[:2])

    @property
    def shown(self) -> Callable[[Mapping[str, Network]], Any] | None:
        """What a report shows of what networks do, beside numbers; None: nothing."""
        return None

    def create(self, name: str, arguments: dict[str, Any]) -> Searchable:
        """A network of the zoo for these images."""
        return models.create(name, **self.arguments(name, arguments))

    def arguments(self, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """What makes it: classes, dtype, resolution and stochastic depth put in where the family has them."""
        takes = {f.name for f in dataclasses.fields(models.create(name))}
        offered = {"dtype": self.dtype, "image_size": self.size, "drop_path": self.recipe.drop_path}
        fitting = {n: v for n, v in offered.items() if n in takes and v is not None}
        return {**arguments, **fitting, "num_classes": self.data.num_classes}

    def described(self, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """What a structure says of its network; of the pixels that it saw where resources are of others."""
        return {"name": name, "arguments": arguments} | ({} if self.counted is None else {"resolution": self.size})

    def new_variables(self, model: nn.Module) -> Any:
        """Random variables, on the devices."""
        x = jnp.zeros((1, self.size, self.size, 3))
        return place(jax.jit(model.init)(jax.random.key(self.seed), x), self.mesh)


_normalize = jax.jit(mixing.normalize)
