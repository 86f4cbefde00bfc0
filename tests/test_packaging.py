"""What an installation holds, and what a newcomer reads first."""

import re
import tomllib
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_a_wheel_holds_this_package_alone():
    """`experiments` in site-packages would take that name from everybody."""
    patterns = PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]
    packages = {".".join(path.parent.relative_to(ROOT).parts) for path in ROOT.glob("*/**/__init__.py")}
    taken = {name for name in packages if any(fnmatch(name, pattern) for pattern in patterns)}
    assert {name.split(".")[0] for name in taken} == {"dms_jax"} and "dms_jax.program" in taken
    assert PROJECT["tool"]["setuptools"]["package-data"]["dms_jax"] == ["py.typed"]
    assert (ROOT / "dms_jax" / "py.typed").read_text() == ""


def test_the_citation_is_of_this_version():
    (version,) = re.findall(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert version == PROJECT["project"]["version"]


def test_the_readme_is_read_in_minutes():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 150
    first = text.split("```python\n")[1].split("```")[0]
    assert len([line for line in first.splitlines() if line.strip()]) <= 25
