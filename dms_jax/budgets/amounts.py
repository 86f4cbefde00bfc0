"""Amounts as people write them: 0.25, 2e6, "30 %", "2MB", "600M", "3ms". Every unit is known here, and nowhere else."""

from __future__ import annotations

import math
import re
from numbers import Real
from typing import NamedTuple, TypeAlias

from dms_jax import checks
from dms_jax.errors import UserError, shortened

Given: TypeAlias = float | str

_DECIMAL = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
_SPELLED = {
    "bytes": {
        **{f"{prefix}B": scale for prefix, scale in _DECIMAL.items()},
        **{f"{prefix}iB": 1024.0 ** (i + 1) for i, prefix in enumerate("KMGT")},
        "KB": 1e3,
    },
    "ms": {"ns": 1e-6, "us": 1e-3, "µs": 1e-3, "ms": 1.0, "s": 1e3},
}
_WRITTEN = re.compile(
    r"\s*([0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?|\.[0-9]+(?:[eE][+-]?[0-9]+)?)\s*(.*?)\s*", re.DOTALL
)


class Amount(NamedTuple):
    """A budget that is understood.

    Attributes:
      value: a share of the full network, or a number in the resource's own unit.
      relative: whether it is a share.
    """

    value: float
    relative: bool


def units(unit: str) -> dict[str, float]:
    """What may stand behind a number of a resource counted in `unit`: text -> how many of that unit it is."""
    if unit in _SPELLED:
        return _SPELLED[unit]
    return {**{p: scale for p, scale in _DECIMAL.items() if p}, **{p + unit: scale for p, scale in _DECIMAL.items()}}


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
        return _plain(name, float(given), given, unit)
    found = _WRITTEN.fullmatch(given) if isinstance(given, str) else None
    if found is None:
        raise _refused(name, given, unit, "is not a positive number")
    number, written = float(found[1]), found[2]
    if not written:
        return _plain(name, number, given, unit)
    if written == "%":
        if not 0 < number <= 100:
            raise _refused(name, given, unit, "is no share above 0 and up to 100 %")
        return Amount(number / 100, relative=True)
    scale = units(unit).get(written)
    if scale is None:
        raise _refused(name, given, unit, f"has the unknown unit {shortened(written, 20)!r}")
    return Amount(_positive(name, number * scale, given, unit), relative=False)


def _plain(name: str, number: float, given: Given, unit: str) -> Amount:
    return Amount(_positive(name, number, given, unit), relative=number <= 1)


def _positive(name: str, number: float, given: Given, unit: str) -> float:
    if not (math.isfinite(number) and number > 0):
        raise _refused(name, given, unit, "is not a positive number")
    return number


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
