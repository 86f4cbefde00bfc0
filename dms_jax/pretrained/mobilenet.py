"""MobileNetV2 as `transformers.MobileNetV2ForImageClassification` stores it.

The files of its authors have 1001 classes, the first of which is "background".
"""

from __future__ import annotations

import math
from typing import Any

from dms_jax.models.mobilenet import MobileNetV2
from dms_jax.pretrained.tensors import LEAVES, number

_OUTSIDE = {"stem_conv": "mobilenet_v2.conv_stem.first_conv", "head_conv": "mobilenet_v2.conv_1x1"}
_LAYERS = {"expand": "expand_1x1", "depthwise": "conv_3x3", "project": "reduce_1x1"}
_KINDS = {"conv": "convolution", "norm": "normalization"}


def tensor_name(module: tuple[str, ...], leaf: str, model: MobileNetV2) -> str:
    """Where a leaf is stored."""
    if module == ("classifier",):
        return f"classifier.{LEAVES[leaf]}"
    return f"{_layer(module[:-1], model)}.{_KINDS[module[-1]]}.{LEAVES[leaf]}"


def _layer(module: tuple[str, ...], model: MobileNetV2) -> str:
    if len(module) == 1:
        return _OUTSIDE[module[0]]
    stage, block, layer = module
    before = sum(math.ceil(s[2] * model.block_multiplier) for s in model.stages[: number(stage) - 1])
    place = before + number(block)  # the very first block counts as part of the stem
    where = f"layer.{place - 1}" if place else "conv_stem"
    return f"mobilenet_v2.{where}.{_LAYERS[layer]}"


def configuration(model: MobileNetV2) -> dict[str, Any]:
    """What config.json has to say."""
    return {
        "model_type": "mobilenet_v2",
        "depth_multiplier": model.width_multiplier,
        "expand_ratio": 6.0,
        "depth_divisible_by": 8,
        "min_depth": 8,
        "output_stride": 32,
        "first_layer_is_expansion": True,
        "finegrained_output": True,
        "hidden_act": "relu6",
        "tf_padding": not model.symmetric,
        "layer_norm_eps": model.epsilon,
    }


def example(model: MobileNetV2) -> tuple[int, ...]:
    """The shape of an input."""
    return 1, 32, 32, 3
