"""Measured latency: MACs are a promise, milliseconds are what a user gets."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any, TypeAlias

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from dms_jax.program.symbolic import resized
from dms_jax.training.interrupt import stop_if_requested
from dms_jax.training.processes import on_first

Network: TypeAlias = tuple[Callable[..., Any], Any]  # (params, *inputs) -> outputs, and the parameters

LEAST_PROMISE = 1.25
"""MACs before / after; below it nothing is said about latency."""


def latencies(networks: Mapping[str, Network], example: Any, batch: int, *, seconds: float = 1.0) -> dict[str, float]:
    """Median milliseconds of one forward pass of several networks, measured in turn so that drift hits all alike.

    With several processes all of them call this: they make the same number of passes, as networks that are cut over
    their devices need it, and get what the first one measured.

    Args:
      networks: name -> (forward, params). `forward(params, *inputs)` is compiled before it is timed.
      example: shape and dtype of one input with batch 1, or a tuple of all inputs; zeros of them are fed. What has the
        first one's leading size has a batch.
      batch: how many at once.
      seconds: how long to measure each network, about; at least 5 passes are made.

    Returns:
      name -> median milliseconds of a pass of the whole batch, result awaited, on the devices of the parameters.

    Raises:
      Interrupted: a signal came; between two passes.
    """
    zeros = _zeros(example if isinstance(example, tuple) else (example,), batch)
    inputs = {name: _beside(v, zeros) for name, (_, v) in networks.items()}
    passes = {name: jax.jit(forward).lower(v, *inputs[name]).compile() for name, (forward, v) in networks.items()}
    times: dict[str, list[float]] = {name: [] for name in networks}

    def once() -> None:
        stop_if_requested("latency was measured")
        for name, (_, params) in networks.items():
            start = time.perf_counter()
            jax.block_until_ready(passes[name](params, *inputs[name]))
            times[name].append(1000 * (time.perf_counter() - start))

    once()  # allocates, and is not counted
    for values in times.values():
        values.clear()
    once()
    took = sum(map(sum, times.values())) / 1000
    rounds = on_first(lambda: max(5, math.ceil(seconds * len(networks) / max(took, 1e-6))))
    for _ in range(rounds - 1):
        once()
    return on_first(lambda: {name: median(values) for name, values in times.items()})


def _zeros(example: tuple[Any, ...], batch: int) -> Any:
    return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype) if hasattr(x, "shape") else x, resized(example, batch))


def _beside(params: Any, inputs: Any) -> Any:
    """Inputs on the devices of the parameters, whole on each."""
    sharding = getattr(jax.tree.leaves(params)[0], "sharding", None)
    if isinstance(sharding, NamedSharding):
        return jax.device_put(inputs, NamedSharding(sharding.mesh, PartitionSpec()))
    return jax.device_put(inputs, sharding)


def latency_warnings(full: Mapping[str, float], found: Mapping[str, float], macs: tuple[int, int]) -> list[str]:
    """What to tell a user whose network got smaller and hardly faster.

    Args:
      full, found: batch size -> milliseconds, before and after.
      macs: before and after.

    Returns:
      A sentence for every batch size at which less than half of the promised speed-up arrived: of 5 times fewer MACs,
      a network less than 3 times as fast (no speed-up is 1 time as fast). None where MACs fell by less than a fifth,
      which the noise of a measurement hides.
    """
    promised = macs[0] / max(macs[1], 1)
    got = {batch: full[batch] / found[batch] for batch in full}
    return [
        f"{promised:.1f} times fewer MACs, but a batch of {batch} is only {times:.1f} times as fast: at this size "
        "other costs than multiply-adds dominate; try multiples of 8 or more elements or a larger batch, or bound "
        "milliseconds (a budget on latency)"
        for batch, times in got.items()
        if promised >= LEAST_PROMISE and times - 1 < (promised - 1) / 2
    ]


def rows(networks: Mapping[str, Network], example: Any, batches: Sequence[int]) -> dict[str, dict[str, float]]:
    """name -> {batch size: milliseconds}, as a results table takes it."""
    measured = {batch: latencies(networks, example, batch) for batch in batches}
    return {name: {str(batch): measured[batch][name] for batch in batches} for name in networks}
