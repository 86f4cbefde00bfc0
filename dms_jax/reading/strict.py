"""JSON as its standard has it: nothing else is taken for it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any

from dms_jax.errors import shortened
from dms_jax.reading.values import shown

MOST_DEPTH = 64
"""Of lists and objects inside each other."""


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
