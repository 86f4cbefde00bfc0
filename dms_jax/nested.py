"""Nested sizes: slices of arrays, and sizes.json, which lists the sizes of one network in a directory.

They come from the largest to the smallest; structure.json beside the file is the largest one's.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import jax.numpy as jnp
import numpy as np

from dms_jax import files, reading
from dms_jax.budgets.amounts import Given
from dms_jax.errors import UserError
from dms_jax.reading import either, flag, listing, number, one_of, record, text
from dms_jax.structure import Structure

FILE, FORMAT, VERSION = "sizes.json", "dms_jax.sizes", 1
MOST = 64
"""Sizes of one network."""

_SIZE = either(number(0, 1e30, above=True), text(64), title="a number or a text")
_FILE = record(
    {
        "format": one_of(FORMAT),
        "version": one_of(VERSION),
        "shared": flag,
        "sizes": listing(record({"size": _SIZE, "structure": reading.anything}), 1, MOST),
    }
)


Slices: TypeAlias = Mapping[str, Mapping[int, np.ndarray] | None]
"""Path of a larger network's array -> axis -> which of its positions a smaller one has; None: not the array at all."""


class Nested(NamedTuple):
    """What the file says.

    Attributes:
      structures: size -> structure.
      shared: whether the smaller networks' trained weights are slices of the largest's; else each has its own.
    """

    structures: dict[Given, Structure]
    shared: bool

    def content(self) -> dict[str, Any]:
        """Of the file."""
        sizes = [{"size": size, "structure": structure.to_json()} for size, structure in self.structures.items()]
        return {"format": FORMAT, "version": VERSION, "shared": self.shared, "sizes": sizes}

    def write(self, directory: str | os.PathLike[str]) -> None:
        """Write the file."""
        files.write_json(Path(directory) / FILE, self.content())


def read(directory: str | os.PathLike[str]) -> Nested | None:
    """What the file of a directory says; None where there is one size alone, and no such file.

    Raises:
      UserError: it is something else.
    """
    path = Path(directory) / FILE
    if not path.exists():
        return None
    content = reading.read_json(path, _FILE, hint="as a job with several sizes writes it")
    found = {one["size"]: Structure.from_json(one["structure"], str(path)) for one in content["sizes"]}
    if len(found) < len(content["sizes"]):
        raise UserError(f"{path} has one size twice; run the job's command again, which writes it again")
    return Nested(found, content["shared"])


def chosen(directory: str | os.PathLike[str], size: Given | None) -> tuple[int | None, Structure]:
    """The place of a size in a directory and its structure; without one the largest's. The place in no file is None.

    Raises:
      UserError: there is no such size.
    """
    found = read(directory)
    if found is None:
        if size is not None:
            raise UserError(f"{directory} holds a network of one size alone; leave size={reading.shown(size)} out")
        return None, Structure.load(Path(directory) / "structure.json")
    number = 0 if size is None else position(found.structures, size, f" in {directory}")
    return number, list(found.structures.values())[number]


def position(sizes: Mapping[Given, Any], size: Given, where: str = "") -> int:
    """The place of a size among others, however it is written: 0.25 is "0.25".

    Raises:
      UserError: it is none of them.
    """
    texts = [str(one) for one in sizes]
    if str(size) not in texts:
        raise UserError(f"size {reading.shown(size)} is not there{where}; there are {', '.join(texts)}")
    return texts.index(str(size))


def taken(array: Any, chosen: Mapping[int, np.ndarray]) -> Any:
    """Positions of some axes of an array; positions ascend, so the gradient is added to no place twice."""
    for axis, indices in chosen.items():
        if isinstance(array, np.ndarray):
            array = np.take(array, indices, axis=axis)
        else:
            array = jnp.take(array, indices, axis=axis, mode="clip", unique_indices=True, indices_are_sorted=True)
    return array
