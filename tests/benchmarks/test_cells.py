"""Cells: kept, never written over, resumed; means and paired differences; marked sections."""

import json
import math
import os
import signal
from functools import partial

import pytest

from benchmarks.cells import Cell, Cells, Spread, paired
from benchmarks.command import Options, write_section
from dms_jax.errors import Interrupted, UserError


def _cell(seed=0, **settings):
    return Cell("toy", "dms-20", settings, {**settings, "new": 1}, seed)


def _count(calls, *seeds):
    """Work that notes which seeds are computed."""

    def compute(seed, interrupt, say):
        calls.append(seed)
        say("half")
        return {"test": float(seed)}

    return [(_cell(seed), partial(compute, seed)) for seed in seeds]


def test_finished_cells_are_not_computed_again(tmp_path):
    cells, calls = Cells(tmp_path), []
    cells.fill(_count(calls, 0, 1, 0), "toy", "data")
    cells.fill(_count(calls, 0, 1, 2), "toy", "data")
    assert calls == [0, 1, 2]
    found = cells.get(_cell(1))
    assert found is not None and found["test"] == 1.0 and found["cpu_seconds"] >= 0
    stored = json.loads((tmp_path / _cell(1).path).read_text())
    assert stored["conditions"]["data"] == "data" and stored["conditions"]["machine"]


def test_seconds_are_compared_on_cpus_alone(tmp_path):
    cells = Cells(tmp_path)
    cells.fill(_count([], 0, 1), "toy", "data")
    assert cells.on_cpu(_cell(0)) and not cells.on_cpu(_cell(2))
    path = tmp_path / _cell(1).path
    stored = json.loads(path.read_text())
    path.write_text(json.dumps({**stored, "conditions": {**stored["conditions"], "platform": "gpu"}}))
    assert not cells.on_cpu(_cell(1)) and cells.get(_cell(1)) is not None


def test_a_report_names_the_machines(tmp_path):
    cells = Cells(tmp_path)
    assert cells.machines([_cell(0)]) == ""
    cells.fill(_count([], 0, 1, 2), "toy", "data")
    path = tmp_path / _cell(1).path
    stored = json.loads(path.read_text())
    here = stored["conditions"]["machine"]
    path.write_text(json.dumps({**stored, "conditions": {**stored["conditions"], "machine": "another"}}))
    asked = [_cell(seed) for seed in (1, 0, 2, 0, 3)]  # one twice, one that is not there
    assert cells.machines(asked) == f"Cells computed on: {here} (2); another (1)."


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_keeps_what_is_finished(tmp_path, number):
    cells, calls = Cells(tmp_path), []

    def stopped(interrupt, say):
        os.kill(os.getpid(), number)
        assert interrupt.requested
        raise Interrupted(3)

    work = [*_count([], 0), (_cell(1), stopped), *_count(calls, 2)]
    with pytest.raises(Interrupted, match="1 of 3 cells done"):
        cells.fill(work, "toy", "data")
    assert cells.get(_cell(0)) and cells.get(_cell(1)) is None
    cells.fill(_count(calls, 0, 1, 2), "toy", "data")
    assert calls == [1, 2]


def test_identity_is_the_name_and_old_cells_hold_when_settings_are_added(tmp_path):
    cells = Cells(tmp_path)
    assert _cell(rate=1.0).path != _cell(rate=2.0).path
    cells.put(_cell(rate=1.0), {"test": 1.0}, {})
    assert cells.get(Cell("toy", "dms-20", {"rate": 1.0}, {"rate": 1.0, "newer": 5}, 0)) == {"test": 1.0}
    with pytest.raises(UserError, match="was made with new 1, asked is 2"):
        cells.get(Cell("toy", "dms-20", {"rate": 1.0}, {"rate": 1.0, "new": 2}, 0))
    with pytest.raises(UserError, match="never written over"):
        cells.put(_cell(rate=1.0), {"test": 2.0}, {})


def test_cells_of_other_data_do_not_mix(tmp_path):
    cells = Cells(tmp_path)
    cells.fill(_count([], 0), "toy", "Python 3.11")
    with pytest.raises(UserError, match="cells of other data"):
        cells.fill(_count([], 1), "toy", "Python 3.13")


def test_a_quick_run_refuses_the_real_cells(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="does not mix"):
        _ = Options(quick=True, results=tmp_path / "benchmarks" / "results").cells


def test_spread_and_paired_differences():
    spread = Spread.of([1.0, 2.0, 3.0])
    assert (spread.mean, spread.count) == (2.0, 3) and spread.error == pytest.approx(1 / math.sqrt(3))
    assert spread.text(2) == "2.00 ± 0.58"
    assert Spread.of([1.5]).text(1, sign=True) == "+1.5" and Spread.of([]).text() == "-"
    difference = paired({0: 1.0, 1: 5.0, 2: 9.0}, {0: 1.5, 1: 5.5, 7: 0.0})
    assert (difference.mean, difference.error, difference.count) == (0.5, 0.0, 2)


def test_text_outside_the_marks_stays(tmp_path, capsys):
    path = tmp_path / "RESULTS.md"
    write_section("a", "First", "one", quick=False, path=path)
    write_section("b", "Second", "two", quick=False, path=path)
    path.write_text(path.read_text() + "\nwritten by hand\n")
    write_section("a", "First", "three", quick=False, path=path)
    text = path.read_text()
    assert "three" in text and "one" not in text and "two" in text and text.endswith("written by hand\n")
    assert text.index("## First") < text.index("three") < text.index("## Second")
    write_section("a", "First", "four", quick=True, path=path)
    assert path.read_text() == text and "four" in capsys.readouterr().out
