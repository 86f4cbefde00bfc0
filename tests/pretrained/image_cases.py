"""Image networks with weights that both sides can make: ours, and those of transformers.

Weights are drawn from their names, so that a stored reference needs names, shapes and logits alone.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file

from dms_jax import models, pretrained
from tests.helpers import FLOAT32_LOGITS

CLASSES = 10


@dataclass(frozen=True)
class Case:
    """One network on both sides.

    Attributes:
      name: of the network here.
      theirs: class in transformers, without "ForImageClassification...".
      config: arguments of their configuration.
      arguments: of `models.create`, beside the number of classes.
      size: of the images, px.
      suffix: of their class.
    """

    name: str
    theirs: str
    config: Mapping[str, Any] = field(default_factory=dict)
    arguments: Mapping[str, Any] = field(default_factory=dict)
    size: int = 32
    suffix: str = ""


_DEIT = "WithTeacher"
_SMALL_VIT = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 96,
    "image_size": 32,
    "patch_size": 8,
}
_SMALL_EMBED = {"embed": 24, "heads": 3, "depth": 2, "image_size": 32, "patch_size": 8}

SMALL: dict[str, Case] = {
    "resnet_basic": Case(
        "resnet18",
        "ResNet",
        {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 2], "layer_type": "basic"},
        {"stem": 8, "widths": (8, 16), "blocks": (1, 2)},
    ),
    "resnet_bottleneck": Case(
        "resnet50",
        "ResNet",
        {"embedding_size": 8, "hidden_sizes": [16, 32], "depths": [2, 1], "layer_type": "bottleneck"},
        {"stem": 8, "widths": (4, 8), "blocks": (2, 1)},
    ),
    "mobilenet_v2": Case("mobilenet_v2", "MobileNetV2", {"depth_multiplier": 0.5}, {"width_multiplier": 0.5}),
    "efficientnet": Case(
        "efficientnet_b0",
        "EfficientNet",
        {"width_coefficient": 0.5, "depth_coefficient": 0.5, "hidden_dim": 640, "image_size": 32},
        {"width_multiplier": 0.5, "block_multiplier": 0.5},
    ),
    "vit": Case("vit_tiny_patch16_224", "ViT", _SMALL_VIT, _SMALL_EMBED),
    "deit_distilled": Case("deit_tiny_distilled", "DeiT", _SMALL_VIT, _SMALL_EMBED, suffix=_DEIT),
    "swin": Case(
        "swin_tiny",
        "Swin",
        {"embed_dim": 16, "depths": [1, 2], "num_heads": [2, 4], "window_size": 4, "image_size": 32},
        {"embed": 16, "blocks": (1, 2), "heads": (2, 4), "window": 4},
    ),
}

_TINY = {"hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768}

STANDARD: dict[str, Case] = {
    "resnet18": Case(
        "resnet18",
        "ResNet",
        {"depths": [2, 2, 2, 2], "hidden_sizes": [64, 128, 256, 512], "layer_type": "basic"},
        size=224,
    ),
    "resnet50": Case("resnet50", "ResNet", size=224),
    "mobilenet_v2": Case("mobilenet_v2", "MobileNetV2", size=224),
    "efficientnet_b0": Case(
        "efficientnet_b0",
        "EfficientNet",
        {"width_coefficient": 1.0, "depth_coefficient": 1.0, "hidden_dim": 1280, "image_size": 224},
        size=224,
    ),
    "efficientnet_b1": Case(  # one strided convolution has an input of odd size
        "efficientnet_b1",
        "EfficientNet",
        {
            "width_coefficient": 1.0,
            "depth_coefficient": 1.1,
            "hidden_dim": 1280,
            "image_size": 240,
            "depthwise_padding": [16],
        },
        size=240,
    ),
    "deit_tiny": Case("deit_tiny", "ViT", _TINY, size=224),
    "vit_base": Case("vit_base_patch16_224", "ViT", size=224),
    "deit_tiny_distilled": Case("deit_tiny_distilled", "DeiT", _TINY, size=224, suffix=_DEIT),
    "swin_tiny": Case("swin_tiny", "Swin", size=224),
}


def tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Weights of one tensor, drawn from its name: of a size that keeps activations near 1."""
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    x = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)  # a stream that numpy never changes
    if name.endswith("running_var"):
        x = 1.0 + np.abs(x)
    elif len(shape) == 1:
        x = 1.0 + 0.1 * x if name.endswith("weight") else 0.1 * x
    elif name.endswith("weight"):
        x = x / np.sqrt(np.prod(shape[1:]))
    else:
        x = 0.5 * x  # tokens, positions, bias tables
    return x.astype(np.float32)


def images(size: int) -> np.ndarray:
    """`[2, size, size, 3]` float32."""
    return np.random.RandomState(7).standard_normal((2, size, size, 3)).astype(np.float32)


def write(directory: Path, config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Write a Hugging Face directory with these tensors."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(dict(config)))
    save_file({name: tensor(name, tuple(shape)) for name, shape in shapes.items()}, directory / "model.safetensors")


def our_logits(case: Case, directory: Path) -> np.ndarray:
    """`[2, CLASSES]` logits of our network with the weights of a directory."""
    variables = pretrained.load(case.name, directory, num_classes=CLASSES, **case.arguments)
    model = models.create(case.name, num_classes=CLASSES, **case.arguments)
    return np.asarray(jax.jit(model.apply)(variables, jnp.asarray(images(case.size))))


def tolerance(expected: np.ndarray) -> float:
    """Of logits; relative where they are small, so that a wrong epsilon in one layer is seen."""
    return FLOAT32_LOGITS * min(1.0, float(np.max(np.abs(expected))))
