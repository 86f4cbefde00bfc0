"""The one reader of files that come from outside: how large, how deep, which types, and one line for all else.

What a file should say is a small schema of checks, each a function of a value and of where it stands:

    CONFIGURATION = record({"vocab_size": whole(1, 2**24)}, {"tie_word_embeddings": flag})
    config = read_json(path, CONFIGURATION, hint="give a Hugging Face model directory")
"""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from dms_jax.errors import UserError, shortened

Check: TypeAlias = Callable[[Any, str], None]

MOST_BYTES = 64 * 2**20
"""Of a JSON file. The structure of a language model of 2 million elements has 27 MB."""

MOST_DEPTH = 64
"""Of lists and objects inside each other."""

_SHOWN = 60  # characters of a value in a message


class Mismatch(Exception):
    """A value is not what it should be; `fault` says so without a source."""

    def __init__(self, fault: str):
        self.fault = fault
        super().__init__(fault)


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


def loads(data: bytes | str, depth: int = MOST_DEPTH, *, halves: bool = False) -> Any:
    """Parse JSON as its standard has it.

    Args:
      data: the content.
      depth: of lists and objects inside each other, at most.
      halves: texts may hold halves of surrogate pairs, which who writes them has to replace.

    Raises:
      ValueError: as `parse` says, in one short line.
    """
    try:
        text = data if isinstance(data, str) else data.decode()
        value = json.loads(text, parse_constant=_no_number, parse_float=_number, object_pairs_hook=_object)
        _walk(value, depth, halves)
    except RecursionError:
        raise ValueError("too deep") from None
    except ValueError as error:
        raise ValueError(shortened(" ".join(str(error).split()), 120)) from None
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


# --- schemas ---


def whole(least: int | None = None, most: int | None = None) -> Check:
    """A whole number from `least` to `most`; neither true nor 2.0 is one."""

    def check(value: Any, where: str) -> None:
        _expect(isinstance(value, int) and not isinstance(value, bool), value, where, "a whole number")
        _expect(least is None or value >= least, value, where, f"at least {least:,}" if least is not None else "")
        _expect(most is None or value <= most, value, where, f"at most {most:,}" if most is not None else "")

    return check


def number(least: float = -math.inf, most: float = math.inf, *, above: bool = False) -> Check:
    """A finite number from `least` (or above it) to `most`."""

    def check(value: Any, where: str) -> None:
        right = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e308
        _expect(right and math.isfinite(value), value, where, "a number")
        right = value > least if above else value >= least
        _expect(right, value, where, f"{'above' if above else 'at least'} {least:g}")
        _expect(value <= most, value, where, f"at most {most:g}")

    return check


def flag(value: Any, where: str) -> None:
    """True or false."""
    _expect(isinstance(value, bool), value, where, "true or false")


def anything(value: Any, where: str) -> None:
    """Whatever JSON holds."""


def text(most: int = 10_000) -> Check:
    """A text of at most `most` characters."""

    def check(value: Any, where: str) -> None:
        _expect(isinstance(value, str), value, where, "a text")
        _expect(len(value) <= most, value, where, f"at most {most:,} characters")

    return check


def one_of(*values: Any) -> Check:
    """One of these, and of their type."""

    def check(value: Any, where: str) -> None:
        right = any(type(value) is type(known) and value == known for known in values)
        _expect(right, value, where, f"one of {', '.join(map(str, values))}")

    return check


def optional(check: Check) -> Check:
    """Null, or what `check` takes."""
    return lambda value, where: None if value is None else check(value, where)


def either(*checks: Check, title: str) -> Check:
    """What one of several takes."""

    def check(value: Any, where: str) -> None:
        for one in checks:
            try:
                return one(value, where)
            except Mismatch:
                continue
        _expect(False, value, where, title)

    return check


def listing(item: Check, least: int = 0, most: int = 2**24) -> Check:
    """A list of `least` to `most` items."""

    def check(value: Any, where: str) -> None:
        _expect(isinstance(value, list), value, where, "a list")
        _expect(least <= len(value) <= most, value, where, f"{least:,} to {most:,} items")
        for number, entry in enumerate(value):
            item(entry, f"{where}[{number}]")

    return check


def mapping(item: Check, most: int = 2**16) -> Check:
    """An object of at most `most` entries, whatever their names."""

    def check(value: Any, where: str) -> None:
        _expect(isinstance(value, dict), value, where, "an object")
        _expect(len(value) <= most, value, where, f"at most {most:,} entries")
        for name, entry in value.items():
            item(entry, f"{where}.{shown(name)}")

    return check


def record(needed: Mapping[str, Check], more: Mapping[str, Check] | None = None, *, closed: bool = False) -> Check:
    """An object with the entries `needed` and perhaps those of `more`; others are not looked at, or not allowed."""
    known = {**needed, **(more or {})}

    def check(value: Any, where: str) -> None:
        _expect(isinstance(value, dict), value, where, "an object")
        for name in needed:
            if name not in value:
                raise Mismatch(f"{where.strip('.') or 'it'} has no {name}")
        unknown = [name for name in value if name not in known] if closed else []
        if unknown:
            raise Mismatch(f"{where.strip('.') or 'it'} has {shown(unknown[0])}; known: {', '.join(known)}")
        for name, entry in value.items():
            if name in known:
                known[name](entry, f"{where}.{name}")

    return check


def shown(value: Any) -> str:
    """A value as a message shows it: short, however large it is, and one line."""
    if isinstance(value, list | tuple) and len(value) > 8:
        return f"a list of {len(value):,}"
    if isinstance(value, Mapping) and len(value) > 4:
        return f"an object of {len(value):,} entries"
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**30:
        return f"a number of about {int(value.bit_length() * 0.30103) + 1:,} digits"
    if isinstance(value, str):
        return shortened(repr(value) if value.isprintable() else ascii(value), _SHOWN)
    return shortened(" ".join(repr(value).split()), _SHOWN)  # arrays have several lines


def _expect(right: bool, value: Any, where: str, expected: str) -> None:
    if not right:
        raise Mismatch(f"{where.strip('.') or 'it'} is {shown(value)}, not {expected}")


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def _number(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"{shortened(digits, 40)} is beyond a float64")
    return value


def _object(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    pairs = list(pairs)
    made = dict(pairs)
    if len(made) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in made if names.count(name) > 1)
        raise ValueError(f"{shown(twice)} stands there twice")
    return made


def _walk(value: Any, depth: int, halves: bool) -> None:
    """Refuse what is too deep, and halves of surrogate pairs, which no UTF-8 can hold; without recursion."""
    level, reached = [v for v in (value,) if isinstance(v, dict | list | str)], 0
    while level:
        if reached == depth and any(isinstance(entry, dict | list) for entry in level):
            raise ValueError(f"deeper than {depth} levels")
        deeper: list[Any] = []
        for entry in level:
            if isinstance(entry, dict):
                _texts(entry if not halves else ())
                deeper += [v for v in entry.values() if isinstance(v, dict | list | str)]
            elif isinstance(entry, list):
                deeper += [v for v in entry if isinstance(v, dict | list | str)]
            elif not halves:
                _texts((entry,))
        level, reached = deeper, reached + 1


def _texts(texts: Iterable[str]) -> None:
    for entry in texts:
        if not entry.isascii():
            try:
                entry.encode()
            except UnicodeEncodeError:
                raise ValueError(f"{ascii(entry)[:40]} holds half a surrogate pair") from None


def regular_file(path: Path) -> bool:
    """Whether a path leads to a regular file."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (OSError, ValueError):
        return False
