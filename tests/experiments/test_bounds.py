"""Flags: every number has a range, and what is out of it is refused before a run directory is claimed."""

import dataclasses
import math
import re
import sys
import types
import typing
import unicodedata
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import pytest
import tyro

from dms_jax.command_line import parse
from dms_jax.errors import UserError, exit_on_user_error
from dms_jax.method.dms import DMS
from experiments import (
    bounds,
    coco_search,
    digits_search,
    fit,
    imagenet_eval,
    imagenet_retrain,
    imagenet_search,
    llama_memory,
    llama_prune,
    magika_prune,
    mobilenet_prune,
)
from experiments.flags import Searching

COMMANDS = {
    m.__name__: m
    for m in (
        coco_search,
        digits_search,
        imagenet_search,
        imagenet_retrain,
        llama_prune,
        llama_memory,
        magika_prune,
        mobilenet_prune,
    )
}
NEEDED = {imagenet_retrain: ["--structure=none"], imagenet_eval: ["--weights=none"], llama_memory: ["--model=none"]}


def fields(config):
    """name -> its types, of a configuration and those inside it."""
    hints = typing.get_type_hints(config)
    for field in dataclasses.fields(config):
        kind = hints[field.name]
        if dataclasses.is_dataclass(kind):
            yield from fields(kind)
        else:
            yield field.name, set(flat(kind))


def flat(kind):
    inner = typing.get_args(kind)
    if typing.get_origin(kind) in (typing.Union, types.UnionType, tuple, dict):
        for one in inner:
            yield from flat(one)
    elif typing.get_origin(kind) is not typing.Literal:
        yield kind


NUMBERS = {
    module: {name: float in kinds for name, kinds in fields(module.Config) if kinds & {int, float}}
    for module in (*COMMANDS.values(), imagenet_eval)
}


@pytest.mark.parametrize("module", NUMBERS, ids=lambda m: m.__name__)
def test_every_number_of_every_command_has_a_range(module):
    assert set(NUMBERS[module]) <= set(bounds.BOUNDS) | bounds.OF_THE_SEARCH
    assert NUMBERS[module]
    bounds.check(tyro.cli(module.Config, args=NEEDED.get(module, [])))  # and what is given by default is within it


@st.composite
def flags(draw):
    """A command, one of its numbers, and a value out of its range."""
    module = draw(st.sampled_from(list(NUMBERS)))
    name = draw(st.sampled_from(sorted(set(NUMBERS[module]) - bounds.OF_THE_SEARCH)))
    limits, real = bounds.BOUNDS[name], NUMBERS[module][name]
    wrong = [limits.least - 1, limits.most * 2 + 1, 10**22 + 7, -(10**22), -(2**63), 2**63]
    wrong += [math.nan, math.inf, -math.inf, -1e-9, limits.most * 1.000001 + 1e-9, 1e300] if real else []
    wrong += [limits.least] if limits.above else []
    value = draw(st.sampled_from(wrong))
    value = float(value) if real else int(value)
    hypothesis.assume(not limits.holds(value))
    return module, name, value


@hypothesis.settings(max_examples=60, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
@hypothesis.given(flags())
def test_numbers_out_of_range_leave_no_directory(tmp_path, drawn):
    module, name, value = drawn
    flag = f"--{name.replace('_', '-')}"
    pair = [flag, "*", str(value)] if name == "min_size" else [f"{flag}={value}"]
    pair = [flag, str(value)] if name == "latency_batches" and value >= 0 else pair
    where = [f"--workdir={tmp_path / 'run'}"] if "workdir" in dict(fields(module.Config)) else []
    where += [f"--pretrained={tmp_path / 'cache'}"] if module is llama_prune else []
    with pytest.raises(UserError) as caught:
        module.main([*NEEDED.get(module, []), *where, *pair])
    looks_like_a_flag = "--help says what each flag takes" in str(caught.value)  # a negative number by itself
    assert looks_like_a_flag or re.match(rf"{flag} \S+ is not possible; give a", str(caught.value)), str(caught.value)
    assert len(str(caught.value)) < 300 and "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


_DIGITS = [chr(code) for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code)) == "Nd"]
_FOREIGN = st.sampled_from([digit for digit in _DIGITS if not digit.isascii()])


@st.composite
def unusual(draw):
    """What int() or float() reads, and nobody writes: foreign and fullwidth digits, underscores, blanks."""
    plain = draw(st.integers(1, 9999).map(str))
    at = draw(st.integers(0, len(plain)))
    blank = draw(st.sampled_from([" ", "\t", "\n", "\u00a0", "\u2003", "\u3000"]))
    foreign = "".join(draw(_FOREIGN) if draw(st.booleans()) else digit for digit in plain[:-1]) + draw(_FOREIGN)
    mixed = plain[:at] + draw(_FOREIGN) + plain[at:]
    return draw(st.sampled_from([foreign, mixed, plain[:1] + "_" + plain, blank + plain, plain + blank]))


@hypothesis.settings(max_examples=200, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
@hypothesis.given(st.sampled_from([*NUMBERS, fit]), st.data())
def test_numbers_are_written_in_ascii_digits(tmp_path, module, data):
    numbers = {name for name, kinds in fields(module.Config) if kinds & {int, float}}
    flag = f"--{data.draw(st.sampled_from(sorted(numbers))).replace('_', '-')}"
    value = data.draw(unusual())
    assert int(value) == float(value) >= 0  # Python reads it
    inside = {"--min-size", "--divisible-by"}
    given = [flag, "*", value] if flag in inside else [flag, value] if data.draw(st.booleans()) else [f"{flag}={value}"]
    where = [f"--workdir={tmp_path / 'run'}"] if "workdir" in dict(fields(module.Config)) else []
    needed = ["network.py"] if module is fit else NEEDED.get(module, [])
    with pytest.raises(UserError) as caught:
        module.main([*needed, *where, *given])
    said = str(caught.value)
    assert said.startswith(f"{flag} {ascii(value)} is not possible; give a") and "in the digits 0 to 9" in said
    assert "\n" not in said and not list(tmp_path.iterdir())


@hypothesis.settings(max_examples=100)
@hypothesis.given(st.integers(-(10**30), 10**30), st.floats(allow_nan=False, allow_infinity=False), unusual())
def test_usual_numbers_and_any_texts_are_taken(whole, real, text):
    made = dataclasses.make_dataclass(
        "Flags", [("whole", int), ("real", float | None), ("text", str), ("pairs", dict[str, int])]
    )
    read = parse(made, [f"--whole={whole}", f"--real={real!r}", f"--text={text}", "--pairs", text, str(whole)])
    assert read == made(whole, real, text, {text: whole})
    assert parse(made, ["--whole=1", "--real=None", "--text", text, "--pairs", text, "1"]).real is None
    with pytest.raises(UserError, match=r"^the value .* is not possible"):  # two flags have the same
        parse(made, ["--whole", text, "--text", text, "--real=1", "--pairs", "a", "1"])


def test_every_command_line_is_read_by_one_parser():
    root = Path(bounds.__file__).parents[1]
    files = [file for folder in ("dms_jax", "experiments") for file in (root / folder).rglob("*.py")]
    reading = {file.name for file in files if re.search(r"tyro\.cli|argparse", file.read_text())}
    assert reading == {"command_line.py"}


def test_an_unusual_number_ends_the_program_with_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        exit_on_user_error(digits_search.main)(["--batch=\u0663", f"--workdir={tmp_path / 'run'}"])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and not list(tmp_path.iterdir())
    assert said == "error: --batch '\\u0663' is not possible; give a whole number in the digits 0 to 9, such as 64\n"


@pytest.mark.parametrize("value", ["0", "-3", "nan", "inf", "1e300"])
@pytest.mark.parametrize("flag", ["--macs=", "--params=", "--ratio-rate="])
def test_numbers_that_the_search_refuses_leave_no_directory(flag, value, tmp_path):
    if (flag, value) == ("--ratio-rate=", "1e300"):
        pytest.skip("is a rate")
    with pytest.raises(UserError):
        digits_search.main([f"{flag}{value}", f"--workdir={tmp_path / 'run'}"])
    assert not list(tmp_path.iterdir())


@hypothesis.settings(max_examples=150)
@hypothesis.given(st.sampled_from(sorted(bounds.BOUNDS)), st.floats(0, 1))
def test_numbers_within_are_taken(name, share):
    limits = bounds.BOUNDS[name]
    value = limits.least + share * (limits.most - limits.least)
    value = value if name in ("epochs",) or limits.most <= 1 else round(value)
    hypothesis.assume(limits.holds(value))
    made = dataclasses.make_dataclass("Config", [(name, float)])
    bounds.check(made(value))


@pytest.mark.parametrize("value", ["a\0b", "x" * 5000, "\udcff"])
def test_texts_that_name_no_file(value):
    with pytest.raises(UserError, match="--workdir .* is not possible"):
        bounds.check(dataclasses.make_dataclass("Config", [("workdir", str)])(value))


def test_flags_that_contradict_a_search_on_its_target(tmp_path):
    with pytest.raises(UserError, match="leave `on_target` out"):
        digits_search.main(["--strategy=single", "--ratio-on-target", f"--workdir={tmp_path / 'run'}"])
    for value, message in (("0.5", "leave `slack` out"), ("0", "slack 0.0 around the target"), ("nan", "slack nan")):
        with pytest.raises(UserError, match=message):
            digits_search.main(["--strategy=single", f"--ratio-slack={value}", f"--workdir={tmp_path / 'run'}"])
    assert not list(tmp_path.iterdir())


def test_a_job_from_before_searches_had_a_slack_is_the_one_without():
    assert Searching().identity["ratio_slack"] == DMS().slack == Searching().chosen.slack
    assert Searching(ratio_slack=0.2).identity["ratio_slack"] == 0.2
    assert Searching(ratio_slack=math.inf).chosen.slack == math.inf
    for without in (Searching(ratio_slack=math.inf), Searching(strategy="single"), Searching(ratio_on_target=True)):
        assert "ratio_slack" not in without.identity
