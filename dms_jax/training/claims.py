"""Whose a run directory is: its configuration is claimed once, and can be built again from any checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dms_jax import checks, files, reading
from dms_jax.errors import UserError
from dms_jax.training.checkpoints import warn
from dms_jax.training.digests import read_owner

CONFIG = "config.json"
ELSEWHERE = "choose another --workdir"

RECORDED = ("metrics.jsonl", "masks.jsonl", "checkpoints", "results.json")
"""What a job leaves. Without a configuration beside it, it is somebody else's."""

_WRITTEN_THROUGH = ("lock", "checkpoints", "tensorboard", "metrics.jsonl", "masks.jsonl", "huggingface")

_ANY = reading.mapping(reading.anything)


def is_claimed(directory: Path, config: Mapping[str, Any]) -> bool:
    """Whether the directory is this job's; False where it is nobody's yet, or its configuration has to be built again.

    Raises:
      UserError: it is another job's, or holds links that would be written through.
    """
    refuse_links(directory)
    there, fault = _said(directory)
    if there is None:
        there = _from_checkpoints(directory, config)[0]
        if there is not None:
            _compare(directory, there, config)
        elif fault is not None:
            raise UserError(fault)
        else:
            _refuse_others(directory)
        return False
    _compare(directory, there, config)
    return True


def claim(directory: Path, config: Mapping[str, Any]) -> None:
    """Make the directory this job's, or see that it is; to be called in `lock.claiming`.

    Raises:
      UserError: it is another job's.
      OSError: it cannot be written.
    """
    if is_claimed(directory, config):
        return
    path = directory / CONFIG
    _, fault = _said(directory)
    there, source = _from_checkpoints(directory, config)
    if there is not None:
        warn(f"{fault or f'{path} is missing'}: it is built again from {source}")
        files.write_json(path, there)
    else:
        try:
            files.write_json(path, config, new=True)
        except FileExistsError:  # another job was quicker, on a file system without locks
            pass
    if not is_claimed(directory, config):
        raise UserError(f"{path} is not what was written; {ELSEWHERE}")


def configuration(directory: Path) -> dict[str, Any] | None:
    """What config.json says, if it can be read."""
    return _said(directory)[0]


def refuse_links(directory: Path) -> None:
    """Refuse symbolic links at the places where a run writes below or into what is there.

    Raises:
      UserError: there is one.
    """
    checkpoints = directory / "checkpoints"
    phases = checkpoints.iterdir() if checkpoints.is_dir() and not checkpoints.is_symlink() else ()
    for path in (*(directory / name for name in _WRITTEN_THROUGH), *phases):
        if path.is_symlink():
            raise UserError(f"{path} is a symbolic link, which is not followed; remove it, or {ELSEWHERE}")


def _said(directory: Path) -> tuple[dict[str, Any] | None, str | None]:
    """The configuration that stands there; or None, and what is wrong with it where there is one."""
    path = directory / CONFIG
    if not path.is_symlink() and not path.exists():
        return None, None
    left = any((directory / name).exists() for name in RECORDED)
    hint = f"{ELSEWHERE}, or remove {'the directory' if left else 'it'} to start again"
    try:
        return reading.read_json(path, _ANY, hint=hint), None
    except UserError as error:
        return None, str(error)


def _from_checkpoints(directory: Path, config: Mapping[str, Any]) -> tuple[dict[str, Any] | None, Path | None]:
    """The configuration that checkpoints were saved with: the one asked for, if some were; else that of any."""
    folders = [p for p in directory.glob("checkpoints/*/*") if checks.digits(p.name) and p.is_dir()]
    found = [(owner["config"], p) for p in sorted(folders) if (owner := read_owner(p)) is not None]
    return next((pair for pair in found if pair[0] == config), found[0] if found else (None, None))


def _refuse_others(directory: Path) -> None:
    for name in RECORDED:
        if (directory / name).exists():
            raise UserError(f"{directory} holds {name} of something else (no {CONFIG}); {ELSEWHERE}")


def _compare(directory: Path, there: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    if there == asked:
        return
    names = [name for name in {**asked, **there} if _shown(asked, name) != _shown(there, name)]
    differ = ", ".join(f"{name} {_shown(there, name)} there, {_shown(asked, name)} asked" for name in names[:4])
    more = f", and {len(names) - 4} more" if len(names) > 4 else ""
    raise UserError(f"{directory} holds another job ({differ}{more}); {ELSEWHERE}, or remove that one")


def _shown(config: Mapping[str, Any], name: str) -> str:
    return reading.shown(config[name]) if name in config else "absent"
