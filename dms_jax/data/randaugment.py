"""RandAugment: a few random operations a picture, each of one strength that is the same for all of them.

Source: E. Cubuk et al., "RandAugment: Practical automated data augmentation with a reduced search space", 2019,
arXiv 1909.13719. The operations and their scales are those of the recipe that DeiT and EfficientNet are trained with
(`rand-m9-mstd0.5-inc1`): every one of them grows with the magnitude.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dms_jax.data.pictures import pillow
from dms_jax.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

MOST = 10.0
"""The largest magnitude."""

FILL = (124, 116, 104)
"""What comes in where a picture is moved away: the mean colour of ImageNet."""


@dataclass(frozen=True)
class RandAugment:
    """Apply `operations` random operations, each with probability 1/2.

    Attributes:
      magnitude: mean strength, from 0 to `MOST`.
      deviation: of the strength, which is drawn anew for each operation (normal, cut to [0, `MOST`]).
      operations: how many are drawn for each picture, with replacement.
      probability: of each to be applied.
    """

    magnitude: float = 9.0
    deviation: float = 0.5
    operations: int = 2
    probability: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.magnitude <= MOST or self.deviation < 0:
            raise UserError(
                f"RandAugment of magnitude {self.magnitude} +- {self.deviation} is not possible; "
                f"give 0 to {MOST:.0f} and a deviation of at least 0"
            )
        if self.operations < 0 or not 0 <= self.probability <= 1:
            raise UserError(
                f"{self.operations} operations of probability {self.probability} are not possible; "
                "give at least 0 and 0 to 1"
            )

    def __call__(self, image: Image, draw: np.random.Generator) -> Image:
        """Return an RGB image of the same size."""
        names = list(OPERATIONS)
        for _ in range(self.operations):
            name = names[int(draw.integers(len(names)))]
            applied, side = draw.random() < self.probability, draw.random() < 0.5
            strength = min(max(draw.normal(self.magnitude, self.deviation), 0.0), MOST) / MOST
            if applied:
                image = OPERATIONS[name](image, -strength if side else strength)
        return image


def auto_contrast(image: Image, strength: float) -> Image:
    """Stretch every channel to [0, 255]; of no strength."""
    from PIL import ImageOps

    return ImageOps.autocontrast(image)


def equalize(image: Image, strength: float) -> Image:
    """Make every channel's histogram even; of no strength."""
    from PIL import ImageOps

    return ImageOps.equalize(image)


def invert(image: Image, strength: float) -> Image:
    """255 - x; of no strength."""
    return image.point([255 - x for x in range(256)] * 3)


def rotate(image: Image, strength: float) -> Image:
    """Turn by up to 30 degrees around the centre."""
    return image.rotate(30 * strength, pillow().Resampling.BICUBIC, fillcolor=FILL)


def posterize(image: Image, strength: float) -> Image:
    """Keep the 4 highest bits, down to 1."""
    bits = max(4 - int(4 * abs(strength)), 1)  # 0 bits would be a black picture with a label
    return image.point([x & -(2 ** (8 - bits)) for x in range(256)] * 3)


def solarize(image: Image, strength: float) -> Image:
    """Invert what is at least as bright as a threshold, from 256 down to 0."""
    threshold = 256 - int(256 * abs(strength))
    return image.point([x if x < threshold else 255 - x for x in range(256)] * 3)


def solarize_add(image: Image, strength: float) -> Image:
    """Add up to 110 to what is below 128."""
    added = int(110 * abs(strength))
    return image.point([min(x + added, 255) if x < 128 else x for x in range(256)] * 3)


def color(image: Image, strength: float) -> Image:
    """Blend with the grey picture, or away from it."""
    from PIL import ImageEnhance

    return ImageEnhance.Color(image).enhance(_factor(strength))


def contrast(image: Image, strength: float) -> Image:
    """Blend with the mean grey, or away from it."""
    from PIL import ImageEnhance

    return ImageEnhance.Contrast(image).enhance(_factor(strength))


def brightness(image: Image, strength: float) -> Image:
    """Blend with black, or away from it."""
    from PIL import ImageEnhance

    return ImageEnhance.Brightness(image).enhance(_factor(strength))


def sharpness(image: Image, strength: float) -> Image:
    """Blend with a smoothed picture, or away from it."""
    from PIL import ImageEnhance

    return ImageEnhance.Sharpness(image).enhance(_factor(strength))


def shear_x(image: Image, strength: float) -> Image:
    """Move a row by up to 0.3 of its distance from the upper border."""
    return _affine(image, (1, 0.3 * strength, 0, 0, 1, 0))


def shear_y(image: Image, strength: float) -> Image:
    """Move a column by up to 0.3 of its distance from the left border."""
    return _affine(image, (1, 0, 0, 0.3 * strength, 1, 0))


def translate_x(image: Image, strength: float) -> Image:
    """Move by up to 0.45 of the width."""
    return _affine(image, (1, 0, 0.45 * strength * image.width, 0, 1, 0))


def translate_y(image: Image, strength: float) -> Image:
    """Move by up to 0.45 of the height."""
    return _affine(image, (1, 0, 0, 0, 1, 0.45 * strength * image.height))


OPERATIONS: dict[str, Callable[[Image, float], Image]] = {
    operation.__name__: operation
    for operation in (
        auto_contrast,
        equalize,
        invert,
        rotate,
        posterize,
        solarize,
        solarize_add,
        color,
        contrast,
        brightness,
        sharpness,
        shear_x,
        shear_y,
        translate_x,
        translate_y,
    )
}
"""From an RGB image and a strength in [-1, 1] to an image; the sign is a direction where there are two."""


def _factor(strength: float) -> float:
    """1 is the picture itself; below, towards the other one; 0 would be that one alone."""
    return max(1 + 0.9 * strength, 0.1)


def _affine(image: Image, rows: tuple[float, ...]) -> Image:
    kind = pillow().Transform.AFFINE
    return image.transform(image.size, kind, rows, pillow().Resampling.BICUBIC, fillcolor=FILL)
