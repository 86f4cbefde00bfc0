"""What a value should be: checks that say what is there instead."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from dms_jax.reading.values import shown

Check: TypeAlias = Callable[[Any, str], None]


class Mismatch(Exception):
    """A value is not what it should be; `fault` says so without a source."""

    def __init__(self, fault: str):
        self.fault = fault
        super().__init__(fault)


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
        count = f"{least:,} to {most:,}" if least < most else f"{most:,}"
        _expect(least <= len(value) <= most, value, where, f"{count} items")
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


def _expect(right: bool, value: Any, where: str, expected: str) -> None:
    if not right:
        raise Mismatch(f"{where.strip('.') or 'it'} is {shown(value)}, not {expected}")
