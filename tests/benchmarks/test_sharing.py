"""Two processes at one table, and the command that starts them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dms_jax.errors import Interrupted, UserError
from dms_jax.training.interrupt import InterruptFlag
from experiments.benchmarks import __main__ as everything
from experiments.benchmarks import sharing

ROOT = Path(__file__).parents[2]
FILL = """
import sys, time
from pathlib import Path
from experiments.benchmarks import sharing
from experiments.benchmarks.store import Cell, Cells
sharing.LOCKS, sharing.SECONDS_BETWEEN_LOOKS = Path("locks"), 0.01

def compute(interrupt, say):
    time.sleep(0.1)
    with open("computed", "a") as file:
        file.write("x")
    return {"test": 1.0}

Path(f"ready{sys.argv[1]}").touch()
while len(list(Path().glob("ready*"))) < 2:
    time.sleep(0.01)
cells = Cells("cells")
cells.fill([(Cell("toy", "a", {"i": i}, {"i": i}, 0), compute) for i in range(20)], "toy", "data")
assert all(cells.get(Cell("toy", "a", {"i": i}, {"i": i}, 0)) for i in range(20))
"""


@pytest.fixture(autouse=True)
def locks(tmp_path, monkeypatch):
    monkeypatch.setattr(sharing, "LOCKS", tmp_path / "locks")
    monkeypatch.setattr(sharing, "SECONDS_BETWEEN_LOOKS", 0.01)


def test_two_processes_compute_every_cell_once(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    pair = [
        subprocess.Popen([sys.executable, "-c", FILL, str(i)], cwd=tmp_path, env=environment, stderr=subprocess.PIPE)
        for i in range(2)
    ]
    said = [process.communicate(timeout=120)[1].decode() for process in pair]
    assert [process.returncode for process in pair] == [0, 0], said
    assert (tmp_path / "computed").read_text() == 20 * "x"


def test_what_is_taken_comes_later(tmp_path):
    done = []
    with InterruptFlag() as interrupt, sharing.claim(tmp_path / "a") as ours:
        assert ours
        with sharing.claim(tmp_path / "a") as again:  # another open file, as another process has
            assert not again

        def second():
            done.append("b")
            interrupt.requested = True  # ends the wait for a, which nobody lets go of here

        with pytest.raises(Interrupted):
            sharing.in_turns([(tmp_path / "a", lambda: done.append("a")), (tmp_path / "b", second)], interrupt)
    assert done == ["b"]
    with InterruptFlag() as interrupt:
        sharing.in_turns([(tmp_path / "a", lambda: done.append("a"))], interrupt)
    assert done == ["b", "a"]


def test_a_signal_in_the_last_thing_stops_what_would_come_next(tmp_path):
    with InterruptFlag() as interrupt, pytest.raises(Interrupted):
        sharing.in_turns([(tmp_path / "a", lambda: setattr(interrupt, "requested", True))], interrupt)


def test_workers_share_a_command_and_a_failure_stops_all(tmp_path, monkeypatch):
    monkeypatch.setattr(everything, "LOGS", tmp_path / "logs")
    note = f"import os, pathlib; pathlib.Path({str(tmp_path)!r}, str(os.getpid())).touch(); print('told')"
    everything.run([sys.executable, "-c", note], 2)
    assert len([path for path in tmp_path.iterdir() if path.is_file()]) == 2
    assert (tmp_path / "logs/worker1.log").read_text() == "told\n"
    first = f"import time; open({str(tmp_path / 'first')!r}, 'x'); time.sleep(60)"  # the second one fails
    began = time.monotonic()
    with pytest.raises(UserError, match="status"):
        everything.run([sys.executable, "-c", first], 2)
    assert time.monotonic() - began < 30


def test_a_signal_stops_the_workers(tmp_path):
    code = (
        "import sys; from pathlib import Path; from experiments.benchmarks import __main__ as everything\n"
        f"everything.LOGS = Path({str(tmp_path)!r})\n"
        "everything.exit_on_user_error(lambda: everything.run([sys.executable, '-c', "
        "'import time; print(\"up\", flush=True); time.sleep(60)'], 2))()"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None and parent.stdout.readline() == b"up\n"
        while "up" not in (tmp_path / "worker1.log").read_text():
            time.sleep(0.05)
        parent.send_signal(signal.SIGTERM)
        assert parent.wait(20) == 130


def test_no_workers_is_an_error():
    with pytest.raises(UserError, match="1 or more"):
        everything.main(workers=0)
