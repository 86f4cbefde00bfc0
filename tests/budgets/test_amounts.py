"""Amounts as people write them."""

import math

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from dms_jax import UserError
from dms_jax.budgets.amounts import amount, units

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
    "given", [0, -1, -0.5, math.nan, math.inf, True, None, [1], "", "MB", "-2MB", "nan", "0MB", "1e999"]
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
