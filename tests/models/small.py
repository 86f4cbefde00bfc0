"""A small network of every image family, with everything the family has: what the laws are checked on."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dms_jax import Searchable, SearchSpace
from dms_jax.models.efficientnet import EfficientNet
from dms_jax.models.mobilenet import MobileNetV2
from dms_jax.models.resnet import BasicBlock, Bottleneck, ResNet
from dms_jax.models.swin import Swin
from dms_jax.models.vit import VisionTransformer
from dms_jax.models.yolov8 import YOLOv8

SIZE = 32
CLASSES = 10

NETWORKS: dict[str, Searchable] = {
    "resnet_basic": ResNet(block=BasicBlock, blocks=(2, 2), widths=(8, 12), stem=8, num_classes=CLASSES),
    "resnet_bottleneck": ResNet(block=Bottleneck, blocks=(2, 2), widths=(4, 6), stem=8, num_classes=CLASSES),
    # stage 1 keeps the stem's width, so that its first block can go too
    "mobilenet_v2": MobileNetV2(
        stem=8, head=24, stages=((1, 8, 2, 1), (2, 16, 1, 2), (3, 16, 2, 2)), num_classes=CLASSES
    ),
    "efficientnet": EfficientNet(stem=16, head=24, stages=((1, 8, 2, 1, 3), (2, 16, 2, 2, 3)), num_classes=CLASSES),
    "vit": VisionTransformer(embed=24, heads=3, depth=2, image_size=SIZE, patch_size=8, num_classes=CLASSES),
    "deit_distilled": VisionTransformer(
        embed=16, heads=4, depth=2, image_size=SIZE, patch_size=8, distilled=True, drop_path=0.1, num_classes=CLASSES
    ),
    "swin": Swin(embed=16, blocks=(1, 2), heads=(2, 4), window=4, num_classes=CLASSES),
    # one bottleneck that can go, in stage 2, and a neck whose bottlenecks follow one another
    "yolov8": YOLOv8(widths=(8, 8, 16, 16, 16), blocks=(1, 2, 1, 1), bins=4, num_classes=CLASSES),
}


def images(batch: int = 2, seed: int = 0, size: int = SIZE) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=(batch, size, size, 3)), jnp.float32)


def space_of(name: str) -> SearchSpace:
    return SearchSpace.from_model(NETWORKS[name], jax.ShapeDtypeStruct((1, SIZE, SIZE, 3), jnp.float32))


def largest(x: Any) -> float:
    """max |x| over all leaves."""
    return max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(x))


def smallest_kept(space: SearchSpace) -> Mapping[str, tuple[int, ...]]:
    """Every group at its least: no block is left that can go."""
    return {name: tuple(range(group.size - group.least, group.size)) for name, group in space.groups.items()}
