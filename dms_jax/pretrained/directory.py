"""A Hugging Face directory: config.json, and safetensors in one file or many shards."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dms_jax import reading
from dms_jax.errors import UserError, one_line, shortened

DTYPES = ("F32", "BF16", "F16", "F64")
"""What weights may be stored as."""


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor is, and what it is; its numbers are not read."""

    file: Path
    shape: tuple[int, ...]
    dtype: str


HINT = "give a Hugging Face model directory"

_OBJECT = reading.mapping(reading.anything)

_INDEX = reading.record({"weight_map": reading.mapping(reading.text(1024), 2**20)})

_MOST_CONFIG = 2**24  # bytes


def read_json(path: Path, check: reading.Check = _OBJECT) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
      UserError: it cannot be read, or is not what it should be.
    """
    return reading.read_json(path, check, hint=HINT, title="a JSON object", most=_MOST_CONFIG)


def _open(file: Path) -> Any:
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise UserError("weights are read with safetensors, which is missing: install dms_jax[hub]") from error
    if not reading.regular_file(file):  # which would be waited for
        raise UserError(f"{file} is no file of weights; fetch it again")
    try:
        return safe_open(file, "numpy")
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{file} is not a whole safetensors file ({one_line(error, 200)}); fetch it again") from None


def _files(directory: Path) -> dict[Path, set[str] | None]:
    """The files of weights, each with the tensors that the index says are in it; None where there is no index."""
    index = directory / "model.safetensors.index.json"
    if not index.exists():
        found: dict[Path, set[str] | None] = {directory / "model.safetensors": None}
    else:
        found = {}
        for tensor, name in read_json(index, _INDEX)["weight_map"].items():
            # of this directory, and of nothing else
            if name in ("", ".", "..") or Path(name).name != name or not name.isprintable():
                raise UserError(f"{index} names the file {reading.shown(name)}, which is not of {directory}; {HINT}")
            names = found.setdefault(directory / name, set())
            assert names is not None
            names.add(tensor)
        if not found:
            raise UserError(f"{index} names no file; {HINT}")
    missing = [file.name for file in found if not file.exists()]
    if missing:
        shown = shortened(", ".join(sorted(missing)), 200)
        raise UserError(f"{directory} lacks {shown} of {len(found)} weight files; fetch them again")
    return found


def stored_tensors(directory: Path) -> dict[str, StoredTensor]:
    """All tensors of a directory by name: model.safetensors, or the shards that its index names.

    Raises:
      UserError: missing shards, or a file that is not whole.
    """
    found: dict[str, StoredTensor] = {}
    for file, indexed in sorted(_files(directory).items()):
        inside = tensors_of(file)
        if indexed is not None and (lost := sorted(indexed - set(inside))):
            raise UserError(f"{file} lacks {lost[0]}, which the index says is in it; fetch it again")
        if twice := sorted(inside.keys() & found.keys()):
            raise UserError(f"{twice[0]} is in {found[twice[0]].file.name} and in {file.name}; fetch both again")
        found |= inside
    return found


def tensors_of(file: Path) -> dict[str, StoredTensor]:
    """All tensors of a safetensors file by name.

    Raises:
      UserError: safetensors is missing, or the file is not whole.
    """
    with _open(file) as tensors:
        views = {name: tensors.get_slice(name) for name in tensors.keys()}
        return {name: StoredTensor(file, tuple(x.get_shape()), x.get_dtype()) for name, x in views.items()}


def read_tensors(stored: Mapping[str, StoredTensor], names: Iterable[str]) -> Iterator[tuple[str, np.ndarray]]:
    """One tensor at a time, file by file."""
    by_file: dict[Path, list[str]] = {}
    for name in names:
        by_file.setdefault(stored[name].file, []).append(name)
    for file, inside in by_file.items():
        with _open(file) as tensors:
            for name in inside:
                yield name, tensors.get_tensor(name)


def finite(array: np.ndarray, kind: Any, name: str) -> np.ndarray:
    """An array as `kind`, in memory of its own.

    Raises:
      UserError: a number is not finite, or beyond what `kind` holds.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        made = np.asarray(array, dtype=kind, order="C")
    if not np.isfinite(made).all():
        raise UserError(f"{name} holds numbers that are not finite as {np.dtype(kind).name}; fetch its file again")
    return made
