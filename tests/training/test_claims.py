"""Whose a run directory is: one job's, and one process's at a time."""

import contextlib
import fcntl
import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest

from dms_jax import files as storage
from dms_jax.errors import Interrupted, UserError
from dms_jax.training import claims
from dms_jax.training.metrics import FILE
from dms_jax.training.runs import Run
from tests.faults import job

ROOT = Path(__file__).parents[2]
CONFIG = {"experiment": "toy", "steps": 9, "budget": {"macs": 0.5}, "keep": ("a", "b"), "none": None}


def test_the_same_job_goes_on_and_makes_its_directory(tmp_path):
    for _ in range(2):
        assert Run(tmp_path / "a" / "b", CONFIG).results is None
    assert json.loads((tmp_path / "a" / "b" / "config.json").read_text())["keep"] == ["a", "b"]


@pytest.mark.parametrize(
    "other, named",
    [
        (CONFIG | {"steps": 10}, ["steps 9 there, 10 asked"]),
        (CONFIG | {"experiment": "b", "budget": {"params": 0.5}}, ["'toy' there, 'b' asked", "budget {'macs'"]),
        (CONFIG | {"new": 1}, ["new absent there, 1 asked"]),
        ({k: v for k, v in CONFIG.items() if k != "none"}, ["none None there, absent asked"]),
        ({}, ["and 1 more", "steps 9 there, absent asked"]),
    ],
)  # fmt: skip
def test_another_job_is_refused_in_one_line_that_names_what_differs(other, named, tmp_path):
    Run(tmp_path, CONFIG)
    with pytest.raises(UserError, match="holds another job") as error:
        Run(tmp_path, other)
    for part in [*named, str(tmp_path), "choose another --workdir"]:
        assert part in str(error.value)
    assert "\n" not in str(error.value)
    Run(tmp_path, CONFIG)


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats(-1e9, 1e9) | st.text(max_size=4),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(max_size=3), inside, max_size=3),
    max_leaves=8,
)


def respelled(value, draw):
    """The same values, in another order and with whole numbers written otherwise."""
    if isinstance(value, dict):
        return {name: respelled(value[name], draw) for name in draw(st.permutations(sorted(value)))}
    if isinstance(value, list):
        return [respelled(entry, draw) for entry in value]
    if type(value) in (int, float) and value == int(value):
        return draw(st.sampled_from([int(value), float(value)]))
    return value


def changed(value, draw):
    """Other values, which Python may hold for equal."""
    if isinstance(value, dict | list) and value:
        at = draw(st.sampled_from(sorted(value) if isinstance(value, dict) else range(len(value))))
        made = type(value)(value)
        made[at] = changed(value[at], draw)
        return made

    def marked(one):
        return type(one) in (int, float), one

    others = [None, True, False, 0, 1, 0.5, "", "1", [], {}]
    return draw(st.sampled_from([one for one in others if marked(one) != marked(value)]))


@hypothesis.settings(max_examples=60)
@hypothesis.given(st.dictionaries(st.text(min_size=1, max_size=4), _VALUES, min_size=1, max_size=4), st.data())
def test_a_configuration_is_its_values_however_they_are_written(config, data):
    with tempfile.TemporaryDirectory() as folder:
        Run(folder, config)
        same: Any = respelled(config, data.draw)
        Run(folder, same)
        another: Any = changed(config, data.draw)
        with pytest.raises(UserError, match="holds another job"):
            Run(folder, another)


def test_checkpoints_go_on_with_a_number_written_otherwise(tmp_path, monkeypatch):
    base = job.config
    for value, stop in ((8_000_000, ("search", 2)), (8e6, ("search", 4)), (8_000_000, None)):
        monkeypatch.setattr(job, "config", lambda seed, value=value: base(seed) | {"budget": {"macs": value}})
        with contextlib.nullcontext() if stop is None else pytest.raises(Interrupted):
            found = job.go(tmp_path / "run", stop=stop)
    assert found["results"]["steps"] == sum(job.PHASES.values())
    with pytest.raises(UserError, match="holds another job .*8000000.* there, .*8000001.* asked"):
        Run(tmp_path / "run", base(0) | {"budget": {"macs": 8_000_001}})


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b"[1]", b"null"])
def test_a_config_that_is_none_is_no_job_to_go_on_with(content, tmp_path):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(UserError, match="choose another --workdir"):
        Run(tmp_path, CONFIG)
    assert (tmp_path / "config.json").read_bytes() == content


@pytest.mark.parametrize("name", [FILE, "masks.jsonl", "checkpoints", "results.json"])
def test_files_of_something_else_are_not_overwritten(name, tmp_path):
    (tmp_path / name).write_text("somebody's")
    with pytest.raises(UserError, match=f"holds {name} of something else"):
        Run(tmp_path, CONFIG)
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_a_directory_with_unrelated_files_can_be_used(tmp_path):
    (tmp_path / "output.log").write_text("started")
    Run(tmp_path, CONFIG)


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "file").write_text("")
    for directory in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match=r"cannot write in .*choose another --workdir"):
            Run(directory, CONFIG)


def test_a_directory_that_cannot_be_written(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:  # not by file modes: root, whom containers run as, may write anywhere
        patch.setattr(storage, "write_all", refuse)
        with pytest.raises(UserError, match=r"cannot write in .* \(Permission denied\); choose another --workdir"):
            Run(tmp_path, CONFIG)
    run = Run(tmp_path, CONFIG)
    monkeypatch.setattr(storage, "open_append", refuse)
    with pytest.raises(UserError, match="Permission denied"):
        run.record_masks("search", 1, {})


def test_a_second_job_in_the_directory_of_one_at_work(tmp_path):
    with Run(tmp_path, CONFIG):
        with pytest.raises(
            UserError, match=rf"a job is at work in {tmp_path} \(process {os.getpid()} on .*wait for it"
        ):
            Run(tmp_path, CONFIG).__enter__()
    with Run(tmp_path, CONFIG):  # the first one ended
        pass


def test_who_claims_is_waited_for_and_not_taken_for_a_job_at_work(tmp_path, monkeypatch):
    """One that saw no claim yet looks again; meanwhile the one that has claimed begins. Else both would go."""
    first, inside, on = Run(tmp_path, CONFIG), threading.Event(), threading.Event()
    claim, is_claimed, said = claims.claim, claims.is_claimed, []

    def slowly(directory, config):
        if config != CONFIG:
            inside.set()
            on.wait(60)
        claim(directory, config)

    def second():
        with pytest.raises(UserError) as error:
            Run(tmp_path, CONFIG | {"seed": 77})
        said.append(str(error.value))

    monkeypatch.setattr(claims, "claim", slowly)
    monkeypatch.setattr(claims, "is_claimed", lambda d, c: (c == CONFIG or inside.is_set()) and is_claimed(d, c))
    thread = threading.Thread(target=second)
    thread.start()
    assert inside.wait(60)
    threading.Timer(0.3, on.set).start()
    with first:
        thread.join(60)
    assert len(said) == 1 and "holds another job (seed" in said[0]


def test_the_lock_of_a_killed_job_is_free(tmp_path):
    hold = f"""
import time
from dms_jax.training.runs import Run
from tests.faults import job
with Run({str(tmp_path)!r}, {{}}):
    print("holds", flush=True)
    time.sleep(600)
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    with subprocess.Popen([sys.executable, "-c", hold], env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "holds\n"
        with pytest.raises(UserError, match=f"process {process.pid} on"):
            Run(tmp_path, {}).__enter__()
        process.kill()
        process.wait()
        with Run(tmp_path, {}):
            pass


def test_a_file_system_without_locks_is_told(tmp_path, monkeypatch, capsys):
    def refuse(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with Run(tmp_path, CONFIG):
        assert "cannot be locked (Operation not supported): see that no other job" in capsys.readouterr().err


def test_killed_while_claiming(tmp_path):
    (tmp_path / "config.json.part").write_text('{"experim')
    Run(tmp_path, CONFIG)
    Run(tmp_path, CONFIG)
