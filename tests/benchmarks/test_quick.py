"""Every benchmark of quality runs in its tiny version, resumes for nothing, and leaves the real results alone."""

import importlib
import json
import time

import numpy as np
import pytest

from experiments.benchmarks.command import Options
from experiments.benchmarks.tables import DOCUMENT

BENCHMARKS = ("frontier", "width", "scratch", "pminus", "digits", "ablation", "boxes", "sizes", "allocations")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One folder for all: cells and supernets are shared as they are in earnest."""
    return tmp_path_factory.mktemp("quick")


@pytest.mark.parametrize("name", BENCHMARKS)
def test_quick(name, folder, monkeypatch, capsys):
    document = DOCUMENT.read_bytes()
    monkeypatch.setattr("experiments.benchmarks.tasks.CACHE", folder / "supernets")
    module = importlib.import_module(f"experiments.benchmarks.{name}")
    options = Options(quick=True, results=folder / "results")
    module.main(options)
    out = capsys.readouterr().out
    assert f"python -m experiments.benchmarks.{name}" in out
    files = {path: path.read_bytes() for path in (folder / "results").rglob("*.*")}
    rows = [json.loads(line) for path in files if path.suffix == ".jsonl" for line in path.read_text().splitlines()]
    cells = [row["result"] for row in rows if "cell" in row]
    assert cells and all(np.all(np.isfinite(cell["test"])) for cell in cells)
    began = time.monotonic()
    module.main(options)
    assert time.monotonic() - began < 20 and capsys.readouterr().out == out
    again = {path: path.read_bytes() for path in (folder / "results").rglob("*.*")}
    assert again == files  # pictures of the same numbers are the same bytes
    assert DOCUMENT.read_bytes() == document


def test_tables_alone_compute_nothing(tmp_path, capsys):
    module = importlib.import_module("experiments.benchmarks.frontier")
    module.main(Options(quick=True, tables=True, results=tmp_path))
    assert "Not computed yet." in capsys.readouterr().out
    assert not list(tmp_path.rglob("*.jsonl"))
