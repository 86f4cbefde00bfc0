"""Times that can be compared."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from scipy import stats


def interleaved_seconds(calls: Mapping[str, Callable[[], object]], rounds: int, warm: int = 0) -> dict[str, np.ndarray]:
    """Time calls in turn, A B C A B C ..., so that what else the machine does falls on all of them alike.

    Args:
      calls: each returns arrays, which are waited for.
      rounds: how often each is timed.
      warm: rounds before that, which do not count.

    Returns:
      {name: `[rounds]` seconds}.
    """
    seconds = {name: np.empty(warm + rounds) for name in calls}
    for i in range(warm + rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            jax.block_until_ready(call())
            seconds[name][i] = time.perf_counter() - start
    return {name: x[warm:] for name, x in seconds.items()}


def paired_ratio(seconds: np.ndarray, others: np.ndarray) -> tuple[float, float, float]:
    """How many times as long one call takes as another that was timed in the same rounds.

    A round is short beside what else a machine does, so that its two times share most of their noise; medians of all
    rounds do not.

    Args:
      seconds, others: `[rounds]`, of `interleaved_seconds`; at least 6.

    Returns:
      The median of the rounds' ratios, and the ends of its interval of at least 95 %, by order statistics.
    """
    ratios = np.sort(seconds / others)
    rank = int(stats.binom.ppf(0.025, len(ratios), 0.5))  # from either end, counted from 1
    return float(np.median(ratios)), float(ratios[rank - 1]), float(ratios[-rank])


def going_on(step: Callable[..., Any], state: Any, *arguments: Any, times: int = 1) -> Callable[[], Any]:
    """A call without arguments that takes some steps from the state that the last call left: the old one was donated.

    Args:
      step: `(state, *arguments) -> (state, metrics)`.
      state: the first one.
      *arguments: of every step.
      times: steps of a call.
    """

    def call() -> Any:
        nonlocal state
        metrics = None
        for _ in range(times):
            state, metrics = step(state, *arguments)
        return state, metrics

    return call


def spread(values: Sequence[float] | np.ndarray, digits: int) -> str:
    """`1.97 (1.89 to 1.99)`: the median, the least and the most."""
    return f"{np.median(values):.{digits}f} ({np.min(values):.{digits}f} to {np.max(values):.{digits}f})"
