"""Gradients of a mean loss, of the whole batch at once or of its parts one after another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from dms_jax.errors import UserError


def value_and_grad(f: Callable[..., Any], argnums: int | Sequence[int] = 0, parts: int = 1) -> Callable[..., Any]:
    """Differentiate a mean loss; with `parts` > 1 the batch passes in micro-batches, which takes less memory.

        loss = 1/P sum_p loss_p,   gradient = 1/P sum_p gradient_p,   metrics likewise

    All parts are as large, so this is the loss of the whole batch wherever no example looks at another. BatchNorm does:
    its statistics are those of a part, and its moving averages move once a part.

    Args:
      f: `(*inputs, model_state, batch, key) -> (mean loss, (changed collections, metrics))`. Metrics are scalars.
      argnums: of the inputs to differentiate by.
      parts: P, a divisor of the batch. 1 is `jax.value_and_grad` and nothing else. Part p takes the examples p, p + P,
        p + 2 P, ..., so that a batch that is cut evenly over devices stays where it is (as long as P divides the share
        of every device); model state goes from part to part, and part p draws from `fold_in(key, p)`.

    Returns:
      A function of the same arguments to `((loss, (changed collections, metrics)), gradient)`.

    Raises:
      UserError: fewer than one part, or (from the function) a batch that cannot be cut into them.
    """
    if parts < 1:
        raise UserError(f"gradients of {parts} parts are not possible; give a whole number of at least 1")
    whole = jax.value_and_grad(f, argnums, has_aux=True)
    if parts == 1:
        return whole

    def accumulated(*arguments: Any) -> Any:
        *inputs, model_state, batch, key = arguments
        pieces = _cut(batch, parts)

        def one(state: Any, piece: Any, number: Any) -> tuple[Any, Any]:
            (loss, (changed, metrics)), gradient = whole(*inputs, state, piece, jax.random.fold_in(key, number))
            metrics = {name: jnp.asarray(value, jnp.float32) for name, value in metrics.items()}
            return {**state, **changed}, (loss, metrics, gradient)

        def add(carry: Any, numbered: Any) -> tuple[Any, None]:
            state, total = carry
            state, new = one(state, *numbered)
            return (state, jax.tree.map(jnp.add, total, new)), None

        first = jax.tree.map(lambda leaf: leaf[0], pieces)
        state, sums = jax.eval_shape(one, model_state, first, 0)
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), sums)
        if jax.tree.structure(state) != jax.tree.structure(model_state):
            raise ValueError(
                f"the loss makes collections {sorted(state)} of {sorted(model_state)}: initialise them all"
            )
        (state, total), _ = jax.lax.scan(add, (model_state, zeros), (pieces, jnp.arange(parts)))
        loss, metrics, gradient = jax.tree.map(lambda leaf: leaf / parts, total)
        return (loss, (state, metrics)), gradient

    return accumulated


def _cut(batch: Any, parts: int) -> Any:
    """`[B, ...]` -> `[parts, B / parts, ...]`, neighbours in different parts.

    A device that holds the examples b to b + n of a batch holds n / parts of every part: nothing is sent.
    """

    def one(leaf: jax.Array) -> jax.Array:
        if leaf.shape[0] % parts:
            raise UserError(f"a batch of {leaf.shape[0]} cannot be cut into {parts} parts; take a multiple of {parts}")
        return jnp.moveaxis(leaf.reshape(-1, parts, *leaf.shape[1:]), 1, 0)

    return jax.tree.map(one, batch)
