"""The phases of a run end up where an unbroken run would."""

import json
import shutil
from pathlib import Path

import jax
import pytest
import toy
from phases import PHASES, go, same

from dms_jax.errors import Interrupted
from dms_jax.training import runs
from dms_jax.training.metrics import FILE, read
from dms_jax.training.runs import Run

ROOT = Path(__file__).parents[2]
CONFIG = {"experiment": "toy", "steps": 9, "budget": {"macs": 0.5}, "keep": ("a", "b"), "none": None}


def never(i):
    raise AssertionError(f"batch {i} was asked for")


def files(directory):
    return {name: (directory / name).read_bytes() for name in (FILE, "masks.jsonl")}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    directory = tmp_path_factory.mktemp("unbroken")
    return directory, go(directory)


def test_done_phases_are_not_run_again(unbroken):
    directory, state = unbroken
    before = files(directory), (directory / "seconds.json").read_bytes()
    same(go(directory, batches=never), state)
    assert (files(directory), (directory / "seconds.json").read_bytes()) == before
    assert [(r["phase"], r["step"]) for r in read(directory)] == [
        *(("a", s) for s in (1, 2, 4, 6, 7)),
        *(("search", s) for s in (1, 2, 4, 6, 8, 9)),
        *(("b", s) for s in (1, 2, 4, 5)),
    ]


@pytest.mark.parametrize("stops", [[("a", 0)], [("search", 4)], [("a", 6), ("search", 0)], [("a", 2), ("b", 3)]])
def test_stopped_and_resumed_is_never_stopped(stops, unbroken, tmp_path):
    for stop in stops:
        name, i = stop
        following = {"a": "search", "search": "b"}
        at = (name, i + 1) if i + 1 < PHASES[name] else (following[name], 0)
        with pytest.raises(Interrupted) as raised:
            go(tmp_path, stop=stop)
        assert raised.value.step == at[1]
        assert str(raised.value) == f"stopped {at[0]} after step {at[1]} of {PHASES[at[0]]} and saved"
    same(go(tmp_path), unbroken[1])
    assert files(tmp_path) == files(unbroken[0])


@pytest.mark.parametrize("phase, i", [("a", 0), ("search", 0), ("search", 7), ("b", 1)])
def test_killed_with_torn_records_and_resumed_is_never_stopped(phase, i, unbroken, tmp_path):
    class Killed(BaseException):
        pass

    count = {"a": 0, "search": 7, "b": 16}[phase] + i
    seen = iter(range(100))

    def batches(j):
        if next(seen) == count:
            raise Killed
        return toy.batch_of(j)

    with pytest.raises(Killed):
        go(tmp_path, batches=batches, checkpoint_seconds=1e9)
    for name in (FILE, "masks.jsonl"):
        with (tmp_path / name).open("a") as file:
            file.write(f'{{"phase": "{phase}", "st')
    same(go(tmp_path), unbroken[1])
    assert files(tmp_path) == files(unbroken[0])


def test_masks_beyond_the_checkpoint_are_dropped(tmp_path):
    class Killed(BaseException):
        pass

    def killed_at(i):
        def batches(j):
            if i == j:
                raise Killed
            return toy.batch_of(j)

        return batches

    with pytest.raises(Interrupted):
        go(tmp_path, stop=("search", 3), phases={"search": 9})  # saved at step 4
    with pytest.raises(Killed):
        go(tmp_path, batches=killed_at(8), phases={"search": 9}, checkpoint_seconds=1e9)  # recorded up to step 6
    assert [r["step"] for r in read(tmp_path)] == [1, 2, 4, 6]
    go(tmp_path, phases={"search": 9})
    lines = [json.loads(line) for line in (tmp_path / "masks.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 4, 6, 8, 9]
    assert [r["step"] for r in read(tmp_path)] == [1, 2, 4, 6, 8, 9]


def test_a_phase_done_anew_leaves_the_records_of_later_ones(unbroken, tmp_path):
    """Its checkpoints were lost or removed; the later phases' stay, and so must what they measured."""
    shutil.copytree(unbroken[0], tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "a")
    same(go(tmp_path / "run"), unbroken[1])

    def records(directory):
        return sorted((r["phase"], r["step"], r["loss"]) for r in read(directory))

    assert records(tmp_path / "run") == records(unbroken[0])


def test_seconds_of_all_attempts_add_up(tmp_path, monkeypatch):
    class Clock:
        now = 0.0

    def batches(i):
        Clock.now += 1.0
        return toy.batch_of(i)

    monkeypatch.setattr(runs.time, "monotonic", lambda: Clock.now)
    flags = iter([True, False])
    for stopped in flags:
        with Run(tmp_path, {}) as run:
            run.interrupt.requested = stopped
            try:
                run.phase("a", toy.step, toy.init(), batches, jax.random.key(0), steps=6)
            except Interrupted:
                assert stopped
    with Run(tmp_path, {}) as run:
        assert run.seconds == {"a": 6.0}


def test_signals_are_the_runs_only_inside_it(tmp_path):
    import signal

    before = signal.getsignal(signal.SIGINT)
    with Run(tmp_path, {}):
        assert signal.getsignal(signal.SIGINT) != before
    assert signal.getsignal(signal.SIGINT) == before
