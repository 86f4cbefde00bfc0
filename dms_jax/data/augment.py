"""What training does to each picture on the host: a random crop, a flip, RandAugment.

Everything random is drawn from a generator that the caller makes from (seed, number in the stream): see
`dms_jax.data.loading`. What is done to whole batches, on the device, is in `dms_jax.data.mixing`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dms_jax.data.pictures import Box, crop_resized, pillow
from dms_jax.data.randaugment import RandAugment
from dms_jax.errors import UserError

ATTEMPTS = 10
"""Boxes drawn before the largest one in the middle is taken."""


@dataclass(frozen=True)
class Augment:
    """Random resized crop, horizontal flip and RandAugment, in this order.

    Attributes:
      scale: least and largest share of the picture's area in the crop.
      ratio: least and largest width / height of the crop.
      flip: probability of a horizontal flip.
      rand_augment: None leaves it out.

    Source: C. Szegedy et al., "Going Deeper with Convolutions", CVPR 2015 (the crop).
    """

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    rand_augment: RandAugment | None = RandAugment()

    def __post_init__(self) -> None:
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise UserError(f"crops of {self.scale} of the area are not possible; give 0 < least <= largest <= 1")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise UserError(f"crops of width / height {self.ratio} are not possible; give 0 < least <= largest")
        if not 0 <= self.flip <= 1:
            raise UserError(f"flip {self.flip} is no probability; give one from 0 to 1")

    def __call__(self, picture: bytes | np.ndarray, size: int, draw: np.random.Generator) -> np.ndarray:
        """Augment one picture.

        Args:
          picture: encoded, or `[H, W, 3]` uint8.
          size: pixels of a side of the result.
          draw: every call takes from it in the same order.

        Returns:
          `[size, size, 3]` uint8.

        Raises:
          dms_jax.data.pictures.Unreadable: it cannot be decoded.
        """
        image = crop_resized(picture, lambda w, h: random_box(draw, w, h, self.scale, self.ratio), size)
        if draw.random() < self.flip:
            image = image.transpose(pillow().Transpose.FLIP_LEFT_RIGHT)
        if self.rand_augment is not None:
            image = self.rand_augment(image, draw)
        return np.asarray(image)


def random_box(
    draw: np.random.Generator, width: int, height: int, scale: tuple[float, float], ratio: tuple[float, float]
) -> Box:
    """A box of random area and aspect at a random place.

    The area is uniform in `scale`, the logarithm of width / height uniform in that of `ratio`; a box that does not fit
    is drawn again. After `ATTEMPTS` of them, it is the largest box in the middle whose aspect is within `ratio`.

    Args:
      draw: where randomness comes from.
      width, height: of the picture, in pixels.
      scale: share of the area, least and largest.
      ratio: width / height, least and largest.

    Returns:
      A box of whole pixels inside the picture.
    """
    for _ in range(ATTEMPTS):
        area = width * height * draw.uniform(*scale)
        aspect = math.exp(draw.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return Box(int(draw.integers(width - w + 1)), int(draw.integers(height - h + 1)), w, h)
    aspect = min(max(width / height, ratio[0]), ratio[1])
    w, h = min(width, max(round(height * aspect), 1)), min(height, max(round(width / aspect), 1))
    return Box((width - w) // 2, (height - h) // 2, w, h)
