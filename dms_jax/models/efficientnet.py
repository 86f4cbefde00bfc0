"""EfficientNet B0 to B7 (Tan & Le 2019, arXiv 1905.11946), as published ("SAME" padding, BatchNorm eps
1e-3) or as in torchvision.

Groups: the stem, every block's expanded width and squeeze width, every stage's output, the head, and the blocks of
every stage whose skip is an identity.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dms_jax.elements import Searchable
from dms_jax.models.inverted import ConvNorm, Stage, round_channels

# expansion, width, blocks, stride, kernel size
STAGES = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)


class EfficientNet(Searchable):
    """`__call__(images: [B, H, W, 3] float, train) -> logits [B, num_classes]` float32.

    Attributes:
      width_multiplier: scales the channels of every layer, rounded to multiples of 8.
      block_multiplier: scales the number of blocks of every stage, rounded up.
      dropout: before the classifier, in training.
      drop_path: stochastic depth of the last block in training; earlier ones get less, linearly.
      stages: expansion, width, blocks, stride and kernel size of every stage.
      symmetric: padding of half a kernel on every side, as in torchvision, and not TensorFlow's "SAME".
      epsilon: of BatchNorm; torchvision's networks have 1e-5.
    """

    width_multiplier: float = 1.0
    block_multiplier: float = 1.0
    dropout: float = 0.2
    drop_path: float = 0.2
    stem: int = 32
    head: int = 1280
    stages: tuple[tuple[int, int, int, int, int], ...] = STAGES
    num_classes: int = 1000
    symmetric: bool = False
    epsilon: float = 1e-3
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        usual = {"dtype": self.dtype, "symmetric": self.symmetric, "epsilon": self.epsilon}
        make = partial(ConvNorm, act=nn.silu, **usual)
        group = self.elements("stem", round_channels(self.stem * self.width_multiplier))
        x = make(group.size, 3, 2, name="stem_conv")(images.astype(self.dtype), train=train)
        counts = [math.ceil(count * self.block_multiplier) for _, _, count, _, _ in self.stages]
        for i, (expansion, width, _, stride, size) in enumerate(self.stages):
            before = sum(counts[:i])
            stage = Stage(
                blocks=counts[i],
                width=round_channels(width * self.width_multiplier),
                expansion=expansion,
                size=size,
                stride=stride,
                squeeze_ratio=0.25,
                drop_path=tuple(self.drop_path * (before + j) / sum(counts) for j in range(counts[i])),
                act=nn.silu,
                name=f"stage{i + 1}",
                **usual,
            )
            x, group = stage(x, group, train=train)
        head = self.elements("head", round_channels(self.head * self.width_multiplier))
        x = make(head.size, 1, 1, name="head_conv")(group(x), train=train)
        x = head(jnp.mean(x, axis=(1, 2)))
        x = nn.Dropout(self.dropout, deterministic=not train, name="dropout_layer")(x)
        return nn.Dense(self.num_classes, dtype=self.dtype, name="classifier")(x).astype(jnp.float32)


def _scaled(width: float, blocks: float, dropout: float) -> Callable[..., EfficientNet]:
    return partial(EfficientNet, width_multiplier=width, block_multiplier=blocks, dropout=dropout)


# Compound scaling; the resolutions they were published at are 224, 240, 260, 300, 380, 456, 528 and 600.
MODELS: dict[str, Callable[..., EfficientNet]] = {
    "efficientnet_b0": _scaled(1.0, 1.0, 0.2),
    "efficientnet_b1": _scaled(1.0, 1.1, 0.2),
    "efficientnet_b2": _scaled(1.1, 1.2, 0.3),
    "efficientnet_b3": _scaled(1.2, 1.4, 0.3),
    "efficientnet_b4": _scaled(1.4, 1.8, 0.4),
    "efficientnet_b5": _scaled(1.6, 2.2, 0.4),
    "efficientnet_b6": _scaled(1.8, 2.6, 0.5),
    "efficientnet_b7": _scaled(2.0, 3.1, 0.5),
}
