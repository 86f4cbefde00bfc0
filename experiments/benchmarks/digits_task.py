"""A ResNet-20 on scikit-learn's digits: saturated but for very small budgets and few labels.

With all labels a network trains on 1,237 images, choices look at 200 others, and 360 are for testing. With few labels
(200, say) these are drawn by the seed, 200 others are for choices, and all the rest are for testing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dms_jax import models
from dms_jax.data import batches, digits
from dms_jax.space import SearchSpace
from dms_jax.training import supervised
from dms_jax.training.joint import Answers
from experiments.benchmarks.tasks import Task, TaskOptions, Unit
from experiments.digits_search import sgd

DATA = "scikit-learn digits, 8 x 8 pixels"
CROSS_ENTROPY = "valid_cross_entropy"
"""What choices look at: among 200 images, one more that is wrong is mostly chance."""


@dataclass(frozen=True)
class DigitsOptions(TaskOptions):
    """The size of the task: about half a minute of one core a cell.

    Attributes:
      labels: training images with labels; 0 for all.
      widths, blocks: of the network's stages.
    """

    labels: int = 0
    batch: int = 64
    valid: int = 200
    pretrain_rate: float = 0.1
    pretrain_steps: int = 400
    learning_rate: float = 0.1
    widths: tuple[int, ...] = (16, 32, 64)
    blocks: int = 3


QUICK = DigitsOptions(batch=8, pretrain_steps=2, widths=(8,), blocks=2)
QUICK_FEW = dataclasses.replace(QUICK, labels=20)


def digits_task(options: DigitsOptions) -> Task:
    """The task of these options, with the share of wrong answers as its scores; choices look at the cross-entropy."""
    blocks = (options.blocks,) * len(options.widths)
    model = models.create(
        "resnet20", num_classes=digits.CLASSES, widths=options.widths, blocks=blocks, stem=options.widths[0]
    )
    halves = lru_cache(maxsize=4)(lambda seed: split(options, seed))

    def scores(network: Any, variables: Any, seed: int) -> dict[str, float]:
        parts = [halves(seed)[name] for name in ("valid", "test")]
        images, labels = (np.concatenate([part[name] for part in parts]) for name in ("image", "label"))
        logits = jax.jit(lambda v, x: network.apply(v, x, train=False))(variables, images)
        wrong = np.asarray(jnp.argmax(logits, axis=-1) != labels)
        nats = optax.softmax_cross_entropy_with_integer_labels(logits, labels)[: options.valid]
        return {
            "valid": float(np.mean(wrong[: options.valid])),
            CROSS_ENTROPY: float(jnp.mean(nats)),
            "test": float(np.mean(wrong[options.valid :])),
        }

    return Task(
        name="digits",
        options=options,
        usual=DigitsOptions(),
        data=DATA,
        space=SearchSpace.from_model(model, jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)),
        loss=supervised.classification_loss,
        batches=lambda seed: batches(halves(seed)["train"], options.batch, seed),
        optimizer=sgd,
        scores=scores,
        unit=Unit("test error, %", 100.0, 2),
        choice=(CROSS_ENTROPY, Unit("cross-entropy, nats")),
        answers=answers,
    )


def answers(network: Any) -> Answers:
    """Logits of a classifier as its loss computes them."""

    def logits(variables: Any, batch: Mapping[str, jax.Array], key: jax.Array) -> jax.Array:
        rngs = {"dropout": key}
        return network.apply(variables, batch["image"], train=True, mutable=["batch_stats"], rngs=rngs)[0]

    return logits


def split(options: DigitsOptions, seed: int) -> dict[str, Mapping[str, np.ndarray]]:
    """{"train", "valid", "test"} of a seed: disjoint, all 1,797 images together."""
    loaded = digits.load()
    order = np.random.default_rng(seed).permutation(len(loaded.train["label"]))
    labels = options.labels or len(order) - options.valid
    cut = {"train": order[:labels], "valid": order[labels : labels + options.valid]}
    parts = {name: {k: array[chosen] for k, array in loaded.train.items()} for name, chosen in cut.items()}
    rest = order[labels + options.valid :]
    test = {k: np.concatenate([loaded.test[k], array[rest]]) for k, array in loaded.train.items()}
    return {**parts, "test": test}
