"""Command lines that cannot be read: one line that says what was given and what is possible, and no run directory."""

import dataclasses
import functools
import pathlib
import re

import hypothesis
import hypothesis.strategies as st
import pytest

from dms_jax.command_line import parse
from dms_jax.errors import UserError, exit_on_user_error
from experiments import (
    coco_search,
    digits_search,
    fit,
    imagenet_eval,
    imagenet_retrain,
    imagenet_search,
    llama_prune,
    magika_prune,
    mobilenet_prune,
)
from tests.experiments.test_bounds import NEEDED, fields

COMMANDS = [
    *(
        coco_search,
        digits_search,
        fit,
        imagenet_eval,
        imagenet_retrain,
        imagenet_search,
        llama_prune,
        magika_prune,
        mobilenet_prune,
    )
]


@functools.cache
def kinds(module):
    """Flag -> the types that it takes; the file of `fit` has none."""
    return {f"--{name.replace('_', '-')}": types for name, types in fields(module.Config) if name != "file"}


SWITCHED = [module for module in COMMANDS if {bool} in kinds(module).values() and set() in kinds(module).values()]


def refused(module, arguments):
    with pytest.raises(UserError) as caught:
        module.main([*(["network.py"] if module is fit else NEEDED.get(module, [])), *arguments])
    said = str(caught.value)
    assert "\n" not in said and len(said) < 700 and not re.search(r"[\u2500-\u257f]", said), said
    return said


@hypothesis.settings(max_examples=80)
@hypothesis.given(st.sampled_from(COMMANDS), st.data())
def test_a_mistyped_flag_gets_the_one_that_is_meant(module, data):
    flag = data.draw(st.sampled_from(sorted(kinds(module))))
    at = data.draw(st.integers(3, len(flag) - 1))
    slips = [flag[:at] + flag[at + 1 :], flag[:at] + flag[at:].replace(flag[at], 2 * flag[at], 1)]
    slip = data.draw(st.sampled_from([*slips, flag[:at] + flag[at + 1 : at + 2] + flag[at] + flag[at + 2 :]]))
    hypothesis.assume(slip not in kinds(module))
    value = data.draw(st.sampled_from([["=3"], ["=x"], ["", "3"], [""]]))
    said = refused(module, [slip + value[0], *value[1:]])
    meant = re.fullmatch(rf"{slip} is no flag; did you mean (--[a-z-]+)(?: or --[a-z-]+)*\?", said)
    assert meant and (meant[1] == flag or meant[1] in flag or flag in meant[1]), said  # --process and --processes


@hypothesis.settings(max_examples=60)
@hypothesis.given(st.sampled_from(COMMANDS), st.data())
def test_what_is_no_value_of_a_flag_is_one_line_with_the_flag(module, data):
    numbers = [flag for flag, types in kinds(module).items() if types & {int, float} and str not in types]
    others = [flag for flag, types in kinds(module).items() if not types]  # one of a few words
    flag = data.draw(st.sampled_from([*numbers, *others]))
    text = data.draw(st.text("abcxyz.,;:!?()[]{}'\" ", min_size=1, max_size=12))
    said = refused(module, [f"{flag}={text}"] if data.draw(st.booleans()) else [flag, text])
    assert flag in said
    if flag in numbers:
        assert said.startswith(f"{flag} {ascii(text)} is not possible; give a"), said


@hypothesis.settings(max_examples=15)
@hypothesis.given(st.sampled_from(SWITCHED), st.data())
def test_a_switch_that_is_turned_off_is_not_what_is_wrong(module, data):
    flag = data.draw(st.sampled_from(sorted(flag for flag, types in kinds(module).items() if not types)))
    off = data.draw(
        st.sampled_from(sorted(f"--no-{flag[2:]}" for flag, types in kinds(module).items() if types == {bool}))
    )
    said = refused(module, data.draw(st.permutations([off, f"{flag}=nonsense"])))
    assert f"'{flag}'" in said and "is no flag" not in said
    said = refused(module, [off[:-1], f"{flag}=nonsense"])
    assert said.startswith(f"{off[:-1]} is no flag; did you mean {off}")


@pytest.mark.parametrize(
    "arguments", [["foo"], ["-x"], ["--steps"], ["--zzzz"], ["--", "--x"], ["--min-size", "a"], [""]]
)
def test_other_lines_that_cannot_be_read(arguments, tmp_path, capsys):
    refused(digits_search, arguments)
    with pytest.raises(SystemExit) as stop:
        exit_on_user_error(digits_search.main)([f"--workdir={tmp_path / 'run'}", *arguments])
    assert stop.value.code == 2 and capsys.readouterr().err.count("\n") == 1 and not list(tmp_path.iterdir())


@hypothesis.settings(max_examples=40)
@hypothesis.given(st.sampled_from(COMMANDS), st.data())
def test_a_flag_behind_a_dash_of_an_editor_gets_the_one_that_is_meant(module, data):
    flag = data.draw(st.sampled_from(sorted(kinds(module))))
    dash = data.draw(st.sampled_from(["\u2013", "\u2014", "\u2013-", "\u2212\u2212", "\u2010\u2010"]))
    said = refused(module, [f"{dash}{flag[2:]}=3"])
    assert said.isascii() and re.search(rf"is no flag; did you mean {flag}( or [-a-z ]+)?\?$", said), said


@pytest.mark.parametrize("module", COMMANDS)
def test_an_empty_path_is_none_of_a_shell_variable_that_is_not_set(module, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for flag in (flag for flag, types in kinds(module).items() if pathlib.Path in types):
        for arguments in ([f"{flag}="], [flag, ""]):
            said = refused(module, arguments)
            assert said == (
                f"{flag} '' is not possible; "
                "give a path, such as runs/first; . is the current directory, ~ a known home"
            )
    assert not list(tmp_path.iterdir())


def test_a_tilde_behind_a_flag_is_the_home_directory(monkeypatch, tmp_path):
    flags = dataclasses.make_dataclass("Flags", [("there", pathlib.Path), ("maybe", pathlib.Path | None, None)])
    monkeypatch.setenv("HOME", str(tmp_path))
    read = parse(flags, ["--there=~/a", "--maybe", "~"])
    assert (read.there, read.maybe) == (tmp_path / "a", tmp_path)
    assert parse(flags, ["--there=a~/~"]).there == pathlib.Path("a~/~") and parse(flags, ["--there=."]).maybe is None
    for flag in ("--there", "--maybe"):
        with pytest.raises(UserError, match=f"^{flag} '~nobody-of-this-name/a' is not possible; .* known home$"):
            parse(flags, ["--there=~/a", f"{flag}=~nobody-of-this-name/a"])


def test_a_missing_flag_is_named():
    with pytest.raises(UserError, match=r"^Missing .*--structure .*; --help says what each flag takes$"):
        imagenet_retrain.main([])
    with pytest.raises(UserError, match=r"^--structur is no flag; did you mean --structure\?$"):
        imagenet_retrain.main(["--structur=x"])


def test_a_function_runs_after_its_line_was_read(capsys):
    def what(number: int, *, word: str = "none") -> str:
        print(word)
        raise SystemExit(number)

    with pytest.raises(SystemExit) as stop:
        parse(what, ["--number=2", "--word=said"])
    assert stop.value.code == 2 and capsys.readouterr().out == "said\n"
    assert parse(dataclasses.make_dataclass("Flags", [("number", int)]), ["--number=2"]).number == 2


def test_the_help_is_what_it_was(capsys):
    with pytest.raises(SystemExit) as stop:
        digits_search.main(["--help"])
    assert stop.value.code == 0 and "--macs" in capsys.readouterr().out
