"""Amounts as people write them: 0.25, 2e6, "30 %", "2MB", "600M", "3ms". Every unit is known here, and nowhere else."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from fractions import Fraction
from numbers import Integral, Real
from typing import NamedTuple, TypeAlias

from dms_jax import checks
from dms_jax.errors import UserError, shortened

Given: TypeAlias = float | str

_DECIMAL = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_SPELLED: dict[str, dict[str, int | Fraction]] = {
    "bytes": {
        **{f"{prefix}B": scale for prefix, scale in _DECIMAL.items()},
        **{f"{prefix}iB": 1024 ** (i + 1) for i, prefix in enumerate("KMGT")},
        "KB": 10**3,
        "bytes": 1,
    },
    "ms": {"ns": Fraction(1, 10**6), "us": Fraction(1, 10**3), "µs": Fraction(1, 10**3), "ms": 1, "s": 10**3},
}
_MOST = 1e30  # no network has as much of anything
_WRITTEN = re.compile(
    r"\s*([0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?|\.[0-9]+(?:[eE][+-]?[0-9]+)?)\s*(.*?)\s*", re.DOTALL
)


class Amount(NamedTuple):
    """A budget that is understood.

    Attributes:
      value: a share of the full network, or a number in the resource's own unit; exactly what was written, so that
        0.57 of 10,000 is 5,700, and "8.2MB" 8,200,000 bytes.
      relative: whether it is a share.
    """

    value: Fraction
    relative: bool


def units(unit: str) -> Mapping[str, int | Fraction]:
    """What may stand behind a number of a resource counted in `unit`: text -> how many of that unit it is."""
    if unit in _SPELLED:
        return _SPELLED[unit]
    return {**{p: scale for p, scale in _DECIMAL.items() if p}, **{p + unit: scale for p, scale in _DECIMAL.items()}}


def is_unit(unit: object) -> bool:
    """Whether amounts can be written in a unit of one's own and read again: "3 mJ", but not in % and no "3 k"."""
    if not isinstance(unit, str) or not 0 < len(unit) <= 32 or unit != unit.strip() or unit in _DECIMAL:
        return False
    if unit in _SPELLED or not unit.isprintable():
        return unit in _SPELLED
    try:
        return amount("one", f"3{unit}", unit) == amount("one", f"3 {unit}", unit) == (3, False)
    except UserError:
        return False


def amount(name: str, given: Given, unit: str, possible: str = "") -> Amount:
    """Read a budget.

    Args:
      name: of the resource, for errors.
      given: a share of the full network in (0, 1] or a number of units above 1; or a text: such a number, "30 %", or
        a number with a unit, which is no share however small it is.
      unit: what the resource is counted in.
      possible: for errors, what can be reached: "from 2,118 to 2,551,424".

    Raises:
      UserError: no positive number, a share above 100 %, or a unit that the resource does not have.
    """
    try:
        return _read(name, given, unit)
    except UserError as error:
        raise UserError(f"{error}; {possible}" if possible else str(error)) from None


def _read(name: str, given: Given, unit: str) -> Amount:
    if isinstance(given, Real) and not isinstance(given, bool):
        return _plain(name, given, given, unit)
    found = _WRITTEN.fullmatch(given) if isinstance(given, str) else None
    if found is None:
        raise _refused(name, given, unit, "is not a positive number")
    number, written = found[1], found[2]
    if not written:
        return _plain(name, number, given, unit)
    if written == "%":
        share = _exactly(number)
        if share is None or share > 100:
            raise _refused(name, given, unit, "is no share above 0 and up to 100 %")
        return Amount(share / 100, relative=True)
    scale = units(unit).get(written)
    if scale is None:
        raise _refused(name, given, unit, f"has the unknown unit {shortened(written, 20)!r}")
    return Amount(_positive(name, number, given, unit) * scale, relative=False)


def _plain(name: str, number: Real | str, given: Given, unit: str) -> Amount:
    value = _positive(name, number, given, unit)
    return Amount(value, relative=value <= 1)


def _positive(name: str, number: Real | str, given: Given, unit: str) -> Fraction:
    value = _exactly(number)
    if value is None:
        raise _refused(name, given, unit, "is not a positive number")
    return value


def _exactly(number: Real | str) -> Fraction | None:
    """A positive number as it is written, in decimals; None where it is none, or above all that there is."""
    try:
        rough = float(number)  # before a text of few letters becomes an integer of a thousand million digits
    except OverflowError:
        return None
    if not 0 < rough < _MOST:
        return None
    return Fraction(int(number)) if isinstance(number, Integral) else Fraction(str(number))


def same(one: Given, other: Given) -> bool:
    """Whether two amounts of one resource are equal, however they are written: "2MB", "2 MB", 2e6; 0.25 and "25 %".

    What the resource is counted in is not known here. It is a unit that both can be written in.
    """
    if str(one) == str(other):
        return True
    readable = [_readable(amount) for amount in (one, other)]
    known = [units for units in readable if units is not None]
    both = set.intersection(*known) if known else {""}
    return any(_equal(one, other, unit) for unit in both)


def _readable(given: Given) -> set[str] | None:
    """The units of resources that what is written behind a number may be of; None where any may: "2M", "30 %", "3"."""
    found = _WRITTEN.fullmatch(given) if isinstance(given, str) else None
    if found is None or found[2] in ("%", *_DECIMAL):
        return None
    written = found[2]
    spelled = {unit for unit, texts in _SPELLED.items() if written in texts}
    return spelled or {written, *([written[1:]] if written[0] in _DECIMAL else [])}


def _equal(one: Given, other: Given, unit: str) -> bool:
    try:
        a, b = amount("size", one, unit), amount("size", other, unit)
    except UserError:
        return False
    return a.relative == b.relative and math.isclose(a.value, b.value, rel_tol=1e-9)  # a share of 1 / 3 has no decimals


def _refused(name: str, given: object, unit: str, why: str) -> UserError:
    shown = shortened(given, 40) if isinstance(given, str) else checks.shown(given)
    known = units(unit) if unit in _SPELLED else [*filter(None, _DECIMAL), unit]
    what = unit if _alike(name, unit) else name
    return UserError(
        f"budget {shown} of {what} {why}; give a fraction such as 0.25, a number of {unit} above 1, or a "
        f'text with a unit: "30 %", {", ".join(known)}'
    )


def words(name: str, unit: str) -> str:
    """What stands behind a number of a resource: `MACs`, `parameters`, `bytes of weights`."""
    return unit if _alike(name, unit) else f"{unit} of {name}"


def _alike(name: str, unit: str) -> bool:
    return unit[:3].lower() == name[:3].lower()
