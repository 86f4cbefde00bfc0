"""How pruning ratios move: Adam, on what they have in common and on each by itself."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax


class TogetherState(NamedTuple):
    """Moments of the common gradient, a scalar, and of every ratio's own, `[ratios]`."""

    common: optax.OptState
    own: optax.OptState


def adam_together(
    rate: optax.ScalarOrSchedule, share: float, members: np.ndarray | jax.Array, *, common: bool = True
) -> optax.GradientTransformation:
    """Adam that moves some ratios together, each of them by itself more slowly, and others as ever.

        a_i <- a_i - rate ((1 - share) adam(g_i) + share adam(sum_j g_j))        members, j over all of them
        a_i <- a_i - rate adam(g_i)                                              others

    Adam gives every ratio steps of one length, however little its gradient says. Each by itself, ratios run apart as
    fast as they follow the target; together they follow it, and come to differ at the pace of their own share.

    Args:
      rate: a number or a schedule; its sum over the steps is about how far a ratio can move.
      share: of the members' rate in [0, 1] that goes to their common movement; 0 is Adam.
      members: `[ratios]` bool, those that take part in it.
      common: False leaves the common movement out: something else sees to it.

    Returns:
      A transformation of gradients `[ratios]` float32.
    """
    adam, chosen = optax.scale_by_adam(), jnp.asarray(members)

    def init(params: Any) -> TogetherState:
        return TogetherState(adam.init(jnp.zeros((), jnp.float32)), adam.init(params))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, TogetherState]:
        total: Any
        alone: Any
        total, of_total = adam.update(jnp.sum(jnp.where(chosen, updates, 0.0)), state.common)
        alone, own = adam.update(updates, state.own)
        moved = jnp.where(chosen, (1.0 - share) * alone + (share * total if common else 0.0), alone)
        return moved, TogetherState(of_total, own)

    return optax.chain(optax.GradientTransformation(init, update), optax.scale_by_learning_rate(rate))
