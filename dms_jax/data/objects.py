"""Pictures with boxes around objects: sets of TFDS, and composites that need no download.

A box is (left, upper, right, lower). What becomes a batch is in `dms_jax.data.box_loading`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from dms_jax.data import digits, images
from dms_jax.data.pictures import pillow
from dms_jax.errors import UserError

COCO_IDS = tuple(i for i in range(1, 91) if i not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83))
"""Class 0 to 79 -> its number in COCO's own files."""


class Annotated(NamedTuple):
    """A picture and its objects.

    Attributes:
      picture: bytes of an encoded file (JPEG, PNG), or pixels `[H, W, 3]` uint8.
      boxes: `[M, 4]` float32, shares of the picture's width and height, 0 to 1.
      classes: `[M]` int32, from 0.
      crowd: `[M]` bool, whether it is a region with many objects.
      areas: `[M]` float32, of the objects, square pixels; NaN: that of the box.
      size: width and height in pixels of what was annotated; None: that of the picture, whatever it is.
    """

    picture: bytes | np.ndarray
    boxes: np.ndarray
    classes: np.ndarray
    crowd: np.ndarray
    areas: np.ndarray
    size: tuple[int, int] | None = None


class Source(Protocol):
    """Pictures with objects by number, from 0 to `len - 1`; can be pickled."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int, /) -> Annotated: ...

    def name(self, number: int) -> str:
        """What a message calls a picture."""
        ...


@dataclass(frozen=True)
class DetectionData:
    """A set of pictures with objects.

    Attributes:
      name: says where they come from.
      num_classes: classes are below it.
      train, test: none in both.
    """

    name: str
    num_classes: int
    train: Source
    test: Source


# --- composites ----------------------------------------------------------------------------------------------------

TRAIN_COMPOSITES, TEST_COMPOSITES = 1024, 256
_INK = 0.25
"""Opacity above which a pixel belongs to the digit: its box is around these."""


@dataclass(frozen=True, eq=False)
class Composites:
    """scikit-learn's handwritten digits laid over its photographs; number n is always the same picture.

    Attributes:
      digits: `[N, 8, 8]` float32, opacity 0 to 1.
      labels: `[N]` int32.
      photographs: each `[H, W, 3]` uint8.
      size: pixels of a side.
      length: how many there are.
      title: of the set.
      stream: different ones give different pictures.
    """

    digits: np.ndarray
    labels: np.ndarray
    photographs: tuple[np.ndarray, ...]
    size: int
    length: int
    title: str
    stream: int

    def __len__(self) -> int:
        return self.length

    def name(self, number: int) -> str:
        return f"{self.title} [{number}]"

    def __getitem__(self, number: int) -> Annotated:
        draw = np.random.default_rng((self.stream, number))
        pixels = self._background(draw).astype(np.float32)
        boxes: list[np.ndarray] = []
        classes: list[int] = []
        for _ in range(int(draw.integers(1, 5))):
            i, side = int(draw.integers(len(self.labels))), int(self.size * draw.uniform(0.2, 0.5))
            left, top = (int(x) for x in draw.integers(0, self.size - side + 1, 2))
            color = draw.uniform(0, 255, 3).astype(np.float32)
            opacity = self._opacity(self.digits[i], side)
            box = _around(opacity > _INK) + np.array([left, top, left, top], np.float32)
            if any(_covered(box, other) > 0.3 or _covered(other, box) > 0.3 for other in boxes):
                continue
            part = pixels[top : top + side, left : left + side]
            part += opacity[..., None] * (color - part)
            boxes.append(box)
            classes.append(int(self.labels[i]))
        count = len(boxes)
        return Annotated(
            np.rint(pixels).astype(np.uint8),
            np.stack(boxes) / np.float32(self.size),
            np.array(classes, np.int32),
            np.zeros(count, bool),
            np.full(count, np.nan, np.float32),
        )

    def _background(self, draw: np.random.Generator) -> np.ndarray:
        photograph = self.photographs[int(draw.integers(len(self.photographs)))]
        height, width = photograph.shape[:2]
        side = int(min(height, width) * draw.uniform(0.3, 1))
        left, top = int(draw.integers(width - side + 1)), int(draw.integers(height - side + 1))
        image = pillow().fromarray(photograph[top : top + side, left : left + side])
        return np.asarray(image.resize((self.size, self.size), pillow().Resampling.BILINEAR))

    @staticmethod
    def _opacity(digit: np.ndarray, side: int) -> np.ndarray:
        image = pillow().fromarray(digit).resize((side, side), pillow().Resampling.BICUBIC)
        return np.clip(np.asarray(image), 0, 1)


def composites(size: int) -> DetectionData:
    """scikit-learn's digits, real handwriting, laid over its two real photographs: 1,024 to train on, 256 to test on.

    Digits and parts of the photographs that are tested on are not trained on. There are 1 to 4 digits in a picture,
    of a fifth to half of its side, and their boxes are known to the pixel.

    Args:
      size: pixels of a side, at least 32.

    Raises:
      UserError: scikit-learn or Pillow is missing, or a size below 32.
    """
    if size < 32:
        raise UserError(f"composites of {size} pixels are not possible; give at least 32")
    split = digits.load()
    photographs = _photographs()

    def made(half: dict[str, np.ndarray], parts: list[np.ndarray], length: int, what: str, stream: int) -> Composites:
        gray = half["image"][..., 0]
        low, high = split.train["image"].min(), split.train["image"].max()
        opacity = np.clip((gray - low) / (high - low), 0, 1).astype(np.float32)
        return Composites(opacity, half["label"], tuple(parts), size, length, f"composites {what}", stream)

    # the right 30 % of every photograph are for testing alone
    cuts = [int(0.7 * photograph.shape[1]) for photograph in photographs]
    left = [photograph[:, :cut] for photograph, cut in zip(photographs, cuts, strict=True)]
    right = [photograph[:, cut:] for photograph, cut in zip(photographs, cuts, strict=True)]
    return DetectionData(
        f"composites of scikit-learn's digits over its photographs, {size} x {size} pixels",
        digits.CLASSES,
        made(split.train, left, TRAIN_COMPOSITES, "train", 0),
        made(split.test, right, TEST_COMPOSITES, "test", 1),
    )


def _photographs() -> list[np.ndarray]:
    try:
        from sklearn.datasets import load_sample_images
    except ImportError as error:
        raise UserError("the photographs come with scikit-learn, which is missing: install dms_jax[data]") from error
    pillow()  # which it reads them with
    return [np.asarray(image) for image in load_sample_images()["images"]]


def _around(inside: np.ndarray) -> np.ndarray:
    """The smallest box `[4]` float32 around the true pixels `[H, W]`; all of them where there are none."""
    if not inside.any():
        inside = np.ones_like(inside)
    y, x = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    return np.array([x[0], y[0], x[-1] + 1, y[-1] + 1], np.float32)


def _covered(box: np.ndarray, by: np.ndarray) -> float:
    """The share of a box that another covers."""
    sides = np.maximum(np.minimum(box[2:], by[2:]) - np.maximum(box[:2], by[:2]), 0)
    return float(np.prod(sides) / np.prod(box[2:] - box[:2]))


# --- sets of TFDS --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Records:
    """A split of a TFDS detection set; pictures stay encoded."""

    records: Any
    title: str

    def __len__(self) -> int:
        return len(self.records)

    def name(self, number: int) -> str:
        file = self.records[number].get("image/filename")
        return f"{self.title} [{number}]" + (f" {file.decode()}" if isinstance(file, bytes) else "")

    def __getitem__(self, number: int) -> Annotated:
        record = self.records[number]
        objects = record["objects"]
        # TFDS: upper, left, lower, right, as shares of the sides
        shares = np.asarray(objects["bbox"], np.float32).reshape(-1, 4)[:, [1, 0, 3, 2]]
        count, none = len(shares), np.full(len(shares), np.nan, np.float32)
        return Annotated(
            record["image"],
            shares,
            np.asarray(objects["label"], np.int32),
            np.asarray(objects.get("is_crowd", np.zeros(count)), bool),
            np.asarray(objects.get("area", none), np.float32),
        )


def open(name: str, directory: str | os.PathLike[str] | None = None) -> DetectionData:
    """Open a prepared TFDS detection set: "coco/2017" say, trained on "train" and tested on "validation".

    Args:
      name: as TFDS has it.
      directory: where it was prepared; None is TFDS's default, ~/tensorflow_datasets or `TFDS_DATA_DIR`.

    Raises:
      dms_jax.data.images.NotPrepared: it is not prepared, or an extra is missing.
      UserError: no such set, or it has no boxes.
    """
    tfds = images.tensorflow_datasets(images.prepare_command(name, directory))
    builder = images.prepared(name, directory)
    features, splits = builder.info.features, list(builder.info.splits)
    objects = features["objects"] if "objects" in features else {}
    if "image" not in features or "bbox" not in objects or "label" not in objects:
        raise UserError(f"{name} has no boxes of objects in pictures: its features are {', '.join(features)}")
    tested = next((split for split in ("validation", "test") if split in splits), None)
    if "train" not in splits or tested is None:
        raise UserError(f"{name} has no splits to train and to test on; it has: {', '.join(splits)}")

    def split(which: str) -> Source:
        records = builder.as_data_source(which, decoders={"image": tfds.decode.SkipDecoding()})
        return Records(records, f"{name} {which}")

    return DetectionData(name, objects["label"].num_classes, split("train"), split(tested))
