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
"""Of all pictures of a set; more of them corrupted are an error."""

FEW = 2
"""So many are never an error: in a small set they say nothing about a share."""


class Corruption:
    """The pictures of a source that could not be read, by number, in this process and its workers.

    Attributes:
      numbers: of these pictures.
    """

    def __init__(self, source: Source):
        self.numbers: set[int] = set()
        self._source = source

    def checked(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Take the numbers off a batch; name on stderr those that are new, and count them.

        Raises:
          UserError: more than `FEW` pictures, and more than `SHARE` of the set, are corrupted.
        """
        corrupted, of_all = batch[CORRUPTED], f"of {len(self._source):,} pictures"
        for number in corrupted.tolist():
            if number not in self.numbers:
                self.numbers.add(number)
                what = f"{self._described(number)}, {len(self.numbers)} {of_all} so far"
                print(f"skipped, cannot be read: {what}", file=sys.stderr, flush=True)
        if len(self.numbers) > max(FEW, SHARE * len(self._source)):
            raise UserError(
                f"{len(self.numbers)} {of_all} cannot be read, the last is {self._source.name(int(corrupted[-1]))}; "
                f"more than {SHARE:.1%} is too many: prepare the data again"
            )
        return {name: leaf for name, leaf in batch.items() if name != CORRUPTED}

    def _described(self, number: int) -> str:
        """Its name and what is wrong, which is found out once more: it did not come along from the worker."""
        try:
            self._look(number)
        except Unreadable as error:
            return f"{self._source.name(number)} ({error})"
        return self._source.name(number)

    def _look(self, number: int) -> None:
        """Decode a picture.

        Raises:
          Unreadable: it cannot be.
        """
        resize_center(self._source[number].picture, 1, 1.0)
