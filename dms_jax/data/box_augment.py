"""What training does to pictures with boxes: mosaics, scale and translation, colors, a flip; and letterboxing.

All of it moves a picture along its axes: x -> scale x + offset. So each picture is resampled once, whatever is done to
it, and its boxes are moved by the same two numbers.

Source (mosaic): A. Bochkovskiy et al., "YOLOv4", 2020 (arXiv 2004.10934).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from dms_jax.data.pictures import pillow
from dms_jax.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

GRAY = 114
"""Of what no picture covers."""

LEAST_SIDE, LEAST_SHARE, MOST_ASPECT = 2.0, 0.1, 100.0
"""A box that was cut off stays with sides above so many pixels, so much of its area, and no thinner than this."""


class Piece(NamedTuple):
    """A decoded picture and its objects: boxes `[M, 4]` float32 in its pixels, classes `[M]` int32."""

    image: Image
    boxes: np.ndarray
    classes: np.ndarray


class Example(NamedTuple):
    """Pixels `[size, size, 3]` uint8; boxes `[M, 4]` float32 in them, classes `[M]` int32."""

    image: np.ndarray
    boxes: np.ndarray
    classes: np.ndarray


class Placing(NamedTuple):
    """Where a picture goes: x -> scale x + offset, and the part of the result that shows it.

    Attributes:
      scale: pixels of the result for one of the picture.
      offset: (x, y), pixels of the result.
      region: (left, upper, right, lower), whole pixels of the result.
    """

    scale: float
    offset: tuple[float, float]
    region: tuple[int, int, int, int]

    def moved(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes `[M, 4]` in pixels of the result."""
        return (boxes * np.float32(self.scale) + np.array(self.offset * 2, np.float32)).astype(np.float32)


def placing(image: Image, scale: float, offset: tuple[float, float], within: Sequence[float]) -> Placing:
    """The placing of a picture that shows within a region (left, upper, right, lower) alone."""
    size = np.array([*offset, *offset]) + scale * np.array([0, 0, *image.size])
    low = np.ceil(np.maximum(size[:2], within[:2]) - 1e-6).astype(int)
    high = np.floor(np.minimum(size[2:], within[2:]) + 1e-6).astype(int)
    return Placing(scale, offset, (int(low[0]), int(low[1]), int(high[0]), int(high[1])))


def letterbox(image: Image, size: int) -> Placing:
    """The placing of a whole picture in the middle of a square: its longer side fills it."""
    scale = size / max(image.size)
    x, y = ((size - scale * side) / 2 for side in image.size)
    # on whole pixels, so that nothing of the picture is lost
    return placing(image, scale, (float(np.floor(x)), float(np.floor(y))), (0, 0, size, size))


def drawn(images: Sequence[Image], placings: Sequence[Placing], size: int) -> np.ndarray:
    """Pictures at their places on gray, `[size, size, 3]` uint8."""
    canvas = pillow().new("RGB", (size, size), (GRAY,) * 3)
    for image, (scale, offset, region) in zip(images, placings, strict=True):
        sides = (region[2] - region[0], region[3] - region[1])
        if min(sides) < 1:
            continue
        source = (np.array(region) - np.array(offset * 2)) / scale
        source = np.clip(source, 0, np.array(image.size * 2))
        if np.any(source[2:] <= source[:2]):
            continue
        part = image.resize(sides, pillow().Resampling.BILINEAR, box=tuple(source.tolist()))
        canvas.paste(part, region[:2])
    return np.asarray(canvas)


@dataclass(frozen=True)
class BoxAugment:
    """Mosaic of four pictures, random scale and translation, colors, and a flip.

    Attributes:
      mosaic: probability of a mosaic.
      scale: s; sizes are multiplied by 1 - s to 1 + s.
      translate: t; the middle moves by up to t of a side.
      hue, saturation, value: h; each is multiplied by 1 - h to 1 + h.
      flip: probability of a horizontal flip.
    """

    mosaic: float = 1.0
    scale: float = 0.5
    translate: float = 0.1
    hue: float = 0.015
    saturation: float = 0.7
    value: float = 0.4
    flip: float = 0.5

    def __post_init__(self) -> None:
        for name in ("mosaic", "flip", "translate", "hue", "saturation", "value"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} {getattr(self, name)} is not possible; give a number from 0 to 1")
        if not 0 <= self.scale < 1:
            raise UserError(f"scale {self.scale} is not possible; give a number of at least 0 and below 1")

    def __call__(
        self, first: Piece, more: Callable[[int], Piece], size: int, draw: np.random.Generator, plain: bool = False
    ) -> Example:
        """Augment one picture.

        Args:
          first: it.
          more: from 0, 1, 2 to the others of a mosaic.
          size: pixels of a side of the result.
          draw: where randomness comes from.
          plain: no mosaic.
        """
        is_mosaic = draw.random() < self.mosaic
        gain = 1 + self.scale * draw.uniform(-1, 1)
        shift = size * (0.5 + self.translate * draw.uniform(-1, 1, 2))
        cross = draw.uniform(0.5, 1.5, 2) * size
        flip, colors = draw.random() < self.flip, draw.uniform(-1, 1, 3)
        pieces = [first, *map(more, range(3))] if is_mosaic and not plain else [first]
        if len(pieces) == 1:
            placings = [_centered(first.image, size, gain, shift)]
        else:
            placings = [_quarter(i, piece.image, size, gain, shift, cross) for i, piece in enumerate(pieces)]
        image = drawn([piece.image for piece in pieces], placings, size)
        image = _colored(image, 1 + colors * np.array([self.hue, self.saturation, self.value]))
        kept = [_visible(piece, at) for piece, at in zip(pieces, placings, strict=True)]
        boxes, classes = (np.concatenate([part[i] for part in kept]) for i in (0, 1))
        if flip:
            image = np.ascontiguousarray(image[:, ::-1])
            boxes = np.stack([size - boxes[:, 2], boxes[:, 1], size - boxes[:, 0], boxes[:, 3]], axis=-1)
        return Example(image, boxes, classes)


def _centered(image: Image, size: int, gain: float, shift: np.ndarray) -> Placing:
    """The middle of a picture at `shift`."""
    scale = gain * size / max(image.size)
    x, y = (float(to - scale * side / 2) for to, side in zip(shift, image.size, strict=True))
    return placing(image, scale, (x, y), (0, 0, size, size))


def _quarter(number: int, image: Image, size: int, gain: float, shift: np.ndarray, cross: np.ndarray) -> Placing:
    """One of four pictures that meet at `cross`, on a canvas of twice the size whose middle comes to `shift`."""
    scale = gain * size / max(image.size)
    middle = np.clip(gain * (cross - size) + shift, 0, size)  # where they meet, in the result
    beyond = np.array([number % 2, number // 2], bool)  # to the right, below
    offset = np.where(beyond, middle, middle - scale * np.array(image.size))
    low, high = np.where(beyond, middle, 0), np.where(beyond, size, middle)
    return placing(image, scale, (float(offset[0]), float(offset[1])), (*low, *high))


def _visible(piece: Piece, at: Placing) -> tuple[np.ndarray, np.ndarray]:
    """Boxes cut off at the region, and classes, of the objects that are still to be seen."""
    whole = at.moved(piece.boxes.reshape(-1, 4))
    region = np.array(at.region, np.float32)
    cut = np.clip(whole, np.tile(region[:2], 2), np.tile(np.maximum(region[2:], region[:2]), 2))
    sides, before = cut[:, 2:] - cut[:, :2], whole[:, 2:] - whole[:, :2]
    share = np.prod(sides, axis=-1) / np.maximum(np.prod(before, axis=-1), 1e-12)
    with np.errstate(divide="ignore", invalid="ignore"):
        aspect = np.max(sides, axis=-1) / np.min(sides, axis=-1)
    seen = (sides > LEAST_SIDE).all(axis=-1) & (share > LEAST_SHARE) & (aspect < MOST_ASPECT)
    return cut[seen], piece.classes[seen]


def _colored(image: np.ndarray, gains: np.ndarray) -> np.ndarray:
    """Hue, saturation and value times their gains; the hue goes round."""
    if np.all(gains == 1):
        return image
    planes = np.asarray(pillow().fromarray(image).convert("HSV")).astype(np.float64)
    hue = np.mod(planes[..., 0] * gains[0], 256)
    rest = np.clip(planes[..., 1:] * gains[1:], 0, 255)
    changed = np.concatenate([hue[..., None], rest], axis=-1).astype(np.uint8)
    size = (image.shape[1], image.shape[0])
    return np.asarray(pillow().frombytes("HSV", size, changed.tobytes()).convert("RGB"))
