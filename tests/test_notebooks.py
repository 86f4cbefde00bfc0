"""The notebooks: they run from top to bottom, and what is kept of their outputs is of these cells."""

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
LENGTH = re.compile(r'"steps = \d+ ')
EXECUTE = """
import sys, nbformat
from nbclient import NotebookClient

notebook = nbformat.read(sys.argv[1], 4)
NotebookClient(notebook, timeout=500, kernel_name="python3", resources={"metadata": {"path": sys.argv[2]}}).execute()
"""


def cells(path):
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(path, tmp_path):
    """Every cell, in a few steps: the numbers of a real run are kept in the notebook."""
    for needed in ("nbclient", "ipykernel"):
        if find_spec(needed) is None:
            pytest.skip(f"{needed} is missing: pip install '.[test]'")
    text, found = LENGTH.subn('"steps = 10 ', path.read_text())
    assert found == 1
    short = tmp_path / path.name
    short.write_text(text)
    places = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(places), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", EXECUTE, str(short), str(tmp_path)]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_its_outputs_are_kept_and_clean(path):
    found = cells(path)
    assert [cell["execution_count"] for cell in found] == list(range(1, len(found) + 1))
    outputs = [output for cell in found for output in cell["outputs"]]
    assert any("image/png" in output.get("data", {}) for output in outputs), "pictures inline"
    assert all(output["output_type"] != "error" and output.get("name") != "stderr" for output in outputs)
    assert path.stat().st_size < 500_000


def test_there_are_two():
    assert [path.stem for path in NOTEBOOKS] == ["prune_your_own_network", "read_a_report"]
