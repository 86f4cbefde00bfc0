"""Pictures as Pillow has them: decoding, and cropping to the size of a network."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from dms_jax.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image


class Box(NamedTuple):
    """A part of a picture, in pixels: its left upper corner, and its width and height."""

    left: float
    top: float
    width: float
    height: float


class Unreadable(ValueError):
    """A picture that cannot be decoded; says why."""


def crop_resized(picture: bytes | np.ndarray, choose: Callable[[int, int], Box], size: int) -> Image:
    """A box of a picture, resized bicubically to `size` x `size`.

    A JPEG whose box is at least twice as large as `size` is decoded at a half, a quarter or an eighth, never smaller
    than what is needed: several times faster.

    Args:
      picture: encoded, or `[H, W, 3]` uint8.
      choose: from width and height of the picture to the box.
      size: pixels of a side of the result.

    Returns:
      An RGB image.

    Raises:
      Unreadable: it cannot be decoded.
    """
    image = _opened(picture)
    width, height = image.size
    box = choose(width, height)
    image.draft("RGB", (int(np.ceil(width * size / box.width)), int(np.ceil(height * size / box.height))))
    image = _rgb(image)
    x, y = image.width / width, image.height / height  # of the draft
    corners = (box.left * x, box.top * y, (box.left + box.width) * x, (box.top + box.height) * y)
    inside = (*corners[:2], min(corners[2], image.width), min(corners[3], image.height))
    return image.resize((size, size), pillow().Resampling.BICUBIC, box=inside)


def resize_center(picture: bytes | np.ndarray, size: int, crop: float) -> np.ndarray:
    """What a network is tested on: the shorter side resized bicubically to `size / crop`, then the centre.

    Args:
      picture: encoded, or `[H, W, 3]` uint8.
      size: pixels of a side of the result.
      crop: share of the shorter side that is kept, in (0, 1].

    Returns:
      `[size, size, 3]` uint8.

    Raises:
      Unreadable: it cannot be decoded.
    """
    image = _rgb(_opened(picture))
    shorter, side = min(image.size), max(int(size / crop), size)
    width, height = (side * length // shorter for length in image.size)
    image = image.resize((width, height), pillow().Resampling.BICUBIC)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return np.asarray(image.crop((left, top, left + size, top + size)))


def enlarged(pixels: np.ndarray, size: int) -> np.ndarray:
    """Pixels `[H, W, 3]` uint8 resized bicubically to `[size, size, 3]`."""
    return np.asarray(_opened(pixels).resize((size, size), pillow().Resampling.BICUBIC))


def pillow() -> ModuleType:
    """Pillow's `Image` module.

    Raises:
      UserError: Pillow is missing.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise UserError('Pillow is missing: pip install "dms_jax[data]"') from error
    return Image


def _opened(picture: bytes | np.ndarray) -> Image:
    if isinstance(picture, np.ndarray):
        return pillow().fromarray(picture)
    with _pillow_errors():
        return pillow().open(io.BytesIO(picture))


def _rgb(image: Image) -> Image:
    with _pillow_errors():
        return image.convert("RGB")  # which decodes: grey, palette, CMYK and transparent pictures too


@contextmanager
def _pillow_errors() -> Iterator[None]:
    """Whatever Pillow raises on broken bytes (OSError, SyntaxError, ValueError, struct.error, ...) as `Unreadable`."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        raise Unreadable(f"{type(error).__name__}: {error}") from error
