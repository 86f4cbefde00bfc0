"""ResNet as `transformers.ResNetForImageClassification` stores it."""

from __future__ import annotations

from typing import Any

from dms_jax.models.resnet import BasicBlock, ResNet
from dms_jax.pretrained.tensors import LEAVES, number

_OUTSIDE = {
    "conv": "resnet.embedder.embedder.convolution",
    "norm": "resnet.embedder.embedder.normalization",
    "classifier": "classifier.1",
}


def tensor_name(module: tuple[str, ...], leaf: str, model: ResNet) -> str:
    """Where a leaf is stored."""
    return f"{_module(module)}.{LEAVES[leaf]}"


def _module(module: tuple[str, ...]) -> str:
    if len(module) == 1:
        return _OUTSIDE[module[0]]
    stage, layer = f"resnet.encoder.stages.{number(module[0]) - 1}.layers", module[-1]
    kind = "normalization" if "norm" in layer else "convolution"
    if layer.startswith("shortcut"):
        return f"{stage}.0.shortcut.{kind}"
    return f"{stage}.{number(module[1])}.layer.{number(layer) - 1}.{kind}"


def configuration(model: ResNet) -> dict[str, Any]:
    """What config.json has to say."""
    expansion = 1 if model.block is BasicBlock else 4
    return {
        "model_type": "resnet",
        "layer_type": "basic" if model.block is BasicBlock else "bottleneck",
        "embedding_size": model.stem,
        "hidden_sizes": tuple(width * expansion for width in model.widths),
        "depths": model.blocks,
        "hidden_act": "relu",
        "downsample_in_first_stage": False,
        "downsample_in_bottleneck": False,
    }


def example(model: ResNet) -> tuple[int, ...]:
    """The shape of an input."""
    return 1, 32, 32, 3
