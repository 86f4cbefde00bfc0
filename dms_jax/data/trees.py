"""Aerial photographs with the crowns of trees in boxes: a small real set for detection, in COCO's own files.

    python -m dms_jax.data.prepare trees
    python -m experiments.coco_search --dataset=trees --flops=0.25

Three photographs of 10 cm a pixel, with 574, 279 and 61 trees, come inside the wheel of deepforest 2.1.0. It is
downloaded with pip, alone, and read as an archive: nothing of it is installed or run.

Source: B. Weinstein et al., "Individual tree-crown detection in RGB imagery using semi-supervised deep learning neural
networks", Remote Sensing 11(11), 2019; MIT License, which is kept beside the pictures.
"""

from __future__ import annotations

import io
import json
import os
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from dms_jax import files
from dms_jax.data import coco_files, wheels
from dms_jax.data.images import NotPrepared, prepare_command
from dms_jax.data.objects import DetectionData
from dms_jax.data.pictures import decoded, pillow
from dms_jax.errors import UserError

NAME = "trees"
WHEEL = wheels.Wheel("deepforest==2.1.0", "8c2798d8e9be7f0004b194fe207b76c1d9fff6e711b3db67b9508dcd5d00ae54")

TILE = 128
"""Pixels of a side of the pieces that photographs are cut into, about."""

TRAINED = 0.7
"""The left part of every photograph is trained on, the rest is tested on."""

SHOWN = 0.25
"""A crown of which less lies in a piece is a crowd there: not trained on, and ignored in evaluation."""

_DATA = "deepforest/data"
_PHOTOGRAPHS = {  # picture -> annotations
    "2019_YELL_2_528000_4978000_image_crop2.png": "2019_YELL_2_528000_4978000_image_crop2.xml",
    "2019_YELL_2_541000_4977000_image_crop.png": "2019_YELL_2_541000_4977000_image_crop.xml",
    "OSBS_029.png": "OSBS_029.xml",
}
_LICENSE = "deepforest-2.1.0.dist-info/licenses/LICENSE"


Photograph = tuple[np.ndarray, np.ndarray]
"""Pixels `[H, W, 3]` uint8, and boxes `[M, 4]` float64 of crowns: left, upper, right, lower, in pixels."""


@dataclass(frozen=True, eq=False)
class Piece:
    """A part of a photograph, pixels `[H, W, 3]` uint8, and its objects: boxes `[M, 4]` in it, and which are crowds."""

    pixels: np.ndarray
    boxes: np.ndarray
    crowd: np.ndarray


def folder(data_dir: str | os.PathLike[str] | None) -> Path:
    """Where the set lies; None is TFDS's directory.

    Raises:
      UserError: it lies in a home directory that is not known.
    """
    usual = os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return files.at_home(Path(data_dir or usual)) / NAME / "2.1.0"


def open(data_dir: str | os.PathLike[str] | None = None) -> DetectionData:
    """The prepared set: one class.

    Raises:
      NotPrepared: it is not prepared.
      UserError: its files are damaged.
    """
    where = folder(data_dir)
    if not coco_files.is_there(where):
        raise NotPrepared(f"{NAME} is not prepared: {where} is not there; {prepare_command(NAME, data_dir)}")
    return coco_files.open(where, NAME)


def prepare(data_dir: str | os.PathLike[str] | None = None) -> list[str]:
    """Download the wheel and cut its photographs into pieces, unless that is done already.

    Returns:
      Lines that say what there is now.

    Raises:
      UserError: the download fails or is another file, or the directory cannot be written.
    """
    where = folder(data_dir)
    if not where.exists():
        with tempfile.TemporaryDirectory() as scratch:
            wheel = wheels.download(WHEEL, Path(scratch))
            try:
                where.parent.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryDirectory(dir=where.parent) as part:
                    write(wheel, Path(part) / NAME)
                    (Path(part) / NAME).rename(where)  # whole, or not there
            except OSError as error:
                raise UserError(f"cannot write {where} ({error.strerror or error}); give another --data-dir") from None
    data = open(data_dir)
    counts = {"train": data.train, "test": data.test}
    return [f"{NAME} is prepared in {where}", *(f"{name}: {len(half):,} pictures" for name, half in counts.items())]


def write(wheel: Path, directory: Path) -> None:
    """Cut a wheel's photographs into pieces, and write them with their annotations.

    Args:
      wheel: an archive as the package is published.
      directory: is made.
    """
    halves: dict[str, list[Piece]] = {"train": [], "val": []}
    for half, parts in zip(halves.values(), halved(photographs(wheel)), strict=True):
        for pixels, boxes in parts:
            half += pieces(pixels, boxes)
    with zipfile.ZipFile(wheel) as archive:
        license_text = archive.read(_LICENSE)
    (directory / "annotations").mkdir(parents=True)
    (directory / "LICENSE").write_bytes(license_text)
    for half, parts in halves.items():
        (directory / half).mkdir()
        for n, part in enumerate(parts):
            _write_png(directory / half / f"{n:04d}.png", part.pixels)
        content = json.dumps(_annotations(parts))
        (directory / "annotations" / f"instances_{half}.json").write_text(content)


def photographs(wheel: Path) -> list[Photograph]:
    """The photographs of a wheel, whole."""
    with zipfile.ZipFile(wheel) as archive:
        return [
            (np.asarray(decoded(archive.read(f"{_DATA}/{picture}"))), voc_boxes(archive.read(f"{_DATA}/{annotations}")))
            for picture, annotations in _PHOTOGRAPHS.items()
        ]


def halved(whole: Sequence[Photograph]) -> tuple[list[Photograph], list[Photograph]]:
    """The part of every photograph that is trained on, and the part that is tested on; boxes may reach beyond."""
    train, test = [], []
    for pixels, boxes in whole:
        cut = int(TRAINED * pixels.shape[1])
        train.append((pixels[:, :cut], boxes))
        test.append((pixels[:, cut:], boxes - np.array([cut, 0, cut, 0])))
    return train, test


def voc_boxes(data: bytes) -> np.ndarray:
    """The boxes `[M, 4]` float64 of a Pascal VOC file, in pixels."""
    sides = ("xmin", "ymin", "xmax", "ymax")
    found = ElementTree.fromstring(data).iter("bndbox")
    return np.array([[float(box.findtext(side) or "nan") for side in sides] for box in found]).reshape(-1, 4)


def pieces(pixels: np.ndarray, boxes: np.ndarray) -> list[Piece]:
    """Cut a photograph into pieces of about `TILE` pixels a side that do not overlap, in rows.

    Args:
      pixels: `[H, W, 3]` uint8.
      boxes: `[M, 4]`, pixels; those beyond its edges are nowhere.

    Returns:
      All of it: boxes are cut at the edges of pieces.
    """
    down, across = (
        np.rint(np.linspace(0, side, max(round(side / TILE), 1) + 1)).astype(int) for side in pixels.shape[:2]
    )
    area = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    made = []
    for top, bottom in zip(down[:-1], down[1:], strict=True):
        for left, right in zip(across[:-1], across[1:], strict=True):
            cut = np.clip(boxes, [left, top, left, top], [right, bottom, right, bottom])
            inside = np.prod(cut[:, 2:] - cut[:, :2], axis=1)
            there = inside > 0
            origin = np.array([left, top, left, top])
            crowd = inside[there] < SHOWN * area[there]
            made.append(Piece(pixels[top:bottom, left:right], cut[there] - origin, crowd))
    return made


def _annotations(parts: list[Piece]) -> dict[str, Any]:
    """As COCO's files have them."""
    images = [
        {"id": n, "file_name": f"{n:04d}.png", "width": part.pixels.shape[1], "height": part.pixels.shape[0]}
        for n, part in enumerate(parts)
    ]
    objects: list[dict[str, Any]] = []
    for n, part in enumerate(parts):
        for (left, top, right, bottom), crowd in zip(part.boxes.tolist(), part.crowd.tolist(), strict=True):
            box, number = [left, top, right - left, bottom - top], len(objects)
            objects.append({"id": number, "image_id": n, "category_id": 1, "bbox": box, "iscrowd": int(crowd)})
    return {"images": images, "annotations": objects, "categories": [{"id": 1, "name": "tree"}]}


def _write_png(path: Path, pixels: np.ndarray) -> None:
    buffer = io.BytesIO()
    pillow().fromarray(np.ascontiguousarray(pixels)).save(buffer, format="PNG")
    path.write_bytes(buffer.getvalue())
