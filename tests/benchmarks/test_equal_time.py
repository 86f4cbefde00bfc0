"""Accuracy at equal time, on a machine of which all times are known."""

import json

from experiments.benchmarks import equal_time
from experiments.benchmarks.command import Options
from tests.fake_device import Device, installed


def test_a_budget_of_macs_is_bisected_to_the_time_of_the_other_network(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("experiments.benchmarks.tasks.CACHE", tmp_path / "supernets")
    monkeypatch.setattr(equal_time, "ROUNDS", 2)
    installed(Device(together=1.2, call=0.001), monkeypatch)
    options = Options(quick=True, results=tmp_path / "results")
    equal_time.main(options)
    out = capsys.readouterr().out
    rows = [json.loads(line) for line in (tmp_path / "results" / "digits_time.jsonl").read_text().splitlines()]
    (cell,) = (row["result"] for row in rows if "cell" in row)
    timed, counted, full = cell["timed"], cell["counted"], cell["full"]
    assert 0.9 * 0.7 * full["ms"] <= timed["ms"] <= 0.7 * full["ms"]
    assert 0.8 * timed["ms"] <= counted["ms"] <= timed["ms"]
    assert all(one["macs"] < full["macs"] and one["again"] > 0 and 0 <= one["test"] <= 1 for one in (timed, counted))
    assert "| 70 % | milliseconds |" in out and "| 70 % | MACs, as long |" in out
    equal_time.main(options)
    assert capsys.readouterr().out == out
