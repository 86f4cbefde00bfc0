"""A new file is a new strategy or a new measure of the command line, by itself; nothing imports upward."""

import ast
import sys
from pathlib import Path

import pytest

import dms_jax
from dms_jax import baselines
from dms_jax.method.dms import DMS
from dms_jax.method.importance import Importance

MINE = """
from dataclasses import dataclass

from dms_jax.method.dms import DMS
from dms_jax.method.importance import Evidence, Importance, taylor


@dataclass(frozen=True)
class Mine(DMS):
    rate: float = 3.0


def curvature(e: Evidence):
    return e.gradient**2 * e.mask


slow = Importance(taylor, 0.999)


def helper(x):
    return x
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.setattr(baselines, "__path__", [*baselines.__path__, str(tmp_path)])
    for found in (baselines.strategies, baselines.importances):
        found.cache_clear()
    yield
    sys.modules.pop("dms_jax.baselines.mine", None)
    for found in (baselines.strategies, baselines.importances):
        found.cache_clear()


def test_a_new_file_is_found(mine):
    assert baselines.strategies()["mine"].__name__ == "Mine" and baselines.create("mine").rate == 3.0
    assert baselines.importances()["curvature"].decay == 0.99 and baselines.importances()["slow"].decay == 0.999
    assert "helper" not in baselines.importances() and baselines.importances()["taylor"] == Importance()
    assert next(iter(baselines.strategies())) == "dms" and baselines.strategies()["dms"] is DMS


ROOMS = {"method": 1, "baselines": 2, "training": 3, "report": 3}
"""How high a folder stands; files beside the folders stand lowest, but for those that belong to training."""


def imported(path: Path) -> list[str]:
    """Modules of this package that a file imports when it is imported itself."""
    found = []
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("dms_jax"):
            found += [node.module, *(f"{node.module}.{name.name}" for name in node.names)]
        elif isinstance(node, ast.Import):
            found += [name.name for name in node.names if name.name.startswith("dms_jax")]
    return found


def test_nothing_imports_upward():
    root = Path(dms_jax.__path__[0])
    for path in [*root.glob("*.py"), *root.glob("method/*.py"), *root.glob("baselines/*.py")]:
        height = ROOMS.get(path.parent.name, 0)
        if path.name in ("__init__.py", "export.py") and height == 0:
            continue
        for module in imported(path):
            room = (module.split(".") + [""])[1]
            assert ROOMS.get(room, 0) <= height, f"{path.name} imports {module}"


def test_files_are_short():
    root = Path(dms_jax.__path__[0])
    for path in [*root.glob("method/*.py"), *root.glob("baselines/*.py"), root / "topk.py"]:
        assert len(path.read_text().splitlines()) <= 300, path.name
