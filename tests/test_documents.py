"""Python in the documents runs and prints what stands below it; the modules, files and links that they name exist."""

import ast
import contextlib
import dataclasses
import importlib.util
import io
import re
import sys
import types
from pathlib import Path

import jax
import pytest

import dms_jax
from dms_jax.program.operations import OPERATIONS
from experiments.flags import Budgets
from tests.fake_device import Device, installed

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EXAMPLES = re.compile(r"your_network_\w+\.md$")
"""Pages of programs that train for minutes; tests/test_examples.py runs these for a few steps."""

WITH_PYTHON = [path for path in DOCUMENTS if "```python" in path.read_text() and not EXAMPLES.search(path.name)]
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


@pytest.fixture
def quick(monkeypatch):
    """Fits of a few steps, without controls."""
    own, few = dms_jax.fit, {"steps": 4, "compare": False, "latency_batches": (1,), "devices": jax.devices()[:1]}
    monkeypatch.setattr(dms_jax, "fit", lambda *args, **options: own(*args, **{**options, **few}))


@pytest.fixture(autouse=True)
def device(monkeypatch):
    """What a document measures does not depend on what else runs here."""
    return installed(Device(), monkeypatch)


@pytest.fixture
def registered():
    """What a document registers goes with it."""
    before = dict(OPERATIONS)
    yield
    OPERATIONS.clear()
    OPERATIONS.update(before)
    sys.modules.pop("document", None)


def outputs(path):
    """Run a document's blocks in one module, in order: (line, what it printed, what stands below it or None)."""
    module = sys.modules["document"] = types.ModuleType("document")  # dataclasses look their module up
    for line, code, expected in cells(path):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            # the lines of an error, and of what the engine says of this network, are those of the document
            exec(compile("\n" * (line - 1) + code, name_of(path), "exec"), vars(module))
        yield line, printed.getvalue(), expected


@pytest.mark.parametrize("path", WITH_PYTHON, ids=name_of)
def test_python_runs_and_prints_what_it_says(path, tmp_path, monkeypatch, registered, quick):
    monkeypatch.chdir(tmp_path)
    for line, printed, expected in outputs(path):
        if expected is not None:
            assert printed.rstrip() == expected.rstrip(), f"{name_of(path)}:{line} printed\n{printed}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_modules_files_and_links_are_there(path):
    text = path.read_text()
    for module in re.findall(r"python -m ([\w.]+)", text):
        assert module in NOT_OURS or importlib.util.find_spec(module) is not None, module
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", BLOCK.sub("", text)):
        if not link.startswith("https://"):
            assert (path.parent / link).exists(), link
    files = re.findall(r"`((?:dms_jax|tests|experiments|docs)/[\w./]+)`", text)
    missing = [file for file in files if not (ROOT / file).exists()]
    assert not missing


def test_flags_are_there():
    """Every flag in a document is a field of some command's options."""
    commands = [*ROOT.glob("experiments/**/*.py"), ROOT / "dms_jax/data/prepare.py",
                *ROOT.glob("tests/*/__main__.py")]  # fmt: skip
    text = "\n".join(path.read_text() for path in commands)
    known = (
        {"help", *(field.name for field in dataclasses.fields(Budgets))}
        | set(re.findall(r"^ +(\w+): ", text, re.MULTILINE))
        | set(re.findall(r"\"--([\w-]+)\"", text))
    )
    for path in DOCUMENTS:
        ours = re.sub(r"^ *gcloud .*", "", path.read_text(), flags=re.MULTILINE)
        for flag in re.findall(r"(?<![\w-])--([a-z][\w-]+)", ours):
            assert flag in known or flag.replace("-", "_") in known, f"{name_of(path)}: --{flag}"


def test_the_documents_that_matter_have_python():
    assert {"README.md", "docs/custom_operations.md"} <= {name_of(path) for path in WITH_PYTHON}


def test_the_smallest_use_is_twelve_lines():
    """From a model to its small network; what is imported is not counted."""
    uses = [code for _, code, _ in cells(ROOT / "README.md") if "dms_jax.fit(" in code]
    lines = [[line for line in code.splitlines() if line and not line.startswith("import ")] for code in uses]
    assert ["from_nnx" in uses[0], "from_equinox" in uses[1]] == [True, True]
    assert len(lines[0]) == 12 and all(len(own) <= 12 for own in lines)


def written(path):
    """What people read of a file: a module's first words, or a whole page."""
    text = path.read_text(encoding="utf-8")
    return " ".join((ast.get_docstring(ast.parse(text)) or "" if path.suffix == ".py" else text).split())


def test_the_name_is_written_out_wherever_its_letters_stand():
    kinds = ("*.md", "*.ipynb", "*.cff", "*.toml", "dms_jax/**/*.py", "experiments/**/*.py")
    below = [ROOT, ROOT / "docs", ROOT / "docs/notebooks", ROOT / "experiments/benchmarks"]
    below += [ROOT / "experiments/benchmarks/results"]
    paths = {path for place in below for kind in kinds for path in place.glob(kind)}
    found = {path: written(path) for path in paths}
    short = [name_of(p) for p, text in found.items() if re.search(r"\bDMS\b", text)]
    assert len(short) > 20
    assert not [name for name in short if "Differentiable Model Scaling" not in found[ROOT / name]]
