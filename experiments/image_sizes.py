"""Several sizes of a classifier: how the largest teaches the others."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax

from dms_jax.training.distillation import Distillation, at_resolution
from dms_jax.training.joint import Lessons
from dms_jax.training.sizes import Sizes
from dms_jax.training.supervised import classification_loss
from experiments.flags import Asked


def image_sizes(budgets: Asked, model: Any, resolution: int | None = None) -> Sizes | None:
    """The sizes asked for: the largest learns from the labels, the others half from these and half from its answers.

    Args:
      budgets: the flags.
      model: a Flax Linen classifier, called as `model(images, train=True)`.
      resolution: pixels of a side that it takes, where images may be larger.
    """
    sizes = budgets.family
    if sizes is None or not sizes.together:
        return sizes

    def answers(params: Any, batch: Mapping[str, Any], key: jax.Array) -> jax.Array:
        images = batch["image"] if resolution is None else at_resolution(batch["image"], resolution)
        return model.apply(params, images, train=True, mutable=["batch_stats"], rngs={"dropout": key})[0]

    loss = classification_loss(model, Distillation(), resolution=resolution)
    return dataclasses.replace(sizes, lessons=Lessons.in_batch(answers, loss))
