"""Cells: kept, never written over, resumed; means and differences; marked sections."""

import json
import math
import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.stats import ttest_ind

from dms_jax.errors import Interrupted, UserError
from dms_jax.training.machine import machine
from experiments.benchmarks import digits, tables
from experiments.benchmarks.command import Options
from experiments.benchmarks.store import Cell, Cells
from experiments.benchmarks.tables import Difference, Spread, apart, decided, difference_text, write_section


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
    conditions = cells.conditions(_cell(1))
    assert conditions is not None and conditions["data"] == "data" and conditions["machine"]
    rows = [json.loads(line) for line in (tmp_path / "toy.jsonl").read_text().splitlines()]
    assert [next(iter(row)) for row in rows] == ["conditions", "settings", "cell", "cell", "cell"]  # written once


def test_seconds_are_compared_on_cpus_alone(tmp_path):
    cells = Cells(tmp_path)
    cells.fill(_count([], 0, 1), "toy", "data")
    assert cells.on_cpu(_cell(0)) and not cells.on_cpu(_cell(2))
    cells.put(_cell(2), {"test": 2.0}, {"machine": "another", "platform": "gpu", "data": "data"})
    assert not cells.on_cpu(_cell(2)) and cells.get(_cell(2)) is not None


def test_a_report_names_the_machines(tmp_path):
    cells = Cells(tmp_path)
    assert cells.machines([_cell(0)]) == ""
    cells.put(_cell(1), {"test": 1.0}, {"machine": "another", "data": "data"})
    cells.fill(_count([], 0, 1, 2), "toy", "data")
    here = machine()
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
    assert _cell(rate=1.0).name != _cell(rate=2.0).name
    cells.put(_cell(rate=1.0), {"test": 1.0}, {})
    assert cells.get(Cell("toy", "dms-20", {"rate": 1.0}, {"rate": 1.0, "newer": 5}, 0)) == {"test": 1.0}
    with pytest.raises(UserError, match="was made with new 1, asked is 2"):
        cells.get(Cell("toy", "dms-20", {"rate": 1.0}, {"rate": 1.0, "new": 2}, 0))
    with pytest.raises(UserError, match="never written over"):
        Cells(tmp_path).put(_cell(rate=1.0), {"test": 2.0}, {})
    cells.put(Cell("toy", "dms-20", {"rate": 1.0}, {"rate": 1.0, "newer": 5}, 1), {"test": 2.0}, {})
    with pytest.raises(UserError, match="was made with newer 5"):
        cells.get(Cell("toy", "dms-20", {"rate": 1.0}, {"rate": 1.0, "newer": 6}, 0))


@given(st.data())
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_line_torn_anywhere_loses_one_cell_and_is_told_once(tmp_path, capsys, data):
    path = tmp_path / "toy.jsonl"
    path.unlink(missing_ok=True)
    for seed in range(3):
        Cells(tmp_path).put(_cell(seed), {"test": float(seed), "note": "\u00e9\n"}, {"machine": "m", "data": "d"})
    whole = path.read_bytes()
    last = whole.rstrip(b"\n").rfind(b"\n") + 1
    path.write_bytes(whole[: data.draw(st.integers(last + 1, len(whole) - 1))])
    capsys.readouterr()
    cells = Cells(tmp_path)
    found = [cells.get(_cell(seed)) for seed in range(3)]
    assert [result and result["test"] for result in found] == [0.0, 1.0, None]
    cells.put(_cell(2), {"test": 2.0, "note": "\u00e9\n"}, {"machine": "m", "data": "d"})
    assert path.read_bytes() == whole and cells.get(_cell(2))
    assert capsys.readouterr().err.count("is torn and dropped") == 1


def test_a_torn_line_that_another_process_replaced_by_one_as_long(tmp_path):
    ours, path = Cells(tmp_path), tmp_path / "toy.jsonl"
    ours.put(_cell(0), {"test": 1.0}, {"data": "d"})
    whole = path.read_bytes()
    ours.put(_cell(1), {"test": 11.0}, {"data": "d"})
    path.write_bytes(path.read_bytes()[:-1])  # torn, and as long as the next one
    theirs = Cells(tmp_path)
    assert theirs.get(_cell(1)) is None and theirs.get(_cell(0)) is not None
    ours = Cells(tmp_path)
    ours.put(_cell(1), {"test": 1.0}, {"data": "d"})
    assert path.read_bytes().startswith(whole)
    found = theirs.get(_cell(1))
    assert found is not None and found["test"] == 1.0


def test_a_line_that_is_no_row_is_named(tmp_path):
    cell = '{"cell": "a", "seed": 0, "conditions": %s, "result": %s}'
    faulty = (cell % ("[]", "{}"), cell % ('"c"', "1"), cell.replace("result", "other") % ('"c"', "{}"))
    for line in ("<<<<<<< theirs", "[1]", "3", '{"other": 1}', '{"cell": "a"}', '"cell"', *faulty):
        (tmp_path / "toy.jsonl").write_text(f'{{"conditions": "c"}}\n{line}\n')
        with pytest.raises(UserError, match=r"toy.jsonl:2 is no row of cells; mend or remove this line"):
            Cells(tmp_path).get(_cell(0))


def test_rows_that_others_append_are_seen_and_the_last_of_a_name_counts(tmp_path):
    ours, theirs = Cells(tmp_path), Cells(tmp_path)
    assert ours.get(_cell(0)) is None
    theirs.put(_cell(0), {"test": 1.0}, {"data": "d"})
    found = ours.get(_cell(0))
    assert found is not None and found["test"] == 1.0
    path = tmp_path / "toy.jsonl"
    path.write_text(path.read_text() + path.read_text().splitlines()[-1].replace("1.0", "2.0") + "\n")
    found = ours.get(_cell(0))
    assert found is not None and found["test"] == 2.0
    path.unlink()
    assert ours.get(_cell(0)) is None


def test_cells_of_other_data_do_not_mix(tmp_path):
    cells = Cells(tmp_path)
    cells.fill(_count([], 0), "toy", "Python 3.11")
    with pytest.raises(UserError, match="cells of other data"):
        cells.fill(_count([], 1), "toy", "Python 3.13")


def test_a_quick_run_refuses_the_real_cells(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="does not mix"):
        _ = Options(quick=True, results=tmp_path / "experiments/benchmarks/results").cells


def test_means_with_their_errors():
    spread = Spread.of([1.0, 2.0, 3.0])
    assert (spread.mean, spread.count) == (2.0, 3) and spread.error == pytest.approx(1 / math.sqrt(3))
    assert spread.text(2) == "2.00 ± 0.58"
    assert Spread.of([1.5]).text(1, sign=True) == "+1.5" and Spread.of([]).text() == "-"


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 8), st.integers(2, 8))
def test_differences_are_those_of_students_test(seed, n, m):
    draw = np.random.default_rng(seed)
    ours, theirs = draw.normal(size=n), draw.normal(1.0, 2.0, size=m)
    expected: Any = ttest_ind(theirs, ours)
    found = apart(ours, theirs)
    low, high = expected.confidence_interval(0.95)
    assert found is not None and found.p == pytest.approx(expected.pvalue)
    assert (found.mean - found.error, found.mean + found.error) == pytest.approx((low, high))


def test_differences_without_seeds_without_spread_and_of_one_seed():
    assert apart([], [1.0]) is None and difference_text(None, 2, False) == "-"
    for ours in ([1.0], [1.0, 1.0, 1.0]):  # seeds that agree by luck say nothing of another method's one
        alone = apart(ours, [1.5])
        assert alone is not None and math.isnan(alone.p) and difference_text(alone, 2, False) == "+0.50"
    assert decided({"alone": alone, "none": None}) == set()
    same, other = apart([1.0, 1.0], [1.0, 1.0]), apart([1.0, 1.0], [2.0, 2.0])
    assert decided({"same": same, "other": other}) == {"other"}


def test_one_difference_of_many_needs_more_than_one_alone():
    one = Difference(1.0, 0.9, 0.03)
    assert decided({0: one}) == {0}
    assert decided({i: one for i in range(3)}) == set()
    assert decided({0: Difference(1.0, 0.5, 0.001), 1: one, 2: Difference(1.0, 2.0, 0.6)}) == {0}
    assert difference_text(one, 2, True) == "+1.00 ± 0.90 *"


def test_equal_methods_are_seldom_apart():
    draw = np.random.default_rng(0)
    wrong = 0
    for _ in range(200):
        ours = draw.normal(size=3)
        wrong += bool(decided({i: apart(ours, draw.normal(size=3)) for i in range(8)}))
    assert wrong <= 20  # one in twenty, and at most one in ten where it is by chance


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ([2.4934, 2.494, 2.4946], "2.4940 ± 0.0003"),  # three digits show no error
        ([2.0, 2.0, 2.0], "2.000 ± 0"),
        ([0.1 + 0.2, 0.3], "0.300 ± 0"),
        ([-0.0001, 0.0000], "-0.00005 ± 0.00005"),
        ([-0.01, 0.0099], "-0.000 ± 0.010"),
    ],
)
def test_errors_have_as_many_digits_as_it_takes_to_see_them(values, shown):
    assert Spread.of(values).text() == shown.replace("-0.000 ", "0.000 ")


def test_text_outside_the_marks_stays(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    monkeypatch.setattr(tables, "DOCUMENT", tmp_path / "RESULTS.md")
    write_section("a", "First", "one", folder=tmp_path)
    write_section("b", "Second", "two", folder=tmp_path, page="a", headline="best")
    path = tmp_path / "a.md"
    path.write_text(path.read_text() + "\nwritten by hand\n")
    write_section("a", "First", "three", folder=tmp_path)
    text = path.read_text()
    assert "three" in text and "one" not in text and "two" in text and text.endswith("written by hand\n")
    assert text.index("# First") < text.index("three") < text.index("## Second")
    write_section("a", "First", "four", folder=None)
    assert path.read_text() == text and "four" in capsys.readouterr().out
    assert "best" in tables.DOCUMENT.read_text() and "two" not in tables.DOCUMENT.read_text()
    path.write_text(text.replace("<!-- end a -->", ""))
    with pytest.raises(UserError, match="without '<!-- end a -->'; put it back"):
        write_section("a", "First", "five", folder=tmp_path)


def test_results_of_another_folder_leave_the_published_ones_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tables, "RESULTS", Path("published"))
    options = Options(tables=True, results=tmp_path / "mine")
    digits.main(options)
    assert not list(tmp_path.glob("docs/*")) and not Path("published").exists() and not tables.DOCUMENT.exists()
    page = (tmp_path / "mine" / "digits.md").read_text()
    assert "few labels](digits.svg)" in page and "All benchmarks" not in page
    assert (tmp_path / "mine" / "digits.svg").exists()


@pytest.mark.parametrize("place", ["a file", "a file/below it"])
def test_a_folder_that_cannot_be_written_is_refused_before_hours_of_computing(tmp_path, place):
    (tmp_path / "a file").write_text("")
    with pytest.raises(UserError, match="nothing can be written to .*; give another folder with --results"):
        _ = Options(results=tmp_path / place).cells
