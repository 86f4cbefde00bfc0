"""Amounts as people write them."""

import math
from fractions import Fraction

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from dms_jax import UserError
from dms_jax.budgets.amounts import amount, is_unit, same, units

UNITS = ("MACs", "parameters", "bytes", "ms", "mJ")


@pytest.mark.parametrize(
    "given, unit, value, relative",
    [
        (0.25, "MACs", 0.25, True),
        (1, "MACs", 1.0, True),
        (np.float32(0.5), "MACs", 0.5, True),
        (np.int64(2**40), "MACs", 2.0**40, False),
        ("0.25", "MACs", 0.25, True),
        ("30 %", "bytes", 0.3, True),
        ("600M", "MACs", 6e8, False),
        ("1.5 GMACs", "MACs", 1.5e9, False),
        ("2e6", "parameters", 2e6, False),
        ("2MB", "bytes", 2e6, False),
        ("2 MiB", "bytes", 2.0 * 2**20, False),
        ("1B", "bytes", 1.0, False),  # with a unit it is no share
        ("3ms", "ms", 3.0, False),
        ("500us", "ms", 0.5, False),
        ("0.8 mJ", "mJ", 0.8, False),
    ],
)
def test_readings(given, unit, value, relative):
    found = amount("it", given, unit)
    assert found.relative is relative and found.value == pytest.approx(value, rel=1e-12)


@hypothesis.given(st.floats(1e-6, 1e12), st.sampled_from(UNITS), st.data())
def test_every_unit_is_read_as_it_is_offered(number, unit, data):
    written = data.draw(st.sampled_from(sorted(units(unit))))
    space = data.draw(st.sampled_from(["", " "]))
    found = amount("it", f"{number!r}{space}{written}", unit)
    assert not found.relative and found.value == pytest.approx(number * units(unit)[written])


@pytest.mark.parametrize(
    "given",
    [0, -1, -0.5, math.nan, math.inf, True, None, [1], "", "MB", "-2MB", "nan", "0MB", "1e999", 10**400, "1e999999999"],
)
def test_what_is_no_positive_number(given):
    with pytest.raises(UserError, match=r"^budget .* of weights is not a positive number; give a fraction .* MB, GB"):
        amount("weights", given, "bytes")


@pytest.mark.parametrize(
    "given, unit, strange", [("2MQ", "bytes", "MQ"), ("3 ms", "bytes", "ms"), ("5kB", "MACs", "kB")]
)
def test_units_that_a_resource_does_not_have_are_named(given, unit, strange):
    with pytest.raises(UserError, match=f"has the unknown unit '{strange}'; give .*{sorted(units(unit))[0]}"):
        amount("it", given, unit)


@pytest.mark.parametrize("given", ["0 %", "101 %", "1e9%"])
def test_shares_above_the_whole(given):
    with pytest.raises(UserError, match="no share above 0 and up to 100 %"):
        amount("it", given, "MACs")


@hypothesis.given(st.text(max_size=12), st.sampled_from(UNITS))
def test_any_text_is_an_amount_or_an_error_of_one_line(text, unit):
    try:
        assert amount("it", text, unit).value > 0
    except UserError as error:
        assert len(str(error)) < 300


@hypothesis.given(st.integers(1, 10**7), st.integers(0, 6), st.sampled_from(["", "k", "M", "G", "T"]))
def test_decimals_are_what_they_say(digits, places, prefix):
    """8.2MB is 8,200,000 bytes; 8.2 * 1e6 is less by the last digit."""
    written = f"{digits // 10**places}.{digits % 10**places:0{places}d}" if places else str(digits)
    exact = Fraction(digits, 10**places) * {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}[prefix]
    assert amount("it", f"{written} {prefix}B", "bytes") == (exact, False)
    if (share := Fraction(digits, 10**places)) <= 100:
        assert amount("it", f"{written}%", "MACs") == (share / 100, True)


@hypothesis.given(st.integers(1, 9999), st.integers(1, 10**7))
def test_a_share_of_a_whole_number_is_not_short_of_it(share, full):
    """0.57 of 10,000 is 5,700, and not one less."""
    for given in (share / 10**4, str(share / 10**4), f"{share / 100} %", np.float64(share / 10**4)):
        assert amount("macs", given, "MACs").value * full == Fraction(share, 10**4) * full


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        (0.25, "25 %", True),
        (0.123, "12.3%", True),
        (1 / 3, str(1 / 3), True),
        (2e6, "2M", True),
        (2000000, "2 MMACs", True),
        ("2M", "2 MMACs", True),
        ("2MB", "2 MB", True),
        ("2MB", "2000kB", True),
        ("4KiB", "4096B", True),
        ("6kB", 6000, True),
        ("3ms", "3000 us", True),
        ("1s", 1000, True),  # of milliseconds
        ("40 mJ", "40mJ", True),
        ("2MB", "2MiB", False),
        ("2MB", "2M", False),  # no amount of bytes
        ("3ms", "3 mJ", False),
        ("3ms", 3000, False),
        (1, "1B", False),  # all of it, and one byte
        ("what", "what ", False),
    ],
)
def test_amounts_are_the_same_however_they_are_written(one, other, equal):
    assert same(one, other) is same(other, one) is equal and same(one, one)


@hypothesis.given(st.text(max_size=5))
@hypothesis.example("bytes")
@hypothesis.example("ms")
def test_what_is_a_unit_can_be_written_behind_a_number(unit):
    if is_unit(unit):
        assert amount("it", f"5 {unit}", unit).value == 5 and "%" != unit == unit.strip()


@pytest.mark.parametrize("unit", ["%", "k", "M", "", " ", " mJ", "mJ ", "e3", "5x", "\n", "x" * 33, None, 3])
def test_what_is_no_unit(unit):
    assert not is_unit(unit)
