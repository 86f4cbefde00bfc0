"""A Hugging Face directory: config.json, and safetensors in one file or many shards."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dms_jax.errors import UserError

DTYPES = ("F32", "BF16", "F16", "F64")
"""What weights may be stored as."""


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor is, and what it is; its numbers are not read."""

    file: Path
    shape: tuple[int, ...]
    dtype: str


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
      UserError: it cannot be read.
    """
    try:
        data = json.loads(path.read_text())
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); give a Hugging Face model directory") from None
    except ValueError:
        data = None
    if not isinstance(data, dict):
        raise UserError(f"{path} is not a JSON object; give a Hugging Face model directory")
    return data


def _open(file: Path) -> Any:
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise UserError("weights are read with safetensors, which is missing: install dms_jax[hub]") from error
    try:
        return safe_open(file, "numpy")
    except SafetensorError as error:
        raise UserError(f"{file} is not a whole safetensors file ({error}); fetch it again") from None


def _files(directory: Path) -> list[Path]:
    index = directory / "model.safetensors.index.json"
    if not index.exists():
        files = [directory / "model.safetensors"]
    else:
        files = [directory / name for name in sorted(set(read_json(index).get("weight_map", {}).values()))]
    missing = [file.name for file in files if not file.exists()]
    if missing:
        raise UserError(f"{directory} lacks {', '.join(missing)} of {len(files)} weight files; fetch them again")
    return files


def stored_tensors(directory: Path) -> dict[str, StoredTensor]:
    """All tensors of a directory by name: model.safetensors, or the shards that its index names.

    Raises:
      UserError: missing shards, or a file that is not whole.
    """
    found = {}
    for file in _files(directory):
        with _open(file) as tensors:
            for name in tensors.keys():
                view = tensors.get_slice(name)
                found[name] = StoredTensor(file, tuple(view.get_shape()), view.get_dtype())
    return found


def read_tensors(stored: Mapping[str, StoredTensor], names: Iterable[str]) -> Iterator[tuple[str, np.ndarray]]:
    """One tensor at a time, file by file."""
    by_file: dict[Path, list[str]] = {}
    for name in names:
        by_file.setdefault(stored[name].file, []).append(name)
    for file, inside in by_file.items():
        with _open(file) as tensors:
            for name in inside:
                yield name, tensors.get_tensor(name)
