"""Pictures that cannot be read: named once, skipped, counted, and an error when they are many."""

from __future__ import annotations

import sys

import numpy as np

from dms_jax.data.pictures import Unreadable, resize_center
from dms_jax.data.sources import Source
from dms_jax.errors import UserError

CORRUPTED = "corrupted"
"""The leaf of a loaded batch with the numbers of pictures that could not be read: so they come from workers, too."""

SHARE = 1e-3
"""Of the pictures read; more of them corrupted are an error."""

FEW = 10
"""So many are never an error: they say nothing about a share."""


class Corruption:
    """The pictures of a source that could not be read, by number, in this process and its workers.

    Attributes:
      numbers: of these pictures.
      read: pictures read, each counted once at most.
    """

    def __init__(self, source: Source):
        self.numbers: set[int] = set()
        self.read = 0
        self._source = source

    def checked(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Take the numbers off a batch; name on stderr those that are new.

        Raises:
          UserError: more than `FEW` pictures, and more than `SHARE` of those read, are corrupted.
        """
        corrupted = batch[CORRUPTED]
        self.read = min(self.read + len(batch["label"]) + len(corrupted), len(self._source))
        for number in corrupted.tolist():
            if number not in self.numbers:
                print(f"skipped, cannot be read: {self._described(number)}", file=sys.stderr, flush=True)
            self.numbers.add(number)
        if len(self.numbers) > max(FEW, SHARE * self.read):
            raise UserError(
                f"{len(self.numbers)} of {self.read} pictures cannot be read, the last is "
                f"{self._source.name(int(corrupted[-1]))}; more than {SHARE:.1%} is too many: prepare the data again"
            )
        return {name: leaf for name, leaf in batch.items() if name != CORRUPTED}

    def _described(self, number: int) -> str:
        """Its name and what is wrong, which is found out once more: it did not come along from the worker."""
        try:
            resize_center(self._source[number].picture, 1, 1.0)
        except Unreadable as error:
            return f"{self._source.name(number)} ({error})"
        return self._source.name(number)
