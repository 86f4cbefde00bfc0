"""Every depth against what is picked: the curve, the best by validation, and regrets."""

import numpy as np
import pytest

from experiments.benchmarks import depth
from experiments.benchmarks.command import Options
from experiments.benchmarks.protocol import Contest
from experiments.benchmarks.text_task import text_task


def test_quick_fills_its_cells_and_goes_on(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("experiments.benchmarks.tasks.CACHE", tmp_path / "supernets")
    depth.main(Options(quick=True, results=tmp_path / "cells"))
    out = capsys.readouterr().out
    assert "| DMS |" in out and "uniform, depth by validation" in out
    depth.main(Options(quick=True, tables=True, results=tmp_path / "cells"))
    assert capsys.readouterr().out == out


@pytest.fixture(scope="module")
def contest(tmp_path_factory):
    return Contest(text_task(depth.TINY, "deep_text"), Options(results=tmp_path_factory.mktemp("cells")))


def test_regret_is_read_off_the_curve_at_the_depth_that_was_picked(contest):
    benchmark = depth.Benchmark(contest, seeds=(0, 1), budget=0.7)
    assert list(benchmark.even) == [1, 2, 3]
    scores = {1: (3.0, 3.1), 2: (2.0, 2.1), 3: (2.5, 1.9)}  # by validation; on the test files the order is another
    work = []
    for k, settings in benchmark.even.items():
        for seed in (0, 1):
            made = {"kept": {"depth": k}, "macs": 1, "valid": scores[k][seed], "test": float(10 + k)}
            work.append((contest.cell(settings, seed), lambda *_, made=made: made))
    for seed in (0, 1):
        made = {"kept": {"depth": 3}, "macs": 1, "valid": 2.0, "test": 11.5}
        work.append((contest.cell(benchmark.searches["DMS"], seed), lambda *_, made=made: made))
    contest.cells.fill(work, "x", "data")
    assert benchmark.best == 2
    assert benchmark.picks()[depth.CHOSEN] == {0: (2, 12.0), 1: (3, 13.0)}  # each seed sees its own scores
    table = depth.picks_table(benchmark)
    assert "| DMS | 3, 3 | +1.000 ± 0 | 11.500 ± 0 | -0.500" in table
    assert np.isfinite([score for found in benchmark.picks().values() for _, score in found.values()]).all()
