"""What was measured on this device, on disk: a second search measures nothing again."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import os
import re
from collections.abc import Callable
from pathlib import Path

import jax

from dms_jax import files, reading
from dms_jax.budgets import timing
from dms_jax.errors import UserError
from dms_jax.hardware import cores, processor
from dms_jax.reading import listing, mapping, number, record, shown, text

FORMAT = "dms_jax.latency"

MOST = 2**17
"""Entries of a file."""

LONG = 200
"""Characters of flags that are written out; longer ones are told apart by a digest of all."""

_FILE = record(
    {
        "format": text(64),
        "of": mapping(text(256), 16),
        "times": mapping(listing(number(0, 1e12), most=2), MOST),
    }
)

_HINT = "remove it, and it is measured anew"


def folder() -> Path:
    """Of all tables: `dms_jax/latency` in the user's cache."""
    return files.user_cache() / "latency"


def kind(dtype: str | None, batch: int | None) -> dict[str, str]:
    """What times are of: another of these is another table."""
    device = jax.local_devices()[0]
    flags = " ".join(sorted(os.environ.get("XLA_FLAGS", "").split()))
    flags = flags if len(flags) <= LONG else f"{flags[:LONG]}... {_digest(flags)}"
    return {
        "device": f"{processor() if device.platform == 'cpu' else device.device_kind}, {cores()} cores",
        "jaxlib": importlib.metadata.version("jaxlib"),
        "dtype": dtype or "as given",
        "batch": "as given" if batch is None else str(batch),
        "flags": flags,
    }


def _digest(words: str) -> str:
    return hashlib.sha256(words.encode(errors="surrogateescape")).hexdigest()[:16]


class Table(contextlib.AbstractContextManager["Table"]):
    """Times by key, kept in a file: written now and then, and when its block ends, however it ends.

    Args:
      path: of the file; None keeps nothing.
      of: as `kind` has it.

    Raises:
      UserError: the file is no table, or one of another device.
    """

    def __init__(self, path: Path | None, of: dict[str, str]):
        self.path, self.of, self.measured = path, of, 0
        self.times: dict[str, tuple[float, float]] = {}
        self._changed = False
        if path is not None and os.path.exists(path):  # `Path.exists` raises where a folder cannot be read
            self.times = self._read(path)

    @staticmethod
    def of_device(dtype: str | None, batch: int | None) -> Table:
        """The table of this device; process 0 alone has one. All processes call this together.

        Raises:
          UserError: the file is no table, or one of another device; in other processes, that process 0 says so.
        """
        of = kind(dtype, batch)
        words = re.sub(r"[^A-Za-z0-9.]+", "-", " ".join(of.values())).strip("-")[:100]
        found = []

        def read() -> list[float]:
            found.append(Table(folder() / f"{words}-{_digest(repr(of))}.json", of))
            return [0.0]

        timing.agreed(read, 1)
        return found[0] if found else Table(None, of)

    def _read(self, path: Path) -> dict[str, tuple[float, float]]:
        data = reading.read_json(path, _FILE, hint=_HINT)
        if data["format"] != FORMAT:
            raise UserError(f"{path} is no table of latencies; {_HINT}")
        for what, own in self.of.items():
            if data["of"].get(what) != own:
                raise UserError(
                    f"{path} has times of {what} {shown(data['of'].get(what))}, and here it is {own!r}; {_HINT}"
                )
        return {key: (pair[0], pair[-1]) for key, pair in data["times"].items() if pair}

    def time(self, key: str, measure: Callable[[], tuple[float, float]], *, again: bool = False) -> tuple[float, float]:
        """What stands under a key, measured where nothing does; again: measured once more, and the lower of both."""
        if key not in self.times or again:
            self.times[key] = min([measure(), *([self.times[key]] if key in self.times else [])])
            self.measured += 1
            self._changed = True
            if self.measured % 16 == 0:
                self.save()
        return self.times[key]

    def __exit__(self, *exception: object) -> None:
        self.save()

    def save(self) -> None:
        """Write the file, with what others wrote in the meantime; a folder that cannot be written keeps nothing."""
        if self.path is None or not self._changed:
            return
        with contextlib.suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(UserError):
                self.times = {**self._read(self.path), **self.times} if os.path.exists(self.path) else self.times
            kept = dict(list(self.times.items())[-MOST:])
            content = {"format": FORMAT, "of": self.of, "times": {key: list(pair) for key, pair in kept.items()}}
            files.write_json(self.path, content)
            self._changed = False
