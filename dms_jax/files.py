"""Writing files that are either whole or not there: into a new part file, to the disk, and then renamed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dms_jax.errors import UserError

PART = ".part"


def at_home(path: Path) -> Path:
    """A path with the home directory for ~ at its beginning.

    Raises:
      UserError: nobody of that name is known, or the process has no home.
    """
    try:
        return path.expanduser()
    except RuntimeError:
        raise UserError(f"{path} is not possible: that home directory is not known; give the whole path") from None


def user_cache() -> Path:
    """`dms_jax` in the user's cache: what can be measured or brought again."""
    cache = os.environ.get("XDG_CACHE_HOME", "")
    cache = cache if os.path.isabs(cache) else os.path.join(os.path.expanduser("~"), ".cache")  # as its standard has it
    return Path(cache) / "dms_jax"


def write(path: str | os.PathLike[str], data: bytes, *, new: bool = False) -> None:
    """Write a file; a reader, and whoever comes after a power failure, meets the old one or the new one.

    The part file is new and has a random name, so that no link that lies there already is written through.

    Args:
      path: of the file; a link at its place is replaced, not followed.
      data: its content.
      new: there must be none yet.

    Raises:
      FileExistsError: `new`, and there is one.
      OSError: it cannot be written; the old one is whole, and no part is left.
    """
    path = Path(path)
    part = path.with_name(f"{path.name}.{secrets.token_hex(8)}{PART}")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    try:
        try:
            write_all(descriptor, data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        _put(part, path, new)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise
    sync_directory(path.parent)


def write_json(path: str | os.PathLike[str], content: Any, *, new: bool = False) -> None:
    """Write JSON, indented; numbers that are not finite become null, since JSON has none."""
    write(path, (json.dumps(finite(content), indent=1, allow_nan=False) + "\n").encode(), new=new)


def identity_of(config: Mapping[str, Any]) -> str:
    """SHA-256 of a configuration, in hexadecimal."""
    text = json.dumps(config, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def finite(content: Any) -> Any:
    """JSON values with null in the place of numbers that are not finite."""
    if isinstance(content, float) and not math.isfinite(content):
        return None
    if isinstance(content, dict):
        return {key: finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [finite(value) for value in content]
    return content


def open_append(path: str | os.PathLike[str]) -> int:
    """A file descriptor that reads and appends, made if need be; a link or a pipe at its place is refused.

    Raises:
      OSError: it cannot be opened, or is a link.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    return os.open(path, flags, 0o666)


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of `data`, however many calls that takes."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def sync_directory(path: Path) -> None:
    """Put the names in a directory on the disk, where its file system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Put every file below a folder on the disk, and the names in its directories."""
    for root, _, names in os.walk(folder):
        for name in names:
            descriptor = os.open(os.path.join(root, name), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        sync_directory(Path(root))


def _put(part: Path, path: Path, new: bool) -> None:
    if not new:
        os.replace(part, path)
        return
    try:
        os.link(part, path)  # fails where there is one, which a rename does not
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        if path.exists():
            raise FileExistsError(None, "File exists", str(path)) from None
        os.replace(part, path)
    else:
        part.unlink()
