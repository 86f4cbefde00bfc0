"""BatchNorm statistics estimated anew: running ones lag behind weights that have just changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from dms_jax.method.loss import Loss, outcome
from dms_jax.partition import combine, merged, partition, under_params


def calibrated(
    loss: Loss, params: Any, batches: Callable[[int], Any], key: jax.Array, count: int, trained: Any = under_params
) -> Any:
    """The parameters, with running statistics replaced by the mean of those of `count` batches.

        s = mean_b (step(0, b)) / (1 - m),      m = step(1, b) - step(0, b),      step(s, b) = m s + (1 - m) stat(b)

    so the momentum m is read off the model and need not be known. It matters after short training: at a momentum of
    .99, 100 steps leave a third of the first statistics in the running ones, and the rest is that of older weights.

    Args:
      loss: of the network, as in training; its "state" is what its forward pass changes.
      params: the whole tree, running statistics among them; only floating-point numbers that `loss` changes are
        replaced.
      batches: from a number to a batch, on the devices.
      key: of dropout and the like.
      count: batches, at least 1.
      trained: which leaves are trained, as `dms_jax.partition.partition` takes it.

    Returns:
      New parameters; what is trained are the same arrays.
    """
    evaluate, (weights, rest) = outcome(loss), partition(params, trained)

    @jax.jit
    def step(state: Any, weights: Any, rest: Any, batch: Any, key: jax.Array) -> Any:
        return _statistics(evaluate(combine(weights, merged(rest, state)), batch, key)[1][0])

    batch = batches(0)  # once: a loader that is asked for another step than the next begins anew
    shapes = jax.eval_shape(step, None, weights, rest, batch, key)
    zeros, ones = (jax.tree.map(lambda x, fill=fill: jnp.full(x.shape, fill, x.dtype), shapes) for fill in (0, 1))
    keys = [jax.random.fold_in(key, i) for i in range(count)]
    total = first = step(zeros, weights, rest, batch, keys[0])
    kept = jax.tree.map(jnp.subtract, step(ones, weights, rest, batch, keys[0]), first)
    for i in range(1, count):
        total = jax.tree.map(jnp.add, total, step(zeros, weights, rest, batches(i), keys[i]))
    return combine(weights, merged(rest, jax.tree.map(lambda s, m: s / (count * (1 - m)), total, kept)))


def _statistics(state: Any) -> Any:
    """Of new values those that can be averaged: no counts, no keys."""
    return jax.tree.map(lambda leaf: leaf if jnp.issubdtype(leaf.dtype, jnp.inexact) else None, state)
