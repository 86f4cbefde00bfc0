"""Checks of what a user gives, each an error of one line: what was given, what is possible."""

from __future__ import annotations

import math
import operator
from typing import Any

from dms_jax.errors import UserError

_OPEN = {"(": operator.gt, "[": operator.ge}
_CLOSE = {")": operator.lt, "]": operator.le}


def whole(what: str, value: Any, least: int, of: str = "") -> int:
    """A whole number of at least `least`, or an error: "`what` `value` `of` is not possible".

    Raises:
      UserError: it is something else.
    """
    number = None if isinstance(value, bool) else getattr(value, "__index__", lambda: None)()
    if number is None or number < least:
        raise UserError(f"{what} {value!r}{of and ' ' + of} is not possible; give a whole number of at least {least}")
    return number


def number(what: str, value: Any, interval: str, of: str = "") -> float:
    """A number in an interval, `"[0, 1)"` or `"(0, inf)"`, or an error: "`what` `value` `of` is not possible".

    Raises:
      UserError: it is something else, or lies outside.
    """
    low, high = (float(end) for end in interval[1:-1].split(","))
    if isinstance(value, bool | str) or not hasattr(value, "__float__"):
        raise UserError(f"{what} {value!r}{of and ' ' + of} is not possible; give a number in {interval}")
    given = float(value)
    if math.isnan(given) or not (_OPEN[interval[0]](given, low) and _CLOSE[interval[-1]](given, high)):
        raise UserError(f"{what} {value}{of and ' ' + of} is not possible; give a number in {interval}")
    return given


def flag(what: str, value: Any) -> bool:
    """True or False, or an error: "`what` `value` is not possible".

    Raises:
      UserError: it is something else.
    """
    if not isinstance(value, bool):
        raise UserError(f"{what} {value!r} is not possible; give True or False")
    return value


def digits(text: str) -> bool:
    """Whether a text is a whole number in the digits 0 to 9, which `int` alone would read in any script."""
    return text.isascii() and text.isdecimal()
