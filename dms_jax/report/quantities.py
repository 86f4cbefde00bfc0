"""Numbers and texts as people read them: counts, shares, accuracies, times."""

import math

from dms_jax.explanation import exactly

NARROW_SPACE = "\u202f"  # these two do not break a line: a number stays with its unit
WIDE_SPACE = "\u00a0"


def count(value: float) -> str:
    """Returns a count with three significant digits and a decimal prefix: 40812345 -> `40.8 M`."""
    for size, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        # 999,950 rounds to 1.00 M, not to 1000 k
        if abs(value) >= 0.9995 * size:
            return f"{_three_digits(value / size)}{NARROW_SPACE}{prefix}"
    return f"{value:,.0f}" if float(value).is_integer() else _three_digits(value)


def exact(value: float, of: str) -> str:
    """Returns every digit of a count with what it is of: `40,812,345 MACs`."""
    return f"{exactly(value)} {of}"


def share(fraction: float) -> str:
    """Returns a fraction as a percentage with three significant digits: 0.0398 -> `3.98 %`."""
    return f"{_three_digits(100 * fraction)}{NARROW_SPACE}%"


def quality(value: float | None, standard_error: float | None, unit: str) -> str:
    """Returns what a network reaches in its unit, with the standard error where there is one; "%" takes fractions."""
    if value is None:
        return "–"
    scale, digits = (100, 2) if unit == "%" else (1, 3)
    error = "" if standard_error is None else f"{WIDE_SPACE}±{WIDE_SPACE}{scale * standard_error:.{digits}f}"
    return f"{scale * value:.{digits}f}{error}{NARROW_SPACE}{unit}".rstrip(NARROW_SPACE)


def milliseconds(value: float | None) -> str:
    """Returns a time in milliseconds with three significant digits, without its unit."""
    return "–" if value is None else _three_digits(value)


def duration(seconds: float) -> str:
    """Returns a time span in its two largest units: 192.4 -> `3 min 12 s`."""
    if seconds < 59.95:  # which would round to 60.0
        return f"{seconds:.1f} s"
    whole = round(seconds)
    hours, rest = divmod(whole, 3600)
    if hours:
        return f"{hours} h {rest // 60} min"
    return f"{whole // 60} min {whole % 60} s"


def without_controls(text: str) -> str:
    """Returns a text with a replacement character for every character that cannot be shown."""
    shown = (
        c if c.isprintable() or c in f"\n{NARROW_SPACE}{WIDE_SPACE}" else "\N{REPLACEMENT CHARACTER}" for c in text
    )
    return "".join(shown)


def _three_digits(value: float) -> str:
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    # the digits before the point are counted after rounding: 9.996 is 10.0, not 10.00
    whole_digits = math.floor(math.log10(abs(float(f"{value:.2e}")))) + 1
    return f"{value:,.{min(max(0, 3 - whole_digits), 6)}f}"
