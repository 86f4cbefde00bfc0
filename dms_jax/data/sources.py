"""Where labelled pictures come from: records of TFDS, arrays in memory, parts of other sources, random pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from dms_jax.data.pictures import enlarged
from dms_jax.errors import UserError
from dms_jax.reading import shown


class Example(NamedTuple):
    """A picture and its class.

    Attributes:
      picture: bytes of an encoded file (JPEG, PNG), or pixels `[H, W, 3]` uint8.
      label: from 0; below 0 where the class is not told.
    """

    picture: bytes | np.ndarray
    label: int


def as_label(value: Any, classes: int, name: str) -> int:
    """A class as it is stored -> its number; below 0 where it is not told.

    Raises:
      UserError: it is no whole number, or not below the number of classes.
    """
    array = np.asarray(value)
    if array.ndim or not np.issubdtype(array.dtype, np.integer):
        raise UserError(f"{name} has a label that is no whole number: {shown(value)}; prepare the data again")
    if int(array) >= classes:
        raise UserError(f"{name} has label {int(array):,}, and there are {classes:,} classes; prepare the data again")
    return int(array)


class Source(Protocol):
    """Pictures by number, from 0 to `len - 1`; can be pickled, so that other processes read it."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int, /) -> Example: ...

    def name(self, number: int) -> str:
        """What a message calls a picture: a file name where there is one."""
        ...


@dataclass(frozen=True)
class Records:
    """A split of a TFDS set; pictures stay encoded."""

    records: Any
    title: str
    image: str
    label: str
    classes: int = 2**31 - 1

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, number: int) -> Example:
        record = self.records[number]
        return Example(record[self.image], as_label(record[self.label], self.classes, f"{self.title} [{number}]"))

    def name(self, number: int) -> str:
        record = self.records[number]
        file = next((record[key] for key in ("file_name", "image/filename", "filename") if key in record), None)
        return f"{self.title} [{number}]" + (f" {file.decode()}" if isinstance(file, bytes) else "")


@dataclass(frozen=True, eq=False)
class Subset:
    """Some pictures of a source: `numbers` of it, in their order."""

    source: Source
    numbers: np.ndarray

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, number: int) -> Example:
        return self.source[int(self.numbers[number])]

    def name(self, number: int) -> str:
        return self.source.name(int(self.numbers[number]))


@dataclass(frozen=True, eq=False)
class Pictures:
    """Pictures in memory, `[N, H, W, 3]` uint8, made `size` pixels a side when they are asked for."""

    pixels: np.ndarray
    labels: np.ndarray
    title: str
    size: int

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, number: int) -> Example:
        label = as_label(self.labels[number], 2**31 - 1, self.name(number))
        return Example(enlarged(self.pixels[number], self.size), label)

    def name(self, number: int) -> str:
        return f"{self.title} [{number}]"


@dataclass(frozen=True)
class Synthetic:
    """Random pixels and labels; `dms_jax.data.loading` hands out one and the same batch of them."""

    num_classes: int
    size: int
    examples: int

    def __len__(self) -> int:
        return self.examples

    def __getitem__(self, number: int) -> Example:
        batch = self.batch(1, self.size)
        return Example(batch["image"][0], int(batch["label"][0]))

    def name(self, number: int) -> str:
        return f"synthetic [{number}]"

    def batch(self, examples: int, size: int) -> dict[str, np.ndarray]:
        """{"image": `[B, size, size, 3]` uint8, "label": `[B]` int32}, the same whenever it is asked."""
        draw = np.random.default_rng(0)
        image = draw.integers(0, 256, (examples, size, size, 3), np.uint8)
        return {"image": image, "label": draw.integers(0, self.num_classes, examples, np.int32)}
