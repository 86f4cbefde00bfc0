"""run.sh: which tool makes the environment, what it is asked for, and when nothing is installed again."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# An environment, as either tool makes it: a python that is this one, and says that it installs instead of doing it.
PYTHON = """#!/bin/bash
case "$*" in
    "-m pip --version") echo pip; exit ;;
    "-m pip config get global."*) exit 1 ;;
    "-m pip install"*) echo "pip ${*:3}" >>"$LOG"; exit ;;
    "-m venv"*) echo "venv ${*:3}" >>"$LOG"; exec "$MAKE" "${@: -1}" ;;
    "-c import ensurepip"*) [[ -z ${WITHOUT_ENSUREPIP:-} ]] || exit 1 ;;
esac
exec "$REAL" "$@"
"""
MAKE = """#!/bin/bash
mkdir -p "$1/bin" && touch "$1/pyvenv.cfg" && cp "$FAKE" "$1/bin/python"
"""
UV = """#!/bin/bash
if [[ $1 == --version ]]; then echo uv; exit; fi
echo "uv $*" >>"$LOG"
echo "$UV_DEFAULT_INDEX|$UV_FIND_LINKS|$SSL_CERT_FILE|$UV_INDEX_STRATEGY" >>"$LOG.settings"
case "$*" in *" venv "*) exec "$MAKE" "${@: -1}" ;; esac
"""


class Place:
    """A checkout of run.sh alone, with tools that write down what they are asked for."""

    def __init__(self, folder: Path):
        self.root, self.tools, self.log = folder / "a check out", folder / "tools", folder / "log"
        self.root.mkdir()
        self.tools.mkdir()
        shutil.copy(ROOT / "run.sh", self.root)
        (self.root / "pyproject.toml").write_text("[project]\n")
        for name, text in {"python3": PYTHON, "make": MAKE}.items():
            self.tool(name, text)

    def tool(self, name: str, text: str) -> Path:
        path = self.tools / name
        path.write_text(text)
        path.chmod(0o755)
        return path

    def run(self, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        keep = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "UV_", "DMS_", "PYTHON", "SSL_"))}
        own = {"PATH": f"{self.tools}:/usr/bin:/bin", "LOG": str(self.log), "REAL": sys.executable}
        own |= {"MAKE": str(self.tools / "make"), "FAKE": str(self.tools / "python3")}
        command = ["bash", str(self.root / "run.sh"), *(arguments or ("platform",))]
        return subprocess.run(command, env={**keep, **own, **settings}, capture_output=True, text=True, timeout=60)

    @property
    def asked(self) -> list[str]:
        """What tools were asked for since this was asked last."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return lines


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


def test_uv_makes_the_environment_where_it_is_installed(place):
    place.tool("uv", UV)
    done = place.run()
    assert done.returncode == 0 and "and uv" in done.stderr and "some seconds" in done.stderr
    made, installed = place.asked
    assert made.startswith("uv --quiet venv --seed --python python3 -- ") and made.endswith("/a check out/.venv")
    assert installed.startswith("uv --quiet pip install --python ")
    assert installed.endswith(f"--editable {place.root}[data,hub,report,text]")
    assert (place.root / ".venv" / "installed-data-hub-report-text").exists()


def test_venv_and_pip_do_where_there_is_no_uv(place):
    done = place.run()
    assert done.returncode == 0 and "some minutes" in done.stderr and "uv" not in done.stderr
    made, installed = place.asked
    assert made == f"venv --clear -- {place.root}/.venv"
    assert installed == f"pip install --quiet --editable {place.root}[data,hub,report,text]"


def test_what_either_installed_counts_for_both(place):
    place.tool("uv", UV)
    assert place.run(DMS_UV="").returncode == 0 and place.asked[0].startswith("venv")
    for settings in ({}, {"DMS_UV": ""}, {"DMS_UV": str(place.tools / "uv")}):
        done = place.run(**settings)
        assert (done.returncode, done.stderr, place.asked) == (0, "", [])
    (place.root / "pyproject.toml").write_text("[project]\nname = 'other'\n")
    assert place.run().returncode == 0
    assert [line.split()[:3] for line in place.asked] == [["uv", "--quiet", "pip"]]


def test_a_uv_that_does_not_run(place):
    place.tool("uv", "#!/bin/bash\nexit 1\n")
    assert place.run().returncode == 0 and place.asked[0].startswith("venv")
    done = place.run(DMS_UV=str(place.tools / "uv"))
    assert done.returncode == 2 and "does not run; set it to the path of uv" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_uv_gets_the_settings_of_pip_that_it_has_none_of_its_own_for(place):
    place.tool("uv", UV)
    of_pip = {"PIP_INDEX_URL": "https://mirror/simple", "PIP_FIND_LINKS": "/wheels  /more", "PIP_CERT": "/a.pem"}
    assert place.run(**of_pip, SSL_CERT_FILE="/b.pem").returncode == 0
    settings = (place.log.parent / "log.settings").read_text().splitlines()
    assert settings == ["https://mirror/simple|/wheels,/more|/b.pem|unsafe-best-match"] * 2


def test_uv_needs_no_ensurepip_and_venv_does(place):
    done = place.run(WITHOUT_ENSUREPIP="1", PYTHON=str(place.tools / "python3"))
    assert done.returncode == 2 and "is not a Python >= 3.11 with venv and pip" in done.stderr
    place.tool("uv", UV)
    assert place.run(WITHOUT_ENSUREPIP="1", PYTHON=str(place.tools / "python3")).returncode == 0


def test_a_folder_that_is_no_environment_is_left_alone(place):
    place.tool("uv", UV)
    (place.root / ".venv").mkdir()
    (place.root / ".venv" / "mine").write_text("")
    done = place.run()
    assert done.returncode == 2 and "holds something else" in done.stderr and place.asked == []
