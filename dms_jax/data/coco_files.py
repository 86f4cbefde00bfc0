"""Sets of pictures with boxes in COCO's own files: JSON of annotations beside directories of pictures.

    DIRECTORY/annotations/instances_train2017.json    DIRECTORY/train2017/000000000009.jpg ...
    DIRECTORY/annotations/instances_val2017.json      DIRECTORY/val2017/...

What stands for "2017" may be any text, or none. Masks are not read.

Source: the format at cocodataset.org/#format-data.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dms_jax import reading
from dms_jax.data.corruption import FEW, SHARE
from dms_jax.data.objects import Annotated, DetectionData
from dms_jax.data.pictures import FORMATS, Unreadable
from dms_jax.data.usable import fault, faults
from dms_jax.errors import UserError
from dms_jax.reading import listing, number, optional, record, text, whole

ENDINGS = {".jpg", ".jpeg", ".png", ".webp"}
assert len(FORMATS) == 3  # these, by their names

MOST_BYTES = 4 * 2**30
"""Of a JSON file; that of COCO's training pictures has 0.45 GB."""

_MOST_PICTURE = 2**30
_NAMED = 5  # faults that are shown by name
_ID = whole(0, 2**53)
_COORDINATE = number(-1e9, 1e9)
COCO = record(
    {
        "images": listing(
            record({"id": _ID, "file_name": text(1000), "width": whole(1, 2**20), "height": whole(1, 2**20)}), least=1
        ),
        "annotations": listing(
            record(
                {"image_id": _ID, "category_id": _ID, "bbox": listing(_COORDINATE, 4, 4)},
                {"iscrowd": whole(0, 1), "area": optional(number(0, 1e18))},
            )
        ),
        "categories": listing(record({"id": _ID, "name": text(1000)}), least=1, most=2**16),
    }
)
"""What a file of annotations says; of what else it says nothing is looked at."""


@dataclass(frozen=True, eq=False)
class Pictures:
    """The pictures of one file of annotations, and their objects.

    Attributes:
      folder: of the pictures.
      files: their names in it, `N` of them.
      sizes: `[N, 2]` int32, width and height as the annotations have them.
      starts: `[N + 1]` int64; the objects of picture n are those from `starts[n]` up to `starts[n + 1]`.
      boxes: `[K, 4]` float64, pixels.
      classes: `[K]` int32, -1 where the file knows no such category.
      crowd, areas: `[K]`, as `Annotated` has them.
    """

    folder: Path
    files: tuple[str, ...]
    sizes: np.ndarray
    starts: np.ndarray
    boxes: np.ndarray
    classes: np.ndarray
    crowd: np.ndarray
    areas: np.ndarray

    def __len__(self) -> int:
        return len(self.files)

    @property
    def most(self) -> int:
        """Objects of a picture, at most."""
        return int(np.max(np.diff(self.starts)))

    def name(self, number: int) -> str:
        return str(self.folder / self.files[number])

    def __getitem__(self, number: int) -> Annotated:
        own = slice(int(self.starts[number]), int(self.starts[number + 1]))
        width, height = (int(side) for side in self.sizes[number])
        try:
            picture = reading.read_bytes(self.name(number), most=_MOST_PICTURE, hint="prepare it again")
        except UserError as error:  # whoever tells of it names the picture
            raise Unreadable(str(error).removeprefix(f"{self.name(number)} ")) from None
        shares = (self.boxes[own] / np.array([width, height, width, height])).astype(np.float32)
        return Annotated(picture, shares, self.classes[own], self.crowd[own], self.areas[own], (width, height))


def is_there(directory: str | os.PathLike[str]) -> bool:
    """Whether a directory looks like one of COCO's."""
    return (Path(directory) / "annotations").is_dir()


def open(directory: str | os.PathLike[str], name: str | None = None) -> DetectionData:
    """Open a directory of COCO's files: it is trained on "train", and tested on "val".

    Classes count from 0 in the order of the categories' numbers. Annotations of pictures that the file does not list,
    annotations that it has twice, and pictures in the folder that it does not list, are left out, named on stderr, and
    counted. Pictures that are not there, and objects that cannot be used, are so when they are loaded; where they are
    too many, that is said here, and not by the evaluation at the end of a training.

    Args:
      directory: holds `annotations`.
      name: of the set; None: that of the directory. Parts of digests of the annotations follow it.

    Raises:
      UserError: files are missing or not COCO's, the two have other categories, one has no objects, or more than
        0.1 % of the pictures or annotations (and more than two) are left out, or will be.
    """
    directory = Path(directory)
    halves = [_read(directory, which) for which in ("train", "val")]
    (train, categories, first), (test, others, second) = halves
    if categories != others:
        raise UserError(f"the files in {directory / 'annotations'} have other categories for train than for val")
    for half, which in ((train, "train"), (test, "val")):
        if not np.any(~half.crowd & (half.classes >= 0)):
            raise UserError(f"there are no objects in the annotations for {which} in {directory / 'annotations'}")
    title = name or directory.resolve().name
    return DetectionData(f"{title} (annotations {first} and {second})", len(categories), train, test)


def _read(directory: Path, which: str) -> tuple[Pictures, dict[int, str], str]:
    """The pictures of "train" or "val", the categories, and the start of the file's digest."""
    found = sorted((directory / "annotations").glob(f"instances_{which}*.json"))
    if len(found) != 1:
        there = f"there are {', '.join(path.name for path in found)}" if found else "there is none"
        raise UserError(f"{directory / 'annotations'} should have one instances_{which}*.json, and {there}")
    (path,) = found
    folder = directory / path.stem.removeprefix("instances_")
    if not folder.is_dir():
        raise UserError(f"{path} is for the pictures in {folder}, and there is no such directory")
    hint = "give COCO's own files"
    data = reading.read_bytes(path, most=MOST_BYTES, hint=hint)
    content = reading.parse(data, str(path), COCO, hint=hint, title="COCO's annotations")
    categories = {entry["id"]: entry["name"] for entry in sorted(content["categories"], key=lambda e: e["id"])}
    if len(categories) != len(content["categories"]):
        raise UserError(f"{path} has a category twice; {hint}")
    pictures = _pictures(folder, content, list(categories), path)
    _check_objects(pictures, len(categories), path)
    return pictures, categories, hashlib.sha256(data).hexdigest()[:8]


def _pictures(folder: Path, content: Mapping[str, Any], categories: list[int], path: Path) -> Pictures:
    images, annotations = content["images"], _once(content["annotations"], path)
    for image in images:
        _check_name(image["file_name"], path)
    numbers = {image["id"]: n for n, image in enumerate(images)}
    files = tuple(image["file_name"] for image in images)
    if len(numbers) != len(images) or len(set(files)) != len(files):
        raise UserError(f"{path} lists a picture twice; give COCO's own files")
    known = [entry for entry in annotations if entry["image_id"] in numbers]
    strangers = [f"of image {entry['image_id']}" for entry in annotations if entry["image_id"] not in numbers]
    _leave_out(strangers, len(annotations), f"annotations in {path} are of pictures that it does not list")
    there = {entry.name for entry in folder.iterdir()}
    unlisted = sorted(name for name in there - {*files} if Path(name).suffix.lower() in ENDINGS)
    _leave_out(unlisted, len(files), f"pictures in {folder} have no annotation in {path}")
    _refuse_many(sorted({*files} - there), len(files), f"pictures that {path} lists are not in {folder}")
    known.sort(key=lambda entry: numbers[entry["image_id"]])  # which keeps their order in a picture
    owner = np.array([numbers[entry["image_id"]] for entry in known], np.int64)
    boxes = np.array([entry["bbox"] for entry in known], np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]  # from width and height
    classes = {category: c for c, category in enumerate(categories)}
    areas = [np.nan if entry.get("area") is None else entry["area"] for entry in known]
    return Pictures(
        folder,
        files,
        np.array([(image["width"], image["height"]) for image in images], np.int32),
        np.searchsorted(owner, np.arange(len(images) + 1)),
        boxes,
        np.array([classes.get(entry["category_id"], -1) for entry in known], np.int32),
        np.array([entry.get("iscrowd", 0) for entry in known], bool),
        np.array(areas, np.float32),
    )


def _check_name(file: str, path: Path) -> None:
    """A file's name alone: what is annotated lies in one folder."""
    if Path(file).name != file or "\0" in file or file in ("", ".."):
        raise UserError(f"{path} names {reading.shown(file)}, which is no file of one directory; give COCO's own files")


def _once(annotations: list[Any], path: Path) -> list[Any]:
    """Without those that are there twice: of an object that is counted twice, one can never be found."""
    seen: dict[tuple[Any, ...], Any] = {}
    for entry in annotations:
        own = entry.get("id") if isinstance(entry.get("id"), int | str) else None
        seen.setdefault((own, entry["image_id"], entry["category_id"], *entry["bbox"], entry.get("iscrowd", 0)), entry)
    once = {id(entry) for entry in seen.values()}
    twice = [f"of image {entry['image_id']}" for entry in annotations if id(entry) not in once]
    _leave_out(twice, len(annotations), f"annotations in {path} are there twice")
    return list(seen.values())


def _check_objects(pictures: Pictures, num_classes: int, path: Path) -> None:
    """Refuse objects that will be refused once all pictures were loaded.

    Raises:
      UserError: they are too many.
    """
    owner = np.repeat(np.arange(len(pictures)), np.diff(pictures.starts))
    bounds = np.tile(pictures.sizes, 2).astype(np.float32)[owner]
    # as they are loaded: of shares
    boxes = (pictures.boxes / np.tile(pictures.sizes, 2)[owner]).astype(np.float32) * bounds
    wrong = faults(boxes, pictures.classes, bounds, num_classes)
    faulty = {int(owner[k]): k for k in np.flatnonzero(wrong)[::-1]}  # picture -> its first
    said = [
        f"{pictures.files[n]} ({fault(int(wrong[k]), int(pictures.classes[k]), num_classes, bounds[k])})"
        for n, k in sorted(faulty.items())
    ]
    _refuse_many(said, len(pictures), f"pictures in {path} have objects that cannot be used")


def _leave_out(left: list[str], among: int, what: str) -> None:
    """Name and count what is left out.

    Raises:
      UserError: it is too much.
    """
    if left:
        print(f"left out, {_refuse_many(left, among, what)}", file=sys.stderr, flush=True)


def _refuse_many(left: list[str], among: int, what: str) -> str:
    """Name and count what cannot be used.

    Raises:
      UserError: it is too much.
    """
    some = ", ".join(left[:_NAMED]) + (", ..." if len(left) > _NAMED else "")
    said = f"{len(left)} of {among:,} {what}: {some}"
    if len(left) > max(FEW, SHARE * among):
        raise UserError(f"{said}; more than {SHARE:.1%} is too many: prepare the data again")
    return said
