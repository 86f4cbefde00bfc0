"""Every block of Python in the documents runs, in order, and prints what stands below it; every module, file and link
that they name is there."""

import contextlib
import importlib.util
import io
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
WITH_PYTHON = [path for path in DOCUMENTS if "```python" in path.read_text()]
NOT_OURS = ("pip",)


def name_of(path):
    return str(path.relative_to(ROOT))


def cells(path):
    """(line, code, what it prints or None): a `text` block right after a `python` block is its output."""
    found = []
    for block in BLOCK.finditer(path.read_text()):
        line = path.read_text()[: block.start()].count("\n") + 2
        if block[1] == "python":
            found.append([line, block[2], None])
        elif block[1] == "text":
            assert found and found[-1][2] is None, f"{name_of(path)}:{line}: output of no block"
            found[-1][2] = block[2]
        else:
            raise AssertionError(f"{name_of(path)}:{line}: a block of {block[1] or 'nothing'}; give python or text")
    return found


def run(path, namespace):
    """Run a document's blocks one after another in one module."""
    for line, code, expected in cells(path):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            # the lines of an error, and of what the engine says of this network, are those of the document
            exec(compile("\n" * (line - 1) + code, str(path), "exec"), namespace)
        if expected is not None:
            assert printed.getvalue().rstrip() == expected.rstrip(), f"{name_of(path)}:{line}:\n{printed.getvalue()}"


@pytest.mark.parametrize("path", WITH_PYTHON, ids=name_of)
def test_python_runs_and_prints_what_it_says(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(path, {"__name__": "__main__"})


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_modules_files_and_links_are_there(path):
    text = path.read_text()
    for module in re.findall(r"python -m ([\w.]+)", text):
        assert module in NOT_OURS or importlib.util.find_spec(module) is not None, module
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        if not link.startswith("https://"):
            assert (path.parent / link).exists(), link
    files = re.findall(r"`((?:dms_jax|tests|experiments|benchmarks|docs)/[\w./]+)`", text)
    missing = [file for file in files if not (ROOT / file).exists()]
    assert not missing


def test_the_documents_that_matter_have_python():
    assert {"README.md", "docs/custom_operations.md"} <= {name_of(path) for path in WITH_PYTHON}
