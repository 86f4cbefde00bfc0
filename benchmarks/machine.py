"""Where a benchmark ran, and times that can be compared."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import numpy as np


def describe_machine() -> str:
    """One line: processor, cores that this process may use, accelerator, versions."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    device = "" if jax.default_backend() == "cpu" else f", {jax.devices()[0].device_kind}"
    return f"{_processor()}, {cores} cores{device}, jax {jax.__version__}, Python {platform.python_version()}"


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


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
