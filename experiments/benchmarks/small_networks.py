"""A small network of every family of the zoo, with data that come with it and a loss: where searches are cheap."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import jax
import numpy as np
import optax

from dms_jax.conduct import warm_cosine
from dms_jax.data import batches, box_loading, digits, objects, text
from dms_jax.detection import detection_loss
from dms_jax.method.loss import Loss
from dms_jax.models.resnet import BasicBlock, Bottleneck
from dms_jax.training import optimizers, supervised
from dms_jax.training.language import language_loss
from experiments.benchmarks.networks import Network

PIXELS, DETECTED_PIXELS, TOKENS = 16, 32, 32
PRETRAIN_STEPS, PRETRAIN_BATCH = 200, 64
RATE = 2e-3
"""Of AdamW: the peak of pretraining's cosine, constant in a search."""
PICTURES = 512
"""Composites that are drawn once."""

Draw = Callable[[int], Mapping[str, Any]]
"""From a step to its batch."""


@dataclass(frozen=True, eq=False)
class SmallNetwork(Network):
    """One network with what it learns.

    Attributes:
      loss: from a model to its loss.
      pool: the examples, `[N, ...]` each, from the length of a side or of a text.
      quick: a step takes milliseconds, so that long searches are possible.
    """

    loss: Callable[[Any], Loss] = supervised.classification_loss
    pool: Callable[[int], Mapping[str, np.ndarray]] = lambda pixels: _digits(pixels)
    quick: bool = False

    def draw(self, batch: int, seed: int) -> Draw:
        """The batches of a seed."""
        return batches(self.pool(self.shape[0]), batch, seed)

    def pretrained(self, steps: int = PRETRAIN_STEPS) -> dict[str, Any]:
        """Variables after a short training, the same ones whoever asks."""
        optimizer = optimizers.adamw(warm_cosine(RATE, steps))
        step = jax.jit(supervised.make_step(self.loss(self.made()), optimizer), donate_argnums=0)
        state, draw = supervised.init(self.new(0), optimizer), self.draw(PRETRAIN_BATCH, 0)
        for i in range(steps):
            state, _ = step(state, draw(i), jax.random.key(0))
        return state.params


def weights() -> optax.GradientTransformation:
    """What trains the weights in a search."""
    return optimizers.adamw(optax.constant_schedule(RATE))


@cache
def _digits(pixels: int) -> Mapping[str, np.ndarray]:
    return digits.load(pixels).train


@cache
def _windows(tokens: int) -> Mapping[str, np.ndarray]:
    windows = text.load(None, text.byte_tokens(), tokens).train["tokens"]
    return {"tokens": windows[text.evenly_spread(len(windows), 65_536)].astype(np.int32)}


@cache
def _composites(pixels: int) -> Mapping[str, np.ndarray]:
    data = objects.composites(pixels)
    drawn = box_loading.batches(data.train, PICTURES, 0, size=pixels, num_classes=digits.CLASSES, most=32)(0)
    return {name: np.asarray(array) for name, array in drawn.items()}


def _images(title: str, model: str, quick: bool = False, **arguments: Any) -> SmallNetwork:
    shape = (PIXELS, PIXELS, 3)
    return SmallNetwork(title, model, {"num_classes": digits.CLASSES, **arguments}, shape, quick=quick)


def _decoder(title: str, quick: bool = False, **arguments: Any) -> SmallNetwork:
    shape = {"vocabulary": 256, "width": 48, "heads": 6, "head_dim": 8, "hidden": 96, "max_positions": TOKENS}
    return SmallNetwork(title, "llama", {**shape, **arguments}, (TOKENS,), language_loss, _windows, quick)


NETWORKS = (
    _images(
        "ResNet of basic blocks", "resnet20", quick=True, block=BasicBlock, blocks=(3, 3), widths=(16, 32), stem=16
    ),
    _images("ResNet of bottlenecks", "resnet50", block=Bottleneck, blocks=(3, 2), widths=(12, 24), stem=24,
            small_images=True),
    _images("MobileNetV2", "mobilenet_v2", stem=16, head=96, stages=((1, 16, 3, 1), (4, 24, 3, 2), (4, 32, 2, 2))),
    _images("EfficientNet", "efficientnet_b0", stem=16, head=96,
            stages=((1, 16, 2, 1, 3), (4, 24, 3, 2, 3), (4, 32, 2, 2, 5))),
    _images("ViT", "vit_tiny_patch16_224", embed=48, heads=6, depth=6, image_size=PIXELS, patch_size=4),
    _images("DeiT, distilled", "deit_tiny_distilled", embed=32, heads=4, depth=4, image_size=PIXELS, patch_size=4),
    _images("Swin", "swin_tiny", embed=24, blocks=(2, 3), heads=(3, 6), window=4, patch_size=2),
    _decoder("Llama, six layers", quick=True, layers=6),
    _decoder("Llama, residual width too", layers=4, kv_heads=2, search_width=True),
    SmallNetwork(
        "YOLOv8", "yolov8n",
        {"num_classes": digits.CLASSES, "width_multiplier": 1.0, "block_multiplier": 1.0, "bins": 4,
         "widths": (8, 16, 16, 24, 24), "blocks": (1, 2, 2, 1)},
        (DETECTED_PIXELS, DETECTED_PIXELS, 3), detection_loss, _composites,
    ),
)  # fmt: skip
TINY = (_decoder("Llama, two layers", quick=True, layers=2, heads=2, width=16, hidden=16),)
