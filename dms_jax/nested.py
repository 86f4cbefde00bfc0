"""Nested sizes: slices of arrays, and sizes.json, which lists the sizes of one network in a directory.

They come from the largest to the smallest; structure.json beside the file is the largest one's.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from dms_jax import files, reading
from dms_jax.budgets.amounts import Given, same
from dms_jax.errors import UserError
from dms_jax.reading import either, flag, listing, number, one_of, record, text
from dms_jax.structure import Structure

FILE, FORMAT, VERSION = "sizes.json", "dms_jax.sizes", 1
MOST = 64
"""Sizes of one network."""
AGAIN = "save the networks again, or run the job's command again"
"""What to do where files are not of one job."""

SIZE = either(number(0, 1e30, above=True), text(64), title="a positive number or a text of at most 64 characters")
_FILE = record(
    {
        "format": one_of(FORMAT),
        "version": one_of(VERSION),
        "shared": flag,
        "sizes": listing(record({"size": SIZE, "structure": reading.anything}), 1, MOST),
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

    @property
    def identity(self) -> str:
        """SHA-256 of the content: what else lies in the directory says by it which sizes it is of."""
        return files.identity_of(json.loads(json.dumps(self.content())))

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
    content = reading.read_json(path, _FILE, hint=AGAIN)
    try:
        sizes = labels(one["size"] for one in content["sizes"])
    except UserError as error:
        raise UserError(f"{path}: {error}; {AGAIN}") from None
    found = [Structure.from_json(one["structure"], str(path)) for one in content["sizes"]]
    return Nested(dict(zip(sizes, found, strict=True)), content["shared"])


def chosen(directory: str | os.PathLike[str], size: Given | None) -> tuple[Nested | None, int, Structure]:
    """The sizes of a directory, and of the one asked for its place and structure; without one the largest's.

    Returns:
      What sizes.json says, None where there is one size alone; the place, from 0; the structure.

    Raises:
      UserError: there is no such size.
    """
    found = read(directory)
    if found is None:
        if size is not None:
            raise UserError(f"{directory} holds a network of one size alone; leave size={reading.shown(size)} out")
        return None, 0, Structure.load(Path(directory) / "structure.json")
    number = 0 if size is None else position(found.structures, size, f" in {directory}")
    return found, number, list(found.structures.values())[number]


def plain(size: Any) -> Any:
    """A size as JSON has it: NumPy's and JAX's numbers are Python's, and texts have no space around them."""
    if isinstance(size, str):
        return " ".join(size.split())
    if isinstance(size, jax.Array | np.ndarray) and size.ndim == 0:
        size = np.asarray(size)[()]
    if isinstance(size, Real) and not isinstance(size, bool):
        digits = str(size) if isinstance(size, np.floating) else size  # of float32 0.1 those that were given
        return int(size) if isinstance(size, Integral) else float(digits)
    return size


def labels(sizes: Iterable[Any]) -> list[Given]:
    """Sizes of one network, as they are written down.

    Raises:
      UserError: none or too many, one that is no number above 0 and no short text, or one that is there twice.
    """
    found = [plain(size) for size in sizes]
    if not 1 <= len(found) <= MOST:
        raise UserError(f"{len(found)} sizes of one network are not possible; give 1 to {MOST}")
    for i, size in enumerate(found):
        try:
            SIZE(size, "size")
        except reading.Mismatch as error:
            raise UserError(f"{error.fault}; give a fraction such as 0.25, say") from None
        if any(same(size, other) for other in found[:i]):
            raise UserError(f"size {reading.shown(size)} is given twice; give every size once")
    return found


def position(sizes: Mapping[Given, Any], size: Given, where: str = "") -> int:
    """The place of a size among others, however it is written: 0.25 is "25 %", 2e6 is 2000000, "2M" and "2 MB".

    Raises:
      UserError: it is none of them.
    """
    found = next((i for i, one in enumerate(sizes) if same(one, plain(size))), None)
    if found is None:
        raise UserError(f"size {reading.shown(size)} is not there{where}; there are {', '.join(map(str, sizes))}")
    return found


def taken(array: Any, chosen: Mapping[int, np.ndarray]) -> Any:
    """Positions of some axes of an array; positions ascend, so the gradient is added to no place twice."""
    for axis, indices in chosen.items():
        if isinstance(array, np.ndarray):
            array = np.take(array, indices, axis=axis)
        else:
            array = jnp.take(array, indices, axis=axis, mode="clip", unique_indices=True, indices_are_sorted=True)
    return array
