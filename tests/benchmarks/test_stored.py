"""The pages in the repository are what the cells in it give: none is refused by today's settings, no number is old."""

import importlib
import shutil
from typing import get_args

import pytest

from experiments.benchmarks import __main__ as everything
from experiments.benchmarks import boxes_task, command, tables
from experiments.benchmarks.command import Options

NAMES = (*get_args(everything.Shared), "equal_time", "latency")
"""All that keep cells; the operator's benchmark measures anew every time."""


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    """Documents and cells in a place of their own."""
    to = tmp_path_factory.mktemp("stored") / "experiments" / "benchmarks"
    shutil.copytree(tables.RESULTS, to / "results")
    shutil.copy(tables.DOCUMENT, to)
    return to


@pytest.mark.parametrize("name", NAMES)
def test_tables_made_again_change_no_page(name, copied, monkeypatch, tmp_path):
    monkeypatch.setattr(boxes_task, "PREPARED", tmp_path)  # as on a machine where nothing is prepared
    was = {path.name: path.read_text() for path in (*tables.RESULTS.glob("*.md"), tables.DOCUMENT)}
    for module in (tables, command):
        monkeypatch.setattr(module, "RESULTS", copied / "results")
    monkeypatch.setattr(tables, "DOCUMENT", copied / tables.DOCUMENT.name)
    monkeypatch.setattr(command, "PICTURES", copied.parents[1] / "docs")
    importlib.import_module(f"experiments.benchmarks.{name}").main(Options(tables=True, results=copied / "results"))
    found = {path.name: path.read_text() for path in copied.rglob("*.md")}
    new = copied / "results" / f"{name}.md"
    if new.name not in was and new.name in found:  # begun in the code alone
        assert "Not computed yet." in found.pop(new.name)
        new.unlink()
    for path in (path for path in copied.rglob("*.md") if found.get(path.name) != was[path.name]):
        path.write_text(was[path.name])  # for those that come after this one
    assert found == was
