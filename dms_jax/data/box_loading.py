"""Batches of pictures with boxes: those of any step are a function of the seed and the step, as `loading`'s are.

Objects that cannot be used (boxes outside of the picture, of no area, not finite; classes out of range) are left out,
named on stderr once, and counted; so are pictures that cannot be read. More than 0.1 % of either is an error.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from dms_jax.data import loading
from dms_jax.data.box_augment import BoxAugment, Example, Piece, drawn, letterbox
from dms_jax.data.corruption import CORRUPTED, FEW, SHARE, Corruption
from dms_jax.data.loading import IN_A_ROW, Loader, generator
from dms_jax.data.objects import Source
from dms_jax.data.pictures import Unreadable, decoded
from dms_jax.data.streaming import ENDLESS, Batch, share_of, shuffled
from dms_jax.data.usable import Usable, usable
from dms_jax.errors import UserError

FAULTY = "faulty"
"""The leaf of a loaded batch with the numbers of pictures that have objects that cannot be used."""

MOST = 128
"""Objects of a picture that a batch has room for."""

_AUGMENT = BoxAugment()


class Faults(Corruption):
    """Pictures of a source that could not be read, and those with objects that could not be used.

    Attributes:
      faulty: numbers of the latter.
    """

    def __init__(self, source: Source, num_classes: int):
        super().__init__(source)  # type: ignore[arg-type]  # it looks at names and pictures alone
        self.faulty: set[int] = set()
        self._annotated, self._num_classes = source, num_classes

    def checked(self, batch: Batch) -> Batch:
        """Take the numbers off a batch; name on stderr those that are new, and count them.

        Raises:
          UserError: more than `FEW` pictures, and more than `SHARE` of the set, are corrupted or faulty.
        """
        batch, source = super().checked(batch), self._annotated
        of_all = f"of {len(source):,} pictures"
        for number in batch[FAULTY].tolist():
            if number not in self.faulty:
                self.faulty.add(number)
                what = "; ".join(_objects(source, number, self._num_classes)[1].faults)
                so_far = f"{len(self.faulty)} {of_all} so far"
                print(f"left out, objects of {source.name(number)}: {what}; {so_far}", file=sys.stderr, flush=True)
        if len(self.faulty) > max(FEW, SHARE * len(source)):
            raise UserError(
                f"{len(self.faulty)} {of_all} have objects that cannot be used, the last is "
                f"{source.name(int(batch[FAULTY][-1]))}; more than {SHARE:.1%} is too many: prepare the data again"
            )
        return {name: leaf for name, leaf in batch.items() if name != FAULTY}

    def _look(self, number: int) -> None:
        _objects(self._annotated, number, self._num_classes)


def batches(
    source: Source,
    batch: int,
    seed: int,
    *,
    size: int,
    num_classes: int,
    augment: BoxAugment = _AUGMENT,
    plain_from: int | None = None,
    most: int = MOST,
    workers: int = 0,
    shard: tuple[int, int] = (0, 1),
) -> Callable[[int], Batch]:
    """Return a function of the step to this process's share of the step's batch.

    Args:
      source: the pictures.
      batch: of all processes together.
      seed: at least 0; of the order and of everything drawn.
      size: pixels of a side.
      num_classes: of the set.
      augment: what is done to each picture.
      plain_from: the step from which on there are no mosaics; None: there is none.
      most: objects of a picture that there is room for; of more, the largest stay.
      workers: processes that load; 0 loads in threads of this one.
      shard: (number of this process, number of processes).

    Returns:
      A function of a step >= 0 to {"image": `[batch / P, size, size, 3]` uint8, "boxes": `[batch / P, most, 4]`
      float32 in pixels, "classes": `[batch / P, most]` int32, -1 behind the last}. Crowds are left out. It raises
      `UserError` when too many pictures or objects cannot be used.

    Raises:
      UserError: what no batch can be made of, or an extra is missing.
    """
    share = share_of(source, batch, size, workers, shard)  # type: ignore[arg-type]
    if seed < 0 or most < 1:
        raise UserError(f"seed {seed} and room for {most} objects are not possible; give at least 0 and 1")
    order, plain = shuffled(len(source), seed), ENDLESS if plain_from is None else plain_from
    training = _Training(source, order, augment, seed, size, num_classes, batch, shard[0] * share, share, most, plain)
    return Loader(training, Faults(source, num_classes), workers)


@dataclass(frozen=True, eq=False)
class _Training:
    """Batches by step; read by Grain, in whatever process."""

    source: Source
    order: Any
    augment: BoxAugment
    seed: int
    size: int
    num_classes: int
    batch: int
    first: int
    share: int
    most: int
    plain_from: int

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, step: int) -> Batch:
        start, corrupted, faulty = step * self.batch + self.first, [], []
        examples = [
            self.example(n, step >= self.plain_from, corrupted, faulty) for n in range(start, start + self.share)
        ]
        return {
            "image": np.stack([example.image for example in examples]),
            **_padded(examples, self.most),
            CORRUPTED: np.array(corrupted, np.int64),
            FAULTY: np.array(faulty, np.int64),
        }

    def example(self, n: int, plain: bool, corrupted: list[int], faulty: list[int]) -> Example:
        """Picture n of the stream, with further ones of the source where it becomes a mosaic."""
        draw = generator(self.seed, n)
        numbers = draw.integers(0, len(self.source), 3)

        def other(i: int) -> Piece:
            return self.piece(itertools.count(int(numbers[i])), lambda k: k % len(self.source), corrupted, faulty)

        first = self.piece(itertools.count(n), lambda k: int(self.order[k]), corrupted, faulty)
        return self.augment(first, other, self.size, draw, plain)

    def piece(self, places: Any, number: Callable[[int], int], corrupted: list[int], faulty: list[int]) -> Piece:
        """The first picture that can be read."""
        for place in itertools.islice(places, IN_A_ROW):
            at = number(place)
            try:
                image, objects = _objects(self.source, at, self.num_classes)
            except Unreadable:
                corrupted.append(at)
                continue
            if objects.faults:
                faulty.append(at)
            single = ~objects.crowd
            return Piece(image, objects.boxes[single], objects.classes[single])
        raise UserError(
            f"{IN_A_ROW} pictures one after another cannot be read, the last is "
            f"{self.source.name(corrupted[-1])}; prepare the data again"
        )


def evaluation(
    source: Source,
    batch: int,
    *,
    size: int,
    num_classes: int,
    most: int = MOST,
    workers: int = 0,
    shard: tuple[int, int] = (0, 1),
) -> Evaluation:
    """Return this process's share of all pictures, each exactly once over all processes, as batches of one shape.

    Pictures are letterboxed: the longer side is resized to `size`, the rest is gray.

    Args:
      source: the pictures.
      batch: of all processes together.
      size: pixels of a side.
      num_classes: of the set.
      most: objects of a picture that there is room for.
      workers: processes that load; 0 loads in threads of this one.
      shard: (number of this process, number of processes).

    Returns:
      What can be gone through again and again; every process gets the same number of batches {"image":
      `[batch / P, size, size, 3]` uint8, "boxes", "classes": as `batches` has them, "crowd": `[batch / P, most]` bool,
      "areas": `[batch / P, most]` float32, square pixels of the picture as it is stored, "scale": `[batch / P]`
      float32, pixels of "image" for one of these, "weight": `[batch / P]` float32}. The weight is 1, and 0 where there
      is no picture: after the last, and for one that cannot be read.

    Raises:
      UserError: what no batch can be made of, or an extra is missing.
    """
    share = share_of(source, batch, size, workers, shard)  # type: ignore[arg-type]
    return Evaluation(_Testing(source, size, num_classes, batch, shard[0] * share, share, most), workers)


class Evaluation(loading.Evaluation):
    """All pictures once, as often as it is gone through; made by `evaluation`."""

    @property
    def corruption(self) -> Faults:
        """What counts the pictures that cannot be read, and those with objects that cannot be used."""
        return Faults(self.testing.source, self.testing.num_classes)


@dataclass(frozen=True, eq=False)
class _Testing:
    """Batches by step, in the order of the source, and empty ones after the last; read by Grain as `_Training`."""

    source: Source
    size: int
    num_classes: int
    batch: int
    first: int
    share: int
    most: int

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, step: int) -> Batch:
        numbers = step * self.batch + self.first + np.arange(self.share)
        weight = (numbers < len(self.source)).astype(np.float32)
        images, scales = np.zeros((self.share, self.size, self.size, 3), np.uint8), np.ones(self.share, np.float32)
        examples = [Example(image, np.zeros((0, 4), np.float32), np.zeros(0, np.int32)) for image in images]
        crowd, areas = np.zeros((self.share, self.most), bool), np.zeros((self.share, self.most), np.float32)
        corrupted, faulty = [], []
        for i in np.flatnonzero(weight):
            number = int(numbers[i])
            try:
                image, objects = _objects(self.source, number, self.num_classes)
            except Unreadable:
                weight[i] = 0
                corrupted.append(number)
                continue
            faulty += [number] if objects.faults else []
            count = len(objects.classes)
            if count > self.most:
                raise UserError(
                    f"{self.source.name(number)} has {count} objects, and there is room for {self.most}; give more"
                )
            at = letterbox(image, self.size)
            images[i], scales[i] = drawn([image], [at], self.size), at.scale
            examples[i] = Example(images[i], at.moved(objects.boxes), objects.classes)
            crowd[i, :count], areas[i, :count] = objects.crowd, objects.areas
        leaves = {"crowd": crowd, "areas": areas, "scale": scales, "weight": weight}
        marks = {CORRUPTED: np.array(corrupted, np.int64), FAULTY: np.array(faulty, np.int64)}
        return {"image": images, **_padded(examples, self.most), **leaves, **marks}


def _objects(source: Source, number: int, num_classes: int) -> tuple[Any, Usable]:
    annotated = source[number]
    image = decoded(annotated.picture)
    if annotated.size not in (None, image.size):
        told, seen = (f"{width} x {height}" for width, height in (annotated.size or (0, 0), image.size))
        raise Unreadable(f"it has {seen} pixels, and its annotation says {told}")
    return image, usable(annotated, image.width, image.height, num_classes)


def _padded(examples: list[Example], most: int) -> Batch:
    """Boxes `[B, most, 4]` and classes `[B, most]`; of more than `most` objects, the largest."""
    boxes, classes = np.zeros((len(examples), most, 4), np.float32), np.full((len(examples), most), -1, np.int32)
    for i, (_, own, labels) in enumerate(examples):
        if len(own) > most:
            largest = np.argsort(-np.prod(own[:, 2:] - own[:, :2], axis=-1), kind="stable")[:most]
            own, labels = own[largest], labels[largest]
        boxes[i, : len(own)], classes[i, : len(own)] = own, labels
    return {"boxes": boxes, "classes": classes}
