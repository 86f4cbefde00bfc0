"""Damage to a file of a run directory; each is a function of the file, a stranger's file of that name, and a draw."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

Damage = Callable[[Path, Path, np.random.Generator], None]


def _flipped(file: Path, stranger: Path, draw: np.random.Generator) -> None:
    data = bytearray(file.read_bytes())
    for _ in range(int(draw.integers(1, 4)) if data else 0):
        data[int(draw.integers(len(data)))] ^= 1 << int(draw.integers(8))
    file.write_bytes(data)


def _cut(file: Path, stranger: Path, draw: np.random.Generator) -> None:
    data = file.read_bytes()
    file.write_bytes(data[: int(draw.integers(len(data)))] if data else data)


def _longer(file: Path, stranger: Path, draw: np.random.Generator) -> None:
    with file.open("ab") as end:
        end.write(draw.integers(0, 256, int(draw.integers(1, 40)), np.uint8).tobytes())


def _overwritten(file: Path, stranger: Path, draw: np.random.Generator) -> None:
    data = bytearray(file.read_bytes())
    start = int(draw.integers(len(data) + 1))
    data[start : start + 16] = draw.integers(0, 256, len(data[start : start + 16]), np.uint8).tobytes()
    file.write_bytes(data)


def _a_line_less(file: Path, stranger: Path, draw: np.random.Generator) -> None:
    lines = file.read_bytes().splitlines(keepends=True)
    if lines:
        del lines[int(draw.integers(len(lines)))]
    file.write_bytes(b"".join(lines))


def _directory(file: Path, stranger: Path, draw: np.random.Generator) -> None:
    file.unlink()
    file.mkdir()


def _pipe(file: Path, stranger: Path, draw: np.random.Generator) -> None:
    file.unlink()
    os.mkfifo(file)


def _link(file: Path, stranger: Path, draw: np.random.Generator) -> None:
    file.unlink()
    file.symlink_to(stranger)


def _strangers(file: Path, stranger: Path, draw: np.random.Generator) -> None:
    if stranger.is_file():
        shutil.copyfile(stranger, file)


def _gone_above(file: Path, stranger: Path, draw: np.random.Generator) -> None:
    """The directory above it goes: a phase, a step, or a part of one."""
    if file.parent.name.startswith("run"):
        file.unlink()
    else:
        shutil.rmtree(file.parent)


def _strangers_above(file: Path, stranger: Path, draw: np.random.Generator) -> None:
    """The directory above it is the stranger's: a phase, a step, or a part of one."""
    if not file.parent.name.startswith("run") and stranger.parent.is_dir():
        shutil.rmtree(file.parent)
        shutil.copytree(stranger.parent, file.parent)


DAMAGES: dict[str, Damage] = {
    "removed": lambda file, stranger, draw: file.unlink(),
    "emptied": lambda file, stranger, draw: None if file.write_bytes(b"") else None,
    "flipped": _flipped,
    "cut": _cut,
    "longer": _longer,
    "overwritten": _overwritten,
    "a line less": _a_line_less,
    "a directory": _directory,
    "a pipe": _pipe,
    "a link": _link,
    "a stranger's": _strangers,
    "its directory gone": _gone_above,
    "its directory a stranger's": _strangers_above,
}
