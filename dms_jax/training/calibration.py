"""BatchNorm statistics estimated anew: running ones lag behind weights that have just changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from dms_jax.search import Loss


def calibrated(
    loss: Loss, variables: dict[str, Any], batches: Callable[[int], Any], key: jax.Array, count: int
) -> dict[str, Any]:
    """The variables, with running statistics replaced by the mean of those of `count` batches.

        s = mean_b (step(0, b)) / (1 - m),      m = step(1, b) - step(0, b),      step(s, b) = m s + (1 - m) stat(b)

    so the momentum m is read off the model and need not be known. It matters after short training: at a momentum of
    .99, 100 steps leave a third of the first statistics in the running ones, and the rest is that of older weights.

    Args:
      loss: of the network, as in training; it returns the collections that its forward pass changes.
      variables: params and running statistics (batch_stats); only what `loss` changes is replaced.
      batches: from a number to a batch, on the devices.
      key: of dropout and the like.
      count: batches, at least 1.

    Returns:
      New variables; params are the same arrays.
    """

    @jax.jit
    def changed(state: dict[str, Any], fixed: dict[str, Any], batch: Any, key: jax.Array) -> dict[str, Any]:
        return loss({**fixed, **state}, batch, key)[1][0]

    batch = batches(0)  # once: a loader that is asked for another step than the next begins anew
    names = jax.eval_shape(changed, {}, variables, batch, key)
    fixed = {name: tree for name, tree in variables.items() if name not in names}
    zeros = {name: jax.tree.map(jnp.zeros_like, variables[name]) for name in names}
    ones = jax.tree.map(jnp.ones_like, zeros)
    keys = [jax.random.fold_in(key, i) for i in range(count)]
    total = first = changed(zeros, fixed, batch, keys[0])
    kept = jax.tree.map(jnp.subtract, changed(ones, fixed, batch, keys[0]), first)
    for i in range(1, count):
        total = jax.tree.map(jnp.add, total, changed(zeros, fixed, batches(i), keys[i]))
    return {**variables, **jax.tree.map(lambda s, m: s / (count * (1 - m)), total, kept)}
