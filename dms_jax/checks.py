"""Checks of what a user gives, each an error of one line: what was given, what is possible."""

from __future__ import annotations

import inspect
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from dms_jax.errors import UserError
from dms_jax.reading import shown

_OPEN = {"(": operator.gt, "[": operator.ge}
_CLOSE = {")": operator.lt, "]": operator.le}


def whole(what: str, value: Any, least: int, of: str = "") -> int:
    """A whole number of at least `least`, or an error: "`what` `value` `of` is not possible".

    Raises:
      UserError: it is something else.
    """
    number = _index(value)
    if number is None or number < least:
        raise UserError(
            f"{what} {shown(value)}{of and ' ' + of} is not possible; give a whole number of at least {least}"
        )
    return number


def number(what: str, value: Any, interval: str, of: str = "") -> float:
    """A number in an interval, `"[0, 1)"` or `"(0, inf)"`, or an error: "`what` `value` `of` is not possible".

    Raises:
      UserError: it is something else, or lies outside.
    """
    low, high = (float(end) for end in interval[1:-1].split(","))
    given = _float(value)
    if given is None:
        raise UserError(f"{what} {shown(value)}{of and ' ' + of} is not possible; give a number in {interval}")
    if math.isnan(given) or not (_OPEN[interval[0]](given, low) and _CLOSE[interval[-1]](given, high)):
        raise UserError(f"{what} {value}{of and ' ' + of} is not possible; give a number in {interval}")
    return given


def flag(what: str, value: Any) -> bool:
    """True or False, or an error: "`what` `value` is not possible".

    Raises:
      UserError: it is something else.
    """
    if not isinstance(value, bool):
        raise UserError(f"{what} {shown(value)} is not possible; give True or False")
    return value


def one_of(what: str, value: Any, *possible: str) -> str:
    """One of some words, or an error: "`what` `value` is not possible".

    Raises:
      UserError: it is something else.
    """
    if not isinstance(value, str) or value not in possible:
        raise UserError(f"{what} {shown(value)} is not possible; give {' or '.join(map(repr, possible))}")
    return value


def patterns(what: str, value: Any) -> tuple[str, ...]:
    """Glob patterns: one of them, or several.

    Raises:
      UserError: it is something else.
    """
    several = (value,) if isinstance(value, str) else value
    if not isinstance(several, Sequence) or not all(isinstance(pattern, str) for pattern in several):
        raise UserError(f'{what} {shown(value)} is not possible; give patterns on names: ("stage1/*", "stem")')
    return tuple(several)


def function(what: str, value: Any) -> Callable[..., Any]:
    """A function, or an error: "`what` `value` cannot be called".

    Raises:
      UserError: it cannot be called.
    """
    if not callable(value):
        raise UserError(f"{what} {shown(value)} cannot be called; give a function")
    return value


def called(what: str, value: Any, *names: str) -> Callable[..., Any]:
    """A function of so many arguments, or an error: "`what` takes (x); it is called as `what`(fn, params)".

    Raises:
      UserError: it cannot be called, or not with these.
    """
    function(what, value)
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):  # a function without a signature to look at
        return value
    try:
        signature.bind(*names)
    except TypeError:
        raise UserError(f"{what} takes {signature}; it is called as {what}({', '.join(names)})") from None
    return value


def by_name(what: str, value: Any, such_as: str) -> Mapping[str, Any]:
    """A mapping from names, or an error that shows one.

    Raises:
      UserError: it is something else.
    """
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise UserError(f"{what} {shown(value)} is not possible; give names with what they stand for: {such_as}")
    return value


def _index(value: Any) -> int | None:
    try:
        return None if isinstance(value, bool | np.bool_) else operator.index(value)
    except TypeError:
        return None


def _float(value: Any) -> float | None:
    if isinstance(value, bool | np.bool_ | str | bytes) or not hasattr(value, "__float__"):
        return None
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def digits(text: str) -> bool:
    """Whether a text is a whole number in the digits 0 to 9, which `int` alone would read in any script."""
    return text.isascii() and text.isdecimal()
