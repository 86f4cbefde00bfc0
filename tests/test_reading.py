"""The reader of JSON from outside: whatever the bytes are, a value that was asked for or one line, and soon."""

import json
import os
import time

import hypothesis
import hypothesis.strategies as st
import pytest

from dms_jax import reading
from dms_jax.errors import UserError, one_line, shortened
from dms_jax.reading import Mismatch, either, flag, listing, mapping, number, one_of, optional, record, text, whole

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=12,
)


def accepts(check, value):
    try:
        check(value, "it")
    except Mismatch as error:
        assert "\n" not in error.fault and len(error.fault) < 1000
        return False
    return True


def depth_of(value):
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max(map(depth_of, inner), default=0) if isinstance(value, dict | list) else 0


@hypothesis.given(VALUES)
def test_json_comes_back(value):
    assert reading.parse(json.dumps(value).encode(), "it", hint="do so") == value


@hypothesis.given(VALUES, st.data())
def test_any_byte_changed_gives_json_or_one_line(value, data):
    content = bytearray(json.dumps({"a": value}).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = reading.parse(bytes(content), "it", hint="do so")
    except UserError as error:
        assert str(error).startswith("it is not JSON") and str(error).endswith("do so")
        assert "\n" not in str(error) and len(str(error)) < 600
    else:
        json.dumps(found, allow_nan=False).encode()


@hypothesis.given(VALUES, st.integers(-5, 5), st.integers(0, 9))
def test_checks_take_what_they_say_and_nothing_else(value, least, more):
    most = least + more
    is_int = type(value) is int
    assert accepts(whole(least, most), value) == (is_int and least <= value <= most)
    real = type(value) in (int, float)
    assert accepts(number(least, most), value) == (real and least <= value <= most)
    assert accepts(number(least, most, above=True), value) == (real and least < value <= most)
    assert accepts(flag, value) == (type(value) is bool)
    assert accepts(text(3), value) == (isinstance(value, str) and len(value) <= 3)
    assert accepts(optional(flag), value) == (value is None or type(value) is bool)
    assert accepts(one_of(1, "a"), value) == ((is_int and value == 1) or value == "a")
    assert accepts(listing(flag), value) == (isinstance(value, list) and all(type(v) is bool for v in value))
    assert accepts(mapping(flag), value) == (
        isinstance(value, dict) and all(type(v) is bool for v in value.values())
    )  # fmt: skip
    assert accepts(either(flag, text(), title="either"), value) == isinstance(value, bool | str)
    assert accepts(record({"a": flag}), {"a": value, "b": 1}) == (type(value) is bool)
    assert not accepts(record({"a": flag}), {"b": value})
    assert accepts(record({}, {"a": flag}), {"b": value})
    assert not accepts(record({}, {"a": flag}, closed=True), {"b": value})


@pytest.mark.parametrize("content", ["NaN", "[Infinity]", '{"a": -Infinity}', "1e999", '{"a": 1, "a": 2}', '"\\ud800"'])
def test_what_python_takes_and_json_does_not(content):
    with pytest.raises(UserError, match="it is not JSON"):
        reading.parse(content, "it", hint="do so")


@hypothesis.given(st.integers(60, 70), st.booleans())
def test_depth(depth, objects):
    content = '{"a":' * depth + "1" + "}" * depth if objects else "[" * depth + "]" * depth
    if depth <= reading.MOST_DEPTH:
        assert depth_of(reading.parse(content, "it", hint="")) == depth
    else:
        with pytest.raises(UserError, match="deeper than 64 levels"):
            reading.parse(content, "it", hint="")


@pytest.mark.parametrize("depth", [1_000, 100_000, 10_000_000])
def test_no_depth_is_a_crash(depth):
    began = time.monotonic()
    with pytest.raises(UserError, match="is not JSON .*(too deep|deeper)"):
        reading.parse("[" * depth + "]" * depth, "it", hint="do so")
    assert time.monotonic() - began < 5


def test_what_is_no_regular_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    began = time.monotonic()
    for name in ("pipe", ".", "none", "a\0b", "n" * 5000):
        with pytest.raises(UserError, match="cannot be read .*; do so"):
            reading.read_json(tmp_path / name, hint="do so")
    for name in ("/dev/zero", "/dev/null"):
        with pytest.raises(UserError, match="Not a regular file"):
            reading.read_json(name, hint="do so")
    assert time.monotonic() - began < 1


def test_a_large_file_is_not_read(tmp_path):
    with (tmp_path / "large.json").open("wb") as file:
        file.truncate(200 * 2**20)
    began = time.monotonic()
    with pytest.raises(UserError, match="has 209,715,200 bytes, more than the 67,108,864 that are read; do so"):
        reading.read_json(tmp_path / "large.json", hint="do so")
    assert time.monotonic() - began < 1


@hypothesis.given(st.text(max_size=3000), st.integers(30, 700))
def test_messages_are_cut_with_the_count_of_what_is_left_out(message, most):
    short = shortened(message, most)
    assert short == message if len(message) <= most else len(short) < most + 50
    if len(message) > most:
        left_out = int(short.split("... (")[-1].split(" characters")[0].replace(",", ""))
        assert left_out > 0 and short[:10] == message[:10] and short[-10:] == message[-10:]


def test_what_the_system_said_is_not_cut_off():
    try:
        try:
            raise OSError(28, "No space left on device")
        except OSError as cause:
            raise RuntimeError("x" * 5000) from cause
    except RuntimeError as error:
        assert one_line(error, 300).startswith("No space left on device: xxx") and len(one_line(error, 300)) < 350
