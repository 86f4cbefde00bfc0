"""Pictures as Pillow has them: decoding, and cropping to the size of a network."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from dms_jax.errors import UserError, one_line

if TYPE_CHECKING:
    from PIL.Image import Image


FORMATS = ("JPEG", "PNG", "WEBP")
"""What is decoded. Pillow knows many more, some of which start other programs."""

MOST_PIXELS = 2**26
"""Of a picture, and of one that is resized: 8,192 x 8,192. A small file can hold a thousand times its size in
pixels of one color."""

# Modes that become RGB by what they mean; and those of 16 bits, which converting would saturate.
_MODES = frozenset(("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr"))
_SIXTEEN_BITS = frozenset(("I;16", "I;16B", "I;16L", "I;16N", "I"))


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
    if width * height > MOST_PIXELS:  # a line of a few bytes would fill the memory
        raise Unreadable(f"it has {image.width:,} x {image.height:,} pixels, which is too long to be resized to {side}")
    image = image.resize((width, height), pillow().Resampling.BICUBIC)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return np.asarray(image.crop((left, top, left + size, top + size)))


def decoded(picture: bytes | np.ndarray) -> Image:
    """A whole picture, encoded or `[H, W, 3]` uint8, in RGB.

    Raises:
      Unreadable: it cannot be decoded.
    """
    return _rgb(_opened(picture))


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
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[-1] != 3 or 0 in picture.shape:
            raise Unreadable(f"pixels are {picture.dtype} {picture.shape}, not uint8 [H, W, 3]")
        return pillow().fromarray(picture)
    if not isinstance(picture, bytes):
        raise Unreadable(f"a picture is bytes or an array, not {type(picture).__name__}")
    with _pillow_errors():
        try:
            image = pillow().open(io.BytesIO(picture), formats=FORMATS)
        except pillow().UnidentifiedImageError:
            raise Unreadable(f"it is no {', '.join(FORMATS[:-1])} or {FORMATS[-1]}") from None  # Pillow names a buffer
        if image.width * image.height > MOST_PIXELS:
            raise Unreadable(f"it has {image.width:,} x {image.height:,} pixels, more than {MOST_PIXELS:,}")
        return image


def _rgb(image: Image) -> Image:
    with _pillow_errors():
        if image.mode in _SIXTEEN_BITS and image.format == "PNG":
            image.load()
            levels = np.asarray(image).astype(np.float64) * (255 / 65535)
            image = pillow().fromarray(np.rint(np.clip(levels, 0, 255)).astype(np.uint8))
        elif image.mode not in _MODES:
            raise Unreadable(f"its mode is {image.mode}, which has no range that is known")
        return image.convert("RGB")  # which decodes: grey, palette, CMYK and transparent pictures too


@contextmanager
def _pillow_errors() -> Iterator[None]:
    """Whatever Pillow raises on broken bytes (OSError, SyntaxError, ValueError, struct.error, ...) as `Unreadable`."""
    try:
        yield
    except (MemoryError, Unreadable):
        raise
    except Exception as error:
        raise Unreadable(f"{type(error).__name__}: {one_line(error, 200)}") from error
