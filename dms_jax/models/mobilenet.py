"""MobileNetV2 (Sandler et al. 2018, arXiv 1801.04381), as published ("SAME" padding, BatchNorm eps
1e-3) or as in torchvision.

Groups: the stem, every block's expanded width, every stage's output, the head, and the blocks of every stage whose skip
is an identity.
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

# expansion, width, blocks, stride; kernels are 3x3
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


class MobileNetV2(Searchable):
    """`__call__(images: [B, H, W, 3] float, train) -> logits [B, num_classes]` float32.

    Attributes:
      width_multiplier: scales the channels of every layer, rounded to multiples of 8; the head never shrinks.
      block_multiplier: scales the number of blocks of every stage, rounded up.
      dropout: before the classifier, in training.
      stages: expansion, width, blocks and stride of every stage.
      symmetric: padding of half a kernel on every side, as in torchvision, and not TensorFlow's "SAME".
      epsilon: of BatchNorm; torchvision's networks have 1e-5.
    """

    width_multiplier: float = 1.0
    block_multiplier: float = 1.0
    dropout: float = 0.2
    stem: int = 32
    head: int = 1280
    stages: tuple[tuple[int, int, int, int], ...] = STAGES
    num_classes: int = 1000
    symmetric: bool = False
    epsilon: float = 1e-3
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        usual = {"dtype": self.dtype, "symmetric": self.symmetric, "epsilon": self.epsilon}
        make = partial(ConvNorm, act=nn.relu6, **usual)
        group = self.elements("stem", round_channels(self.stem * self.width_multiplier))
        x = make(group.size, 3, 2, name="stem_conv")(images.astype(self.dtype), train=train)
        for i, (expansion, width, count, stride) in enumerate(self.stages):
            blocks = math.ceil(count * self.block_multiplier)
            stage = Stage(
                blocks=blocks,
                width=round_channels(width * self.width_multiplier),
                expansion=expansion,
                size=3,
                stride=stride,
                squeeze_ratio=0.0,
                drop_path=(0.0,) * blocks,
                act=nn.relu6,
                name=f"stage{i + 1}",
                **usual,
            )
            x, group = stage(x, group, train=train)
        head = self.elements("head", round_channels(self.head * max(1.0, self.width_multiplier)))
        x = make(head.size, 1, 1, name="head_conv")(group(x), train=train)
        x = head(jnp.mean(x, axis=(1, 2)))
        x = nn.Dropout(self.dropout, deterministic=not train, name="dropout_layer")(x)
        return nn.Dense(self.num_classes, dtype=self.dtype, name="classifier")(x).astype(jnp.float32)


MODELS: dict[str, Callable[..., MobileNetV2]] = {"mobilenet_v2": MobileNetV2}
