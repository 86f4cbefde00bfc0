"""Run files edited by hand: whatever is changed in one, the report is written or one line says what is wrong."""

import json
import shutil
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from dms_jax.report import page
from dms_jax.report.page import page as page_of
from dms_jax.report.run_files import read_run
from tests.lies import changed, lies, places

FILES = ("results.json", "structure.json", "metrics.jsonl", "masks.jsonl")
GROUPS = {"stem": (6, "width"), "stage1/depth": (2, "depth"), "a/heads": (4, "heads")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory, write_run):
    ranked = {"at": [0, 1, 2, 5], "values": [1.0, 0.5, 0.3, 0.0], "kept": 2}
    group = {"each": {"macs": 3.0}, "block": ["stage1/depth", 0], "importance": ranked}
    blocks = [{"gates": [["stage1/depth", i]], "name": f"block{i}"} for i in range(2)]
    network = {"blocks": blocks, "groups": {"stem": group, "a/heads": {"each": {}, "block": ["stage1/depth", 1]}}}
    return write_run(tmp_path_factory.mktemp("whole"), GROUPS, network=network)


def attempt(directory, monkeypatch):
    """Read and put the page together; the pictures, which take seconds, are drawn in a few cases alone."""
    try:
        run = read_run(directory)
    except ValueError as error:
        assert "\n" not in str(error) and str(directory) in str(error) and len(str(error)) < 900
        return
    page_of(run).encode("utf-8", errors="replace")


@pytest.fixture
def without_pictures(monkeypatch):
    monkeypatch.setattr(page, "_picture_sections", lambda run: [])


@hypothesis.settings(max_examples=300, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
@hypothesis.given(st.data())
def test_any_lie_is_a_report_or_one_line(whole, tmp_path, without_pictures, monkeypatch, data):
    name = data.draw(st.sampled_from(FILES))
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    text = (whole / name).read_text()
    if name.endswith(".jsonl"):
        lines = text.splitlines()
        number = data.draw(st.integers(0, len(lines) - 1))
        lines[number] = json.dumps(data.draw(lies(json.loads(lines[number]))))
        text = "\n".join(lines) + "\n"
    else:
        text = json.dumps(data.draw(lies(json.loads(text), most=3)))
    (tmp_path / name).write_text(text)
    attempt(tmp_path, monkeypatch)


@pytest.mark.parametrize("seed", range(12))
def test_with_its_pictures(seed, whole, tmp_path, monkeypatch):
    draw = np.random.default_rng(seed)
    directory = Path(shutil.copytree(whole, tmp_path / "run"))
    name = ("metrics.jsonl", "structure.json", "masks.jsonl")[seed % 3]
    lines = (whole / name).read_text().splitlines()
    number = int(draw.integers(len(lines)))
    content = json.loads(lines[number])
    path = places(content)[int(draw.integers(len(places(content))))]
    new = (None, 0, -1, 10**9, 1e200, "x", [], True)[int(draw.integers(8))]
    lines[number] = json.dumps(changed(content, path, new, "replace"))
    (directory / name).write_text("\n".join(lines) + "\n")
    attempt(directory, monkeypatch)
