"""Batches of pictures: those of any step are a function of the seed and the step alone, however they are loaded.

Number n of the stream of a run is picture `order(n)`, where every epoch is another permutation of all pictures, and
what is random about it is drawn from Philox with the key `seed` and the counter n. So neither worker processes nor
threads, nor a stop in between, nor how many processes share a batch change what a run sees. The position is the step,
which every checkpoint has.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from dms_jax.data.augment import Augment
from dms_jax.data.corruption import CORRUPTED, Corruption
from dms_jax.data.pictures import Unreadable, resize_center
from dms_jax.data.sources import Example, Source, Synthetic
from dms_jax.data.streaming import ENDLESS, Batch, share_of, shuffled, stacked, stream, taken
from dms_jax.errors import UserError

IN_A_ROW = 16
"""Unreadable pictures one after another that are no accident."""


def batches(
    source: Source,
    batch: int,
    seed: int,
    *,
    size: int,
    augment: Augment | None = None,
    workers: int = 0,
    shard: tuple[int, int] = (0, 1),
) -> Callable[[int], Batch]:
    """Return a function of the step to this process's share of the step's batch.

    Numbers `step * batch` to `(step + 1) * batch - 1` of the stream make a batch, which may reach from one epoch into
    the next; process p of P gets the p-th P-th of them. A picture that cannot be read is named on stderr, and the next
    one of the stream that can be read takes its place.

    Args:
      source: the pictures.
      batch: of all processes together.
      seed: at least 0; of the order and of everything drawn.
      size: pixels of a side.
      augment: what is done to each picture; None is `Augment()`.
      workers: processes that load; 0 loads in threads of this one.
      shard: (number of this process, number of processes).

    Returns:
      A function of a step >= 0 to {"image": `[batch / P, size, size, 3]` uint8, "label": `[batch / P]` int32}. Steps
      one after another are loaded ahead; any other step moves the loading there, which takes a moment (seconds, with
      workers). The function raises `UserError` when too many pictures cannot be read (see `Corruption`).

    Raises:
      UserError: what no batch can be made of, or an extra is missing.
    """
    share = share_of(source, batch, size, workers, shard)
    if seed < 0:
        raise UserError(f"seed {seed} is not possible; give a whole number of at least 0")
    if isinstance(source, Synthetic):
        fixed = source.batch(share, size)
        return lambda step: dict(fixed)
    order = shuffled(len(source), seed)
    training = _Training(source, order, augment or Augment(), seed, size, batch, shard[0] * share, share)
    return Loader(training, Corruption(source), workers)


class Loader:
    """A function of the step that loads ahead; made by `batches`.

    Attributes:
      corruption: what could not be read since it was made.
    """

    def __init__(self, training: Any, corruption: Corruption, workers: int):
        self.corruption = corruption
        self._training, self._workers = training, workers
        self._stream: Any = None
        self._next = 0

    def __call__(self, step: int) -> Batch:
        if step < 0:
            raise ValueError(f"step {step} is below 0, the first step")
        if self._stream is None or step != self._next:
            self.close()
            self._stream = stream(self._training, step, self._workers)
        loaded = taken(self._stream)
        self._next = step + 1
        return self.corruption.checked(loaded)

    def close(self) -> None:
        """End its threads and processes; the next call starts new ones."""
        if self._stream is not None:
            self._stream.close()
        self._stream = None


def evaluation(
    source: Source,
    batch: int,
    size: int,
    *,
    crop: float = 0.875,
    workers: int = 0,
    shard: tuple[int, int] = (0, 1),
) -> Evaluation:
    """Return this process's share of all pictures, each exactly once over all processes, as batches of one shape.

    Args:
      source: the pictures.
      batch: of all processes together.
      size: pixels of a side.
      crop: share of the shorter side that is seen.
      workers: processes that load; 0 loads in threads of this one.
      shard: (number of this process, number of processes).

    Returns:
      What can be gone through again and again; every process gets the same number of batches
      {"image": `[batch / P, size, size, 3]` uint8, "label": `[batch / P]` int32, "weight": `[batch / P]` float32}.
      The weight is 1, and 0 where there is no picture: after the last, and for one that cannot be read (named on
      stderr; too many are a `UserError`).

    Raises:
      UserError: what no batch can be made of, or an extra is missing.
    """
    share = share_of(source, batch, size, workers, shard)
    if not 0 < crop <= 1:
        raise UserError(f"a crop of {crop} is not possible; give the share of the shorter side, above 0 and at most 1")
    return Evaluation(_Testing(source, size, crop, batch, shard[0] * share, share), workers)


@dataclass(frozen=True)
class Evaluation:
    """All pictures once, as often as it is gone through; made by `evaluation`."""

    testing: Any
    workers: int

    @property
    def corruption(self) -> Corruption:
        """What counts the pictures that cannot be read."""
        return Corruption(self.testing.source)

    def __len__(self) -> int:
        return -(-len(self.testing.source) // self.testing.batch)

    def __iter__(self) -> Iterator[Batch]:
        source, testing = self.testing.source, self.testing
        if isinstance(source, Synthetic):
            fixed = source.batch(testing.share, testing.size)
            yield from ({**fixed, "weight": testing.weight(step)} for step in range(len(self)))
            return
        corruption, loaded = self.corruption, stream(testing, 0, self.workers)
        try:
            for _ in range(len(self)):
                yield corruption.checked(taken(loaded))
        finally:
            loaded.close()


@dataclass(frozen=True, eq=False)
class _Training:
    """Batches by step; read by Grain, in whatever process."""

    source: Source
    order: Any  # from the number in the stream to that of the picture
    augment: Augment
    seed: int
    size: int
    batch: int
    first: int
    share: int

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, step: int) -> Batch:
        start = step * self.batch + self.first
        images, labels, corrupted = [], [], []
        for n in range(start, start + self.share):
            image, label, skipped = self.example(n)
            images.append(image)
            labels.append(label)
            corrupted += skipped
        return stacked(images, labels, **{CORRUPTED: np.array(corrupted, np.int64)})

    def example(self, n: int) -> tuple[np.ndarray, int, list[int]]:
        """Picture n of the stream, or the next one that can be read, and the numbers of those that cannot."""
        skipped: list[int] = []
        for candidate in itertools.count(n):
            number = int(self.order[candidate])
            picture, label = _labelled(self.source, number)
            try:
                return self.augment(picture, self.size, generator(self.seed, n)), label, skipped
            except Unreadable as error:
                skipped.append(number)
                if len(skipped) == IN_A_ROW:
                    raise UserError(
                        f"{IN_A_ROW} pictures one after another cannot be read, the last is "
                        f"{self.source.name(number)} ({error}); prepare the data again"
                    ) from None
        raise AssertionError  # the count does not end


@dataclass(frozen=True, eq=False)
class _Testing:
    """Batches by step, in the order of the source, and empty ones after the last; read by Grain as `_Training`.

    It has no end of its own: at that, Grain's workers would leave shared memory behind.
    """

    source: Source
    size: int
    crop: float
    batch: int
    first: int
    share: int

    def __len__(self) -> int:
        return ENDLESS

    def weight(self, step: int) -> np.ndarray:
        """1 where there is a picture."""
        numbers = step * self.batch + self.first + np.arange(self.share)
        return (numbers < len(self.source)).astype(np.float32)

    def __getitem__(self, step: int) -> Batch:
        weight, start = self.weight(step), step * self.batch + self.first
        images = [np.zeros((self.size, self.size, 3), np.uint8)] * self.share
        labels, corrupted = [0] * self.share, []
        for i in np.flatnonzero(weight):
            picture, labels[i] = _labelled(self.source, start + int(i))
            try:
                images[i] = resize_center(picture, self.size, self.crop)
            except Unreadable:
                weight[i] = 0
                corrupted.append(start + int(i))
        return stacked(images, labels, weight=weight, **{CORRUPTED: np.array(corrupted, np.int64)})


def _labelled(source: Source, number: int) -> Example:
    """An example whose class is told: one that is not would be learned as no class at all.

    Raises:
      UserError: it is not.
    """
    example = source[number]
    if not 0 <= example.label < 2**31:
        raise UserError(f"{source.name(number)} has label {example.label}, which is no class; prepare the data again")
    return example


def generator(seed: int, number: int) -> np.random.Generator:
    """What is random about number n of the stream: Philox with the key `seed`, counting from (0, n, 0, 0)."""
    return np.random.Generator(np.random.Philox(key=seed, counter=[0, number, 0, 0]))
