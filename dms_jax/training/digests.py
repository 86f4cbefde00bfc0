"""Whether the files of a checkpoint are those that were written.

Orbax does not notice a flipped byte in array data: other numbers come back, and no error. So the last file
written into a checkpoint lists all the others with a digest of each.
"""

import hashlib
import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from dms_jax import files, reading
from dms_jax.errors import UserError, one_line
from dms_jax.files import identity_of

FILE = "digests.json"
META = "meta/metadata"
# Orbax touches these after the digests are taken; neither holds anything that is restored.
_NOT_DIGESTED = {FILE, "_CHECKPOINT_METADATA", "commit_success.txt"}


_HINT = "use another checkpoint"


@dataclass(frozen=True)
class Owner:
    """Whose a checkpoint is.

    Attributes:
      config: JSON values that say what the job is; None where that is not known, and not compared.
      phase: of the job.
    """

    config: Mapping[str, Any] | None
    phase: str

    @property
    def identity(self) -> str | None:
        """The hash of the configuration: the same for the same values, in whatever order."""
        return None if self.config is None else identity_of(self.config)

    def record(self) -> dict[str, Any]:
        """What a checkpoint carries, with which its configuration can be built again."""
        config = None if self.config is None else dict(self.config)
        return {"identity": self.identity, "phase": self.phase, "config": config}


def write_digests(folder: Path) -> None:
    """List every file below `folder`, with its SHA-256, in `folder/digests.json`, and put all of it on the disk."""
    names = sorted(p for p in folder.rglob("*") if p.is_file() and p.name not in _NOT_DIGESTED)
    digests = {p.relative_to(folder).as_posix(): _digest(p) for p in names}
    files.write(folder / FILE, json.dumps(digests, separators=(",", ":")).encode())
    files.sync_tree(folder)


def find_fault(folder: Path, owner: Owner | None = None) -> str | None:
    """Say in a few words why the checkpoint in `folder` cannot be used.

    Args:
        folder: a checkpoint, named by its step.
        owner: whose it has to be; None takes anybody's.

    Returns:
        What is wrong, or None where every file is there, is what was written, and belongs to this step, job and phase.
    """
    try:
        if folder.is_symlink():
            return "it is a link"
        expected = _expected(folder)
        for name, digest in expected.items():
            if _digest(folder / name) != digest:
                return f"{name} is not what was written"
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder).as_posix()
            known = name in expected or (path.name in _NOT_DIGESTED and path.is_file())
            if path.is_symlink() or not (path.is_dir() or known):
                return f"{name} was not written with it"
        content = _record(folder)
    except FileNotFoundError as error:
        return f"{_below(folder, error.filename)} is missing"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"it cannot be read: {one_line(error, 100)}"
    if str(content["step"]) != folder.name:
        return f"it was saved as step {content['step']}"
    return None if owner is None else _stranger(content, owner)


def find_special(folder: Path) -> str | None:
    """Say what in `folder` is neither a file nor a directory.

    Orbax looks into every checkpoint there is, not only into the one that is restored, and would wait at a pipe.
    """
    try:
        for path in sorted(folder.rglob("*")):
            if path.is_symlink() or not (path.is_dir() or path.is_file()):
                return f"{path.relative_to(folder).as_posix()} is neither a file nor a directory"
    except OSError as error:
        return f"it cannot be read: {one_line(error, 100)}"
    return None


def read_owner(folder: Path) -> dict[str, Any] | None:
    """What a checkpoint says about whose it is, where that part of it is what was written; else None."""
    try:
        if folder.is_symlink() or _digest(folder / META) != _expected(folder)[META]:
            return None
        owner = _record(folder).get("owner")
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not isinstance(owner, dict) or not isinstance(owner.get("config"), dict):
        return None
    return owner if owner.get("identity") == identity_of(owner["config"]) else None


def read_meta(folder: Path) -> dict[str, Any]:
    """The metadata that a checkpoint was saved with.

    Raises:
        UserError: it cannot be read.
        OSError: there is none.
    """
    return _record(folder)["meta"]


def _stranger(content: Mapping[str, Any], owner: Owner) -> str | None:
    said = content.get("owner")
    if not isinstance(said, dict):
        return "it does not say whose it is"
    if said.get("phase") != owner.phase:
        return f"it is of phase {reading.shown(said.get('phase'))}"
    if owner.identity is not None and said.get("identity") != owner.identity:
        return f"it is another job's, {str(said.get('identity'))[:12]} instead of {owner.identity[:12]}"
    return None


def _expected(folder: Path) -> dict[str, str]:
    """The digests that were written, of files below the folder alone."""
    expected = _read(folder / FILE, reading.mapping(reading.text(64), 2**20))
    if META not in expected:
        raise UserError(f"{FILE} does not list {META}")
    for name in expected:
        pure = PurePosixPath(name)
        if pure.is_absolute() or ".." in pure.parts or not pure.parts:
            raise UserError(f"{FILE} names {reading.shown(name)}, which is not of this checkpoint")
    return expected


def _record(folder: Path) -> dict[str, Any]:
    return _read(folder / META, reading.record({"step": reading.whole(0), "meta": reading.mapping(reading.anything)}))


def _read(path: Path, check: reading.Check) -> Any:
    path.stat()  # a missing file is named as such
    content = reading.read_bytes(path, hint=_HINT)
    return reading.parse(content, path.name, check, hint=_HINT)


def _below(folder: Path, filename: Any) -> str:
    path = Path(os.fsdecode(filename or folder))
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.name


def _digest(path: Path) -> str:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(None, "Not a regular file", str(path))
        return hashlib.file_digest(file, "sha256").hexdigest()
