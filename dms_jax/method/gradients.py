"""Gradients of a mean loss, of the whole batch at once or of its parts one after another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from dms_jax import checks
from dms_jax.errors import UserError
from dms_jax.partition import merged


def value_and_grad(f: Callable[..., Any], argnums: int | Sequence[int] = 0, parts: int = 1) -> Callable[..., Any]:
    """Differentiate a mean loss; with `parts` > 1 the batch passes in micro-batches, which takes less memory.

        loss = 1/P sum_p loss_p,   gradient = 1/P sum_p gradient_p,   metrics likewise

    All parts are as large, so this is the loss of the whole batch wherever no example looks at another. BatchNorm does:
    its statistics are those of a part, and its moving averages move once a part.

    Args:
      f: `(*inputs, rest, batch, key) -> (mean loss, (state, metrics))`: the leaves that are not trained, and new values
        for some of them, as `loss.outcome` has it. Metrics are scalars.
      argnums: of the inputs to differentiate by.
      parts: P, a divisor of the batch. 1 is `jax.value_and_grad` and nothing else. Part p takes the examples p, p + P,
        p + 2 P, ..., so that a batch that is cut evenly over devices stays where it is (as long as P divides the share
        of every device); state goes from part to part, and part p draws from `fold_in(key, p)`.

    Returns:
      A function of the same arguments to `((loss, (state, metrics)), gradient)`.

    Raises:
      UserError: fewer than one part, or (from the function) a batch that cannot be cut into them.
    """
    checks.whole("accumulate", parts, 1)
    whole = jax.value_and_grad(f, argnums, has_aux=True)
    if parts == 1:
        return whole

    def accumulated(*arguments: Any) -> Any:
        *inputs, rest, batch, key = arguments
        pieces = _cut(batch, parts)

        def one(rest: Any, piece: Any, number: Any) -> tuple[Any, Any]:
            (loss, (state, metrics)), gradient = whole(*inputs, rest, piece, jax.random.fold_in(key, number))
            metrics = {name: jnp.asarray(value, jnp.float32) for name, value in metrics.items()}
            return merged(rest, state), (loss, metrics, gradient)

        def add(carry: Any, numbered: Any) -> tuple[Any, None]:
            rest, total = carry
            rest, new = one(rest, *numbered)
            return (rest, jax.tree.map(lambda old, leaf: old + leaf.astype(old.dtype), total, new)), None

        first = jax.tree.map(lambda leaf: leaf[0], pieces)
        _, sums = jax.eval_shape(one, rest, first, 0)
        # a sum in half precision loses small terms, or is infinite where the mean is not
        zeros = jax.tree.map(lambda leaf: in_full(jnp.zeros(leaf.shape, leaf.dtype)), sums)
        (rest, total), _ = jax.lax.scan(add, (rest, zeros), (pieces, jnp.arange(parts)))
        loss, metrics, gradient = jax.tree.map(lambda sum, leaf: (sum / parts).astype(leaf.dtype), total, sums)
        return (loss, (rest, metrics)), gradient

    return accumulated


def in_full(leaf: jax.Array) -> jax.Array:
    """An array as it is, but for one of half precision, in which nothing can be summed up: that is made float32."""
    half = jnp.issubdtype(leaf.dtype, jnp.floating) and leaf.dtype.itemsize < 4
    return leaf.astype(jnp.float32) if half else leaf


def _cut(batch: Any, parts: int) -> Any:
    """`[B, ...]` -> `[parts, B / parts, ...]`, neighbors in different parts.

    A device that holds the examples b to b + n of a batch holds n / parts of every part: nothing is sent.
    """

    def one(leaf: jax.Array) -> jax.Array:
        check_parts(leaf, parts)
        return jnp.moveaxis(leaf.reshape(-1, parts, *leaf.shape[1:]), 1, 0)

    return jax.tree.map(one, batch)


def check_parts(leaf: Any, parts: int) -> None:
    """Refuse a leaf of a batch that cannot be cut into parts."""
    shape = jnp.shape(leaf)
    if parts > 1 and (not shape or shape[0] % parts):
        raise UserError(f"a batch of {shape} cannot be cut into {parts} parts; take a multiple of {parts}")
