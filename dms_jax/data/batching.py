"""Batches of arrays in memory, in an order that depends on nothing but a seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache

import numpy as np

from dms_jax.errors import UserError


def batches(arrays: Mapping[str, np.ndarray], batch_size: int, seed: int) -> Callable[[int], dict[str, np.ndarray]]:
    """Return `batch(step)`, the batch of any step: a resumed run sees the examples it would have seen.

    Example number `step * batch_size + i` of the run is number `n mod N` of epoch `n // N`, and every epoch is a new
    permutation of all N examples: each is seen once an epoch, and a batch may reach from one epoch into the next.

    Args:
      arrays: `[N, ...]` each, with the same N.
      batch_size: examples of a batch, at least 1; may be above N.
      seed: at least 0.

    Returns:
      A function of a step >= 0 to `{name: [batch_size, ...]}`, copies. Two permutations are kept, so that steps in
      their order, or from any step on, cost the copy alone.

    Raises:
      UserError: no examples, arrays of different lengths, or a batch size below 1.
    """
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) != 1 or 0 in lengths.values():
        raise UserError(f"arrays of lengths {lengths}; give at least one array, all with the same number of examples")
    if batch_size < 1:
        raise UserError(f"batch size {batch_size} is below 1; give the number of examples of one batch")
    length = next(iter(lengths.values()))

    @lru_cache(maxsize=2)
    def permutation(epoch: int) -> np.ndarray:
        return np.random.default_rng((seed, epoch)).permutation(length)

    def batch(step: int) -> dict[str, np.ndarray]:
        if step < 0:
            raise ValueError(f"step {step} is below 0, the first step")
        first, end = step * batch_size, (step + 1) * batch_size
        epochs = range(first // length, (end - 1) // length + 1)
        pieces = [permutation(e)[max(first - e * length, 0) : end - e * length] for e in epochs]
        chosen = np.concatenate(pieces)
        return {name: array[chosen] for name, array in arrays.items()}

    return batch
