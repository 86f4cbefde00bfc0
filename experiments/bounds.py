"""Every number that a command line takes, with its range: checked in one place, before a run directory is claimed.

A command that is refused after its directory was claimed leaves a directory that the corrected command cannot have.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from dms_jax.errors import UserError, shortened
from experiments.flags import Budgets

_MOST_STEPS = 10**9


class Bounds(NamedTuple):
    """From `least` (or above it) to `most` (or below it)."""

    least: float
    most: float
    above: bool = False
    below: bool = False

    def holds(self, value: float) -> bool:
        """Whether a number lies within; NaN does not."""
        low = value > self.least if self.above else value >= self.least
        return low and (value < self.most if self.below else value <= self.most)

    def words(self, whole: bool) -> str:
        """`a whole number of at least 1 and at most 1,000`."""
        low = f"{'above' if self.above else 'of at least'} {self.least:g}"
        high = f"{'below' if self.below else 'at most'} {self.most:,.15g}"
        return f"give a {'whole ' if whole else ''}number {low} and {high}"


_SHARE = Bounds(0, 1)
_ALPHA = Bounds(0, 1e3)
_COUNT = Bounds(1, 2**20)
_STEPS = Bounds(1, _MOST_STEPS)
_EPOCHS = Bounds(0, 1e6, above=True)
_RATE = Bounds(0, 1e6, above=True)

BOUNDS: dict[str, Bounds] = {
    "accumulate": _COUNT,
    "average": Bounds(0, 1, below=True),
    "batch": _COUNT,
    "calibrate": Bounds(0, 10**6),
    "block_trial": Bounds(0, _MOST_STEPS),
    "center": Bounds(0, 1, above=True),
    "crops": Bounds(1, 10**4),
    "cutmix": _ALPHA,
    "devices": Bounds(1, 2**16),
    "distill": Bounds(0, 1e6),
    "drop_path": Bounds(0, 1, below=True),
    "epochs": _EPOCHS,
    "erasing": _SHARE,
    "finetune_steps": _STEPS,
    "fsdp": Bounds(1, 2**16),
    "label_smoothing": Bounds(0, 1, below=True),
    "latency_batches": Bounds(1, 2**16),
    "learning_rate": _RATE,
    "min_size": Bounds(0, 2**24),
    "length": Bounds(1, 2**20),
    "mixup": _ALPHA,
    "objects": Bounds(1, 2**14),
    "per_type": Bounds(1, 10**6),
    "pretrain_steps": _STEPS,
    "process": Bounds(0, 2**20),
    "processes": _COUNT,
    "ratio_together": Bounds(0, 1),
    "resolution": Bounds(1, 4096),
    "search_epochs": _EPOCHS,
    "search_warmup_epochs": Bounds(0, 1e6),
    "seed": Bounds(0, 2**32 - 1),
    "steps": _STEPS,
    "teacher_resolution": Bounds(1, 4096),
    "temperature": Bounds(0, 1e6, above=True),
    "test_windows": Bounds(1, 10**9),
    "warmup_epochs": Bounds(0, 1e6),
    "warmup_steps": Bounds(0, _MOST_STEPS),
    "resource_weight": Bounds(0, 1e12),
    "weight_decay": Bounds(0, 1e3),
    "workers": Bounds(0, 1024),
}
"""Field of a command's configuration -> the numbers it takes. Where it is None, there is nothing to check."""

OF_THE_SEARCH = frozenset(
    ("flops", "divisible_by", "ratio_rate", "ratio_slack", *(field.name for field in dataclasses.fields(Budgets)))
)
"""Whose range depends on the network or the strategy: the search refuses them, likewise before a run is claimed."""

_MOST_TEXT = 4096


def check(config: Any) -> None:
    """Refuse numbers out of range, and texts that name no file.

    Args:
      config: a dataclass of flags, with further ones inside.

    Raises:
      UserError: it names the flag, what was given and what is possible.
    """
    for name, value in numbers(config):
        if name in OF_THE_SEARCH:
            continue
        bounds = BOUNDS[name]
        if not bounds.holds(value):
            flag = f"--{name.replace('_', '-')} {shortened(repr(value), 40)}"
            raise UserError(f"{flag} is not possible; {bounds.words(isinstance(value, int))}")
    for name, value in _values(config):
        if isinstance(value, str | Path) and (len(str(value)) > _MOST_TEXT or not _is_text(str(value))):
            flag = f"--{name.replace('_', '-')} {shortened(ascii(str(value)), 40)}"
            raise UserError(f"{flag} is not possible; give a text in UTF-8 of at most {_MOST_TEXT} characters")


def numbers(config: Any) -> Iterator[tuple[str, int | float]]:
    """The numbers of a configuration, each with the name of its field."""
    for name, value in _values(config):
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield name, value


def _values(config: Any) -> Iterator[tuple[str, Any]]:
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from _values(value)
        elif isinstance(value, Mapping):
            yield from ((field.name, entry) for pair in value.items() for entry in pair)
        elif isinstance(value, tuple | list):
            yield from ((field.name, entry) for entry in value)
        else:
            yield field.name, value


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in value
