"""`python -m dms_jax` names every command there is, with a line each, and loads nothing to do so."""

import subprocess
import sys
from pathlib import Path

from dms_jax.__main__ import commands

ROOT = Path(__file__).parents[1]


def test_every_command_is_listed_with_a_line():
    found = commands()
    there = {p.stem for p in (ROOT / "experiments").glob("*.py") if '__name__ == "__main__"' in p.read_text()}
    assert {f"experiments.{name}" for name in there} <= set(found)
    assert {"dms_jax.data.prepare", "experiments.benchmarks"} <= set(found)
    assert all(20 < len(line) <= 120 for line in found.values())


def test_it_prints_them_without_loading_jax():
    code = "import sys; from dms_jax.__main__ import main; main(); print('jax' in sys.modules, file=sys.stderr)"
    ran = subprocess.run([sys.executable, "-P", "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0 and ran.stderr.strip() == "False"
    assert "python -m experiments.digits_search " in ran.stdout and "--help" in ran.stdout


def test_folders_of_others_are_not_listed(tmp_path):
    """Beside an installed package there may be anybody's experiments."""
    main = '"""One line."""\nif __name__ == "__main__":\n    pass\n'
    for package in ("dms_jax", "experiments", "experiments/benchmarks"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "tool.py").write_text(main)
    assert commands(tmp_path) == {"dms_jax.tool": "One line."}
    (tmp_path / "pyproject.toml").write_text("")
    (tmp_path / "experiments" / "half.py").write_text("def (\n" + main)
    (tmp_path / "experiments" / "other.py").write_bytes(b'"""\xff"""\nif __name__ == "__main__":\n    pass\n')
    names = ["dms_jax.tool", "experiments.benchmarks.tool", "experiments.other", "experiments.tool"]
    assert list(commands(tmp_path)) == names
