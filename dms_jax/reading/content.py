"""Files of bytes and of JSON, read once they are known to be regular and small enough."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

from dms_jax.errors import UserError, shortened
from dms_jax.reading.schemas import Check, Mismatch
from dms_jax.reading.strict import MOST_DEPTH, loads

MOST_BYTES = 64 * 2**20
"""Of a JSON file. The structure of a language model of 2 million elements has 27 MB."""


def open_regular(path: str | os.PathLike[str]) -> int:
    """Open a regular file for reading, without waiting for what stands behind anything else.

    Returns:
      A file descriptor.

    Raises:
      OSError: it cannot be opened, or is a directory, a pipe or a device.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise OSError(None, "Is a directory" if stat.S_ISDIR(mode) else "Not a regular file")
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def read_bytes(path: str | os.PathLike[str], *, most: int = MOST_BYTES, hint: str) -> bytes:
    """The content of a regular file.

    Args:
      path: of the file.
      most: bytes; a larger file is not read.
      hint: what to do where it cannot be read.

    Raises:
      UserError: it cannot be read, is no regular file, or is too large.
    """
    try:
        with os.fdopen(open_regular(path), "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > most:
                raise UserError(f"{path} has {size:,} bytes, more than the {most:,} that are read; {hint}")
            return file.read(most + 1)[:most]
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} cannot be read ({getattr(error, 'strerror', None) or error}); {hint}") from None


def parse(
    data: bytes | str,
    source: str,
    check: Check | None = None,
    *,
    hint: str,
    title: str = "JSON",
    depth: int = MOST_DEPTH,
) -> Any:
    """Parse JSON as its standard has it, and check what it says.

    Args:
      data: the content.
      source: named in messages.
      check: what the value should be; None takes any.
      hint: what to do where it is something else.
      title: what it should be, in words.
      depth: of lists and objects inside each other, at most.

    Raises:
      UserError: it is not UTF-8, not JSON (NaN, Infinity and numbers beyond float64 are none), too deep, says a name
        twice, holds half a surrogate pair, or is not what it should be.
    """
    try:
        value = loads(data, depth)
        if check is not None:
            check(value, "")
    except Mismatch as error:
        raise UserError(f"{source} is not {title}: {shortened(error.fault, 300)}; {hint}") from None
    except ValueError as error:
        raise UserError(f"{source} is not {title} ({error}); {hint}") from None
    return value


def read_json(
    path: str | os.PathLike[str],
    check: Check | None = None,
    *,
    hint: str,
    title: str = "JSON",
    most: int = MOST_BYTES,
    depth: int = MOST_DEPTH,
) -> Any:
    """Read a JSON file: `read_bytes`, then `parse`.

    Raises:
      UserError: as these two.
    """
    return parse(read_bytes(path, most=most, hint=hint), str(path), check, hint=hint, title=title, depth=depth)


def regular_file(path: Path) -> bool:
    """Whether a path leads to a regular file."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (OSError, ValueError):
        return False
