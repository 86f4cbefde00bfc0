"""Whose a run directory is: its configuration is claimed once, and can be built again from any checkpoint."""

from __future__ import annotations

import json
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

_HINT = "it is built again"
_ANY = reading.mapping(reading.anything)


def is_claimed(directory: Path, config: Mapping[str, Any]) -> bool:
    """Whether the directory is this job's; False where it is nobody's yet, or its configuration has to be built again.

    Numbers are the same however they are written, `8000000` and `8e6`; true and 1 are not.

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
            raise UserError(f"{fault}; {_again(directory)}")
        else:
            _refuse_others(directory)
        return False
    _compare(directory, there, config)
    return True


def claim(directory: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """Make the directory this job's, or see that it is; to be called in `lock.claiming`.

    Returns:
      The configuration as it stands there, with which its checkpoints were saved.

    Raises:
      UserError: it is another job's.
      OSError: it cannot be written.
    """
    there, fault = _said(directory)
    if is_claimed(directory, config) and there is not None:
        return there
    path = directory / CONFIG
    there, source = _from_checkpoints(directory, config)
    if there is not None:
        warn(f"{fault or f'{path} is missing'}: it is built again from {source}")
        files.write_json(path, there)
    else:
        try:
            files.write_json(path, config, new=True)
        except FileExistsError:  # another job was quicker, on a file system without locks
            pass
    there, _ = _said(directory)
    if not is_claimed(directory, config) or there is None:
        raise UserError(f"{path} is not what was written; {ELSEWHERE}")
    return there


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
    try:
        return reading.read_json(path, _ANY, hint=_HINT), None
    except UserError as error:
        return None, str(error).removesuffix(f"; {_HINT}")


def _again(directory: Path) -> str:
    left = any((directory / name).exists() for name in RECORDED)
    return f"{ELSEWHERE}, or remove {'the directory' if left else CONFIG} to start again"


def _from_checkpoints(directory: Path, config: Mapping[str, Any]) -> tuple[dict[str, Any] | None, Path | None]:
    """The configuration that checkpoints were saved with: the one asked for, if some were; else that of any."""
    folders = [p for p in directory.glob("checkpoints/*/*") if checks.digits(p.name) and p.is_dir()]
    found = [(owner["config"], p) for p in sorted(folders) if (owner := read_owner(p)) is not None]
    return next((pair for pair in found if _same(pair[0], config)), found[0] if found else (None, None))


def _refuse_others(directory: Path) -> None:
    for name in RECORDED:
        if (directory / name).exists():
            raise UserError(f"{directory} holds {name} of something else (no {CONFIG}); {ELSEWHERE}")


def _compare(directory: Path, there: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    names = [name for name in {**asked, **there} if not (name in asked and name in there)]
    names += [name for name in asked if name in there and not _same(asked[name], there[name])]
    if not names:
        return
    differ = ", ".join(f"{name} {_shown(there, name)} there, {_shown(asked, name)} asked" for name in names[:4])
    more = f", and {len(names) - 4} more" if len(names) > 4 else ""
    raise UserError(f"{directory} holds another job ({differ}{more}); {ELSEWHERE}, or remove that one")


def _same(one: Any, other: Any) -> bool:
    """Whether JSON values are the same: an object in any order, a number in any spelling."""
    return _spelled(one) == _spelled(other)


def _spelled(value: Any) -> str:
    return json.dumps(_whole(value), sort_keys=True)


def _whole(value: Any) -> Any:
    """JSON values with whole numbers as such."""
    if isinstance(value, dict):
        return {name: _whole(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [_whole(entry) for entry in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _shown(config: Mapping[str, Any], name: str) -> str:
    return reading.shown(config[name]) if name in config else "absent"
