"""Times that can be compared."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np


def interleaved_seconds(calls: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, np.ndarray]:
    """Time calls in turn, A B C A B C ..., so that what else the machine does falls on all of them alike.

    Args:
      calls: warmed up; each returns arrays, which are waited for.
      rounds: how often each is timed.

    Returns:
      {name: `[rounds]` seconds}.
    """
    seconds = {name: np.empty(rounds) for name in calls}
    for i in range(rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            jax.block_until_ready(call())
            seconds[name][i] = time.perf_counter() - start
    return seconds


def spread(values: Sequence[float] | np.ndarray, digits: int) -> str:
    """`1.97 (1.89 to 1.99)`: the median, the least and the most."""
    return f"{np.median(values):.{digits}f} ({np.min(values):.{digits}f} to {np.max(values):.{digits}f})"
