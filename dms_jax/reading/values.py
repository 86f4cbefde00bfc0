"""Values as messages show them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dms_jax.errors import shortened

_SHOWN = 60  # characters of a value in a message


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
