import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from dms_jax.training import InterruptFlag
from dms_jax.training.metrics import FILE

ROOT = Path(__file__).parents[2]
STEPS = 12


def start(directory, pause):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    command = [
        sys.executable,
        str(Path(__file__).with_name("toy.py")),
        str(directory),
        str(STEPS),
        str(pause),
    ]
    return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def wait_for_step(process, step):
    for line in process.stdout:
        if line.strip() == str(step):
            return
    raise AssertionError(process.stderr.read())


def finish(directory):
    process = start(directory, 0)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    with np.load(directory / "last.npz") as arrays:
        return [arrays[name] for name in arrays], (directory / FILE).read_bytes()


@pytest.fixture(scope="module")
def never_stopped(tmp_path_factory):
    return finish(tmp_path_factory.mktemp("never_stopped"))


def assert_goes_on(directory, never_stopped):
    arrays, records = finish(directory)
    for a, b in zip(arrays, never_stopped[0], strict=True):
        np.testing.assert_array_equal(a, b)
    assert records == never_stopped[1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_the_same_command_goes_on(number, never_stopped, tmp_path):
    process = start(tmp_path, 0.3)
    wait_for_step(process, 4)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert "stopping after this step" in err
    last = err.splitlines()[-1]
    assert last.startswith("stopped after step ") and last.endswith("; the same command goes on from there")
    step = int(last.split()[3].rstrip(";"))
    assert 4 < step < STEPS and (tmp_path / "checkpoints" / str(step)).is_dir()
    assert_goes_on(tmp_path, never_stopped)


def test_a_second_ctrl_c_ends_at_once(never_stopped, tmp_path):
    process = start(tmp_path, 0.5)
    wait_for_step(process, 4)
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    for line in process.stderr:
        if "stopping after this step" in line:
            break
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT
    assert "Traceback" not in err
    assert_goes_on(tmp_path, never_stopped)


def test_old_handlers_come_back():
    before = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    with InterruptFlag() as flag:
        assert not flag.requested
        signal.raise_signal(signal.SIGTERM)
        assert flag.requested
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_signal_before_an_inner_block_stops_that_too():
    with InterruptFlag() as outer:
        signal.raise_signal(signal.SIGTERM)
        with InterruptFlag() as inner:
            assert inner.requested
        assert outer.requested


def test_a_signal_inside_an_inner_block_stops_both():
    before = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    with InterruptFlag() as outer:
        with InterruptFlag() as inner:
            assert not inner.requested
            signal.raise_signal(signal.SIGTERM)
            assert inner.requested
        assert inner.requested and outer.requested
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == before


def test_an_inner_flag_alone_leaves_the_outer_one_down():
    with InterruptFlag() as outer:
        with InterruptFlag() as inner:
            inner.requested = True
        assert inner.requested and not outer.requested


def test_in_another_thread_nothing_is_touched():
    before = signal.getsignal(signal.SIGINT)
    flags = []

    def body():
        with InterruptFlag() as flag:
            flags.append((flag.requested, signal.getsignal(signal.SIGINT) is before))

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert flags == [(False, True)]
