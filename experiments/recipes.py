"""How the paper's networks are searched and trained (arXiv 2405.07194): supernet, budget, epochs, recipe, result."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from dms_jax.errors import UserError


@dataclass(frozen=True)
class Recipe:
    """How a network is trained from images.

    Attributes:
      epochs: of retraining.
      optimizer, weight_decay: see `dms_jax.training.optimizers`.
      learning_rate: the peak at `reference_batch` images a step; it scales with the batch.
      schedule: after a linear warm-up of `warmup_epochs`: cosine to 0; linear to 1 %; step: a tenth at 30, 60 and 90 %
        of the epochs; exponential: times `decay` every `decay_epochs`.
      average: decay of the moving average of the weights, which is what is evaluated; None: the weights themselves.
      calibrate: batches over which BatchNorm statistics are estimated anew after training; 0 keeps the running ones.
      clip: largest norm of the gradient; None: as it is.
      randaugment: whether RandAugment (two operations of magnitude 9, standard deviation 0.5) is applied.
      erasing: probability that a rectangle of an image is erased.
      mixup, cutmix: alpha of their Beta distributions; 0 leaves them out.
      label_smoothing: share of the label that is spread over all classes.
      drop_path: stochastic depth of the last block; None: the model's own.
      flip: whether images may be mirrored.
      crop: the least share of an image's area that a random crop shows.
    """

    epochs: float
    optimizer: Literal["sgd", "rmsprop", "adamw"]
    learning_rate: float
    reference_batch: int
    schedule: Literal["cosine", "linear", "step", "exponential"]
    weight_decay: float
    warmup_epochs: float = 5.0
    decay: float = 0.97
    decay_epochs: float = 2.4
    average: float | None = None
    calibrate: int = 0
    clip: float | None = None
    randaugment: bool = False
    erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    label_smoothing: float = 0.1
    drop_path: float | None = None
    flip: bool = True
    crop: float = 0.08


# "RMSprop, lr .048 at batch 768, decay .97 / 2.4 epochs, wd 1e-5, EMA .9999, RandAugment m9 std .5, erasing .2,
# drop-path .2, 450 epochs"
EFFICIENTNET = Recipe(
    epochs=450,
    optimizer="rmsprop",
    learning_rate=0.048,
    reference_batch=768,
    schedule="exponential",
    weight_decay=1e-5,
    average=0.9999,
    randaugment=True,
    erasing=0.2,
    drop_path=0.2,
)
# 100 epochs and a step schedule are the paper's; rate and decay are those that ResNets are published with.
RESNET = Recipe(
    epochs=100,
    optimizer="sgd",
    learning_rate=0.1,
    reference_batch=256,
    schedule="step",
    weight_decay=1e-4,
    label_smoothing=0.0,
)
MOBILENET = Recipe(
    epochs=300,
    optimizer="sgd",
    learning_rate=0.1,
    reference_batch=256,
    schedule="cosine",
    weight_decay=4e-5,
    average=0.9999,
)
# DeiT's own (arXiv 2012.12877).
DEIT = Recipe(
    epochs=300,
    optimizer="adamw",
    learning_rate=5e-4,
    reference_batch=512,
    schedule="cosine",
    weight_decay=0.05,
    average=0.99996,
    clip=1.0,
    randaugment=True,
    erasing=0.25,
    mixup=0.8,
    cutmix=1.0,
    drop_path=0.1,
)


@dataclass(frozen=True)
class Preset:
    """One row of the paper.

    Attributes:
      model, arguments: the supernet, for `dms_jax.models.create`.
      resolution: pixels of a side.
      macs: the budget, MACs of one image at that resolution.
      search_epochs: of the search, `search_warmup_epochs` of them with the structure as it is.
      recipe: of the weights.
      teacher: network and resolution of the original that teaches, by DIST; its weights are given with --teacher.
      paper: what the paper reached.
    """

    model: str
    resolution: int
    macs: float
    search_epochs: float
    recipe: Recipe
    paper: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    search_warmup_epochs: float | None = None
    teacher: tuple[str, int] | None = None

    def describe(self) -> str:
        """One line for people."""
        changes = "".join(f", {name} {value}" for name, value in self.arguments.items())
        taught = f", taught by {self.teacher[0]} at {self.teacher[1]} px" if self.teacher else ""
        return (
            f"{self.model}{changes} at {self.resolution} px -> {self.macs / 1e9:.3g} GMACs; {self.search_epochs:g} "
            f"epochs of search, {self.recipe.epochs:g} of retraining{taught}; the paper: {self.paper}"
        )


B4 = Preset("efficientnet_b4", 224, 0.39e9, 30, EFFICIENTNET, "EfficientNet-B0 77.1 -> 78.5 % top-1")
PRESETS: dict[str, Preset] = {
    "efficientnet_450": dataclasses.replace(
        B4,
        macs=0.45e9,
        search_epochs=4,
        teacher=("efficientnet_b4", 320),
        paper="79.4 % top-1 (ZiCo at the same size 78.1)",
    ),
    "efficientnet_b0": B4,
    "efficientnet_b1": Preset(
        "efficientnet_b7", 256, 0.70e9, 30, EFFICIENTNET, "a network of EfficientNet-B1's size (that one: 79.1 % top-1)"
    ),
    "efficientnet_b2": Preset(
        "efficientnet_b7", 288, 1.0e9, 30, EFFICIENTNET, "a network of EfficientNet-B2's size (that one: 80.1 % top-1)"
    ),
    "resnet50": Preset("resnet152", 224, 4.09e9, 10, RESNET, "ResNet-50 76.5 -> 77.6 % top-1"),
    "mobilenet_v2": Preset(
        "mobilenet_v2",
        224,
        0.30e9,
        30,
        MOBILENET,
        "MobileNetV2 72.0 -> 73.0 % top-1",
        {"width_multiplier": 1.5, "block_multiplier": 2},
    ),
    "deit_tiny": Preset(
        "deit_small",
        224,
        1.26e9,
        30,
        DEIT,
        "DeiT-Tiny 74.5 -> 75.1 % top-1",
        {"depth": 16},
        search_warmup_epochs=20,
    ),
    "resnet50_1g_ablation": Preset("resnet50", 224, 1.0e9, 10, RESNET, "73.1 % top-1"),
}

UNTRIED = "has no network of this size"

# For small gray digits, which have a direction, in a run that is to be short.
DIGITS = Recipe(
    epochs=0.6,
    optimizer="adamw",
    learning_rate=2e-3,
    reference_batch=8,
    schedule="cosine",
    weight_decay=0.05,
    warmup_epochs=0.1,
    calibrate=20,
    clip=1.0,
    label_smoothing=0.0,
    drop_path=0.0,
    flip=False,
    crop=0.7,
)

# Steps of that search as epochs of 1,437 images: 80 steps of 8.
DIGITS_SEARCH_EPOCHS = 0.445

# The same where pictures are so small that a network sees many of them in the same time: in a search of 500 steps the
# loss leaves its start within the warm-up. At 32 px EfficientNet-B4 had learned nothing after 75 steps of 32 images.
SMALL_DIGITS = dataclasses.replace(DIGITS, epochs=9, learning_rate=1e-3, reference_batch=16, warmup_epochs=0.5)
SMALL_DIGITS_SEARCH_EPOCHS = 5.6
SMALL = 64
"""Pixels of a side at which networks that take any size are trained on digits, unless a flag says another."""
_ANY_SIZE = ("efficientnet", "resnet", "mobilenet")

# Recipes of supernets that are named without a preset.
FAMILIES = {
    "efficientnet": EFFICIENTNET,
    "resnet": RESNET,
    "mobilenet": MOBILENET,
    "deit": DEIT,
    "vit": DEIT,
    "swin": DEIT,
}


# MACs of the whole networks at these resolutions, 1000 classes: how far a supernet reaches.
B4_REACH = 1_503_710_432
B7_REACH = {256: 6_748_050_432, 288: 8_536_660_416}


def of_budget(macs: float) -> Preset:
    """The supernet that the paper's rule gives a budget: EfficientNet-B4 at 224 px as far as it reaches, B7 above.

    The paper takes B4 up to 0.5 GMACs, and B7 at 256 and 288 px for networks of B1's and B2's size. Between 0.5 GMACs
    and all that B4 has it has no row; the smaller supernet is searched faster.

    Args:
      macs: the budget, of one image at the supernet's resolution.

    Raises:
      UserError: no supernet reaches so far.
    """
    if macs <= B4_REACH:
        return dataclasses.replace(B4, macs=macs, paper=B4.paper if macs <= 0.5e9 else UNTRIED)
    for resolution, reach in B7_REACH.items():
        if macs <= reach:
            return dataclasses.replace(PRESETS["efficientnet_b1"], macs=macs, resolution=resolution, paper=UNTRIED)
    raise UserError(
        f"--flops {macs:g} is above the largest supernet that is chosen by itself (efficientnet_b7 at 288 px, "
        f"{B7_REACH[288]:,} MACs); name one with --model and --resolution"
    )


def digits_size(name: str) -> int | None:
    """Pixels of a side at which a network is trained on digits; None: at its own resolution."""
    return SMALL if name.startswith(_ANY_SIZE) else None


def of_model(name: str) -> Recipe:
    """The recipe of a network's family.

    Raises:
      UserError: none is known.
    """
    for family, recipe in FAMILIES.items():
        if name.startswith(family):
            return recipe
    raise UserError(f"no recipe for {name!r}; image families are {', '.join(FAMILIES)}")
