"""What a teacher answers to examples that are seen again and again."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


class Teacher:
    """The original's logits of the training examples: computed when they are first asked for, and kept.

    Every example passes by itself, which takes no longer and makes its logits the same bits in every batch: a run that
    goes on is the run that was never stopped.

    Args:
      run: `[1, ...]`, one example as the network sees it -> logits `[1, C]`.
      examples: `[N, ...]`, all of them.
      classes: C.
    """

    def __init__(self, run: Callable[[np.ndarray], np.ndarray], examples: np.ndarray, classes: int):
        self._run, self._examples = run, examples
        self._answers = np.full((len(examples), classes), np.nan, np.float32)

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """Logits `[len(rows), C]` float32."""
        for row in rows[np.isnan(self._answers[rows, 0])]:
            self._answers[row] = self._run(self._examples[row : row + 1])[0]
        return self._answers[rows]


def in_batches(run: Callable[[np.ndarray], np.ndarray], examples: np.ndarray, at_once: int) -> np.ndarray:
    """What a network gives for all examples, `at_once` at a time: one compilation, whatever their number.

    Args:
      run: `[at_once, ...]` -> `[at_once, ...]`.
      examples: `[N, ...]`.

    Returns:
      `[N, ...]`.
    """
    rest = -len(examples) % at_once
    full = np.concatenate([examples, np.repeat(examples[:1], rest, axis=0)]) if rest else examples
    found = [np.asarray(run(full[i : i + at_once])) for i in range(0, len(full), at_once)]
    return np.concatenate(found)[: len(examples)]
