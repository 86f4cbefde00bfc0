"""EfficientNet as `transformers.EfficientNetForImageClassification` stores it.

transformers pads some strided convolutions for one resolution, config.json's "image_size"; here padding follows the
input, as in the original. The networks agree at that resolution.
"""

from __future__ import annotations

import math
from typing import Any

from dms_jax.errors import UserError
from dms_jax.models.efficientnet import EfficientNet
from dms_jax.pretrained.tensors import LEAVES, number

_OUTSIDE = {
    ("stem_conv", "conv"): "efficientnet.embeddings.convolution",
    ("stem_conv", "norm"): "efficientnet.embeddings.batchnorm",
    ("head_conv", "conv"): "efficientnet.encoder.top_conv",
    ("head_conv", "norm"): "efficientnet.encoder.top_bn",
    ("classifier",): "classifier",
}

_INSIDE = {
    ("expand", "conv"): "expansion.expand_conv",
    ("expand", "norm"): "expansion.expand_bn",
    ("depthwise", "conv"): "depthwise_conv.depthwise_conv",
    ("depthwise", "norm"): "depthwise_conv.depthwise_norm",
    ("squeeze", "reduce"): "squeeze_excite.reduce",
    ("squeeze", "expand"): "squeeze_excite.expand",
    ("project", "conv"): "projection.project_conv",
    ("project", "norm"): "projection.project_bn",
}


def tensor_name(module: tuple[str, ...], leaf: str, model: EfficientNet) -> str:
    """Where a leaf is stored."""
    return f"{_module(module, model)}.{LEAVES[leaf]}"


def _module(module: tuple[str, ...], model: EfficientNet) -> str:
    if module in _OUTSIDE:
        return _OUTSIDE[module]
    stage, block, part, layer = module
    before = sum(math.ceil(s[2] * model.block_multiplier) for s in model.stages[: number(stage) - 1])
    return f"efficientnet.encoder.blocks.{before + number(block)}.{_INSIDE[part, layer]}"


def configuration(model: EfficientNet) -> dict[str, Any]:
    """What config.json has to say.

    Raises:
      UserError: a network that pads otherwise.
    """
    if model.symmetric:
        raise UserError("transformers' EfficientNet pads as TensorFlow does; make the network with symmetric=False")
    expansion, _, blocks, stride, size = zip(*model.stages, strict=True)
    return {
        "model_type": "efficientnet",
        "width_coefficient": model.width_multiplier,
        "depth_coefficient": model.block_multiplier,
        "expand_ratios": expansion,
        "num_block_repeats": blocks,
        "strides": stride,
        "kernel_sizes": size,
        "squeeze_expansion_ratio": 0.25,
        "depth_divisor": 8,
        "hidden_act": frozenset(("swish", "silu")),
        "pooling_type": "mean",
        "batch_norm_eps": model.epsilon,
    }


def example(model: EfficientNet) -> tuple[int, ...]:
    """The shape of an input."""
    return 1, 32, 32, 3
