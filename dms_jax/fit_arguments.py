"""What `dms_jax.fit` is given beside what it reads and searches: checked before a run directory is claimed.

A call that is refused after that leaves a directory which the corrected call cannot have.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from dms_jax import checks
from dms_jax.errors import UserError
from dms_jax.reading import shown
from dms_jax.training.results import Quality


def check(given: Mapping[str, Any]) -> None:
    """Refuse what no job can be made of.

    Args:
      given: arguments of `fit` by name.

    Raises:
      UserError: it names the argument, what was given and what is possible.
    """
    for name, value in given.items():
        POSSIBLE[name](name, value)
    if given["retrain"] == "scratch" and given["fresh"] is None:
        raise UserError('retrain="scratch" needs `fresh`: (structure, key) -> new parameters of those sizes')
    if given["finetune"] == 0:
        if given["retrain"] == "scratch":
            raise UserError(
                'retrain="scratch" begins with new parameters, which finetune=0 leaves untrained; give steps'
            )
        if given["average"] is not None:
            raise UserError("average is of a finetuning, and finetune=0 leaves it out; leave `average` out, too")


def _optional(one: Callable[[str, Any], Any]) -> Callable[[str, Any], Any]:
    return lambda name, value: None if value is None else one(name, value)


def _count(name: str, value: Any) -> None:
    checks.whole(name, value, 0)


def _at_least_one(name: str, value: Any) -> None:
    checks.whole(name, value, 1)


def _seed(name: str, value: Any) -> None:
    if checks.whole(name, value, 0) >= 2**32:
        raise UserError(f"{name} {value} is not possible; give a whole number below 2**32")


def _text(name: str, value: Any) -> None:
    if not isinstance(value, str):
        raise UserError(f"{name} {shown(value)} is not possible; give a text")


def _directory(name: str, value: Any) -> None:
    if not isinstance(value, str | os.PathLike) or not os.fspath(value):
        raise UserError(f"{name} {shown(value)} is not possible; give a path, such as runs/first; . is the current one")


def _evaluation(name: str, value: Any) -> None:
    if not isinstance(value, Quality):
        checks.called(name, value, "fn", "params")


def _batches(name: str, value: Any) -> None:
    for batch in _several(name, value, "batch sizes: (1, 64)"):
        checks.whole(name, batch, 1)


def _resources(name: str, value: Any) -> None:
    for resource in _several(name, value, "resources: (dms_jax.budgets.memory.Memory(batch=16),)"):
        checks.function(name, resource)


def _devices(name: str, value: Any) -> None:
    found = _several(name, value, "devices: jax.devices()[:1]")
    if not len(found) or not all(isinstance(device, jax.Device) for device in found):
        raise UserError(f"{name} {shown(value)} is not possible; give devices: jax.devices()[:1]")


def _several(name: str, value: Any, such_as: str) -> Sequence[Any] | np.ndarray:
    if not isinstance(value, Sequence | np.ndarray) or isinstance(value, str | bytes):
        raise UserError(f"{name} {shown(value)} is not possible; give {such_as}")
    return value


def _identity(name: str, value: Any) -> None:
    checks.by_name(name, value, '{"rate": 0.1}')
    try:
        json.dumps(value)
    except (TypeError, ValueError) as error:
        raise UserError(f"{name} {shown(value)} is not possible; give JSON values by name ({error})") from None


POSSIBLE: Mapping[str, Callable[[str, Any], Any]] = {
    "workdir": _directory,
    "evaluate": _optional(_evaluation),
    "steps": _at_least_one,
    "pretrain": _count,
    "finetune": _optional(_count),
    "trial": _count,
    "compare": checks.flag,
    "warmup": _count,
    "retrain": lambda name, value: checks.one_of(name, value, "sliced", "scratch"),
    "fresh": _optional(lambda name, value: checks.called(name, value, "structure", "key")),
    "resources": _resources,
    "accumulate": _at_least_one,
    "calibrate": _count,
    "average": _optional(lambda name, value: checks.number(name, value, "[0, 1)")),
    "seed": _seed,
    "devices": _optional(_devices),
    "fsdp": _at_least_one,
    "title": _optional(_text),
    "data": _text,
    "command": _optional(_text),
    "latency_batches": _batches,
    "identity": _optional(_identity),
}
"""Argument -> what refuses values that it cannot have."""
