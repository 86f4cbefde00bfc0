"""Staying on the target, or near it: one common shift of the ratios is not searched but solved for, in every step.

What moves each ratio by itself is the optimizer, along the sum of both gradients. On the target, what all have in
common is whatever brings r to the next target, from either side: where the network fell below it, the ratios open
again. Near it, the optimizer moves what they have in common, too, and the shift is 0 while r is within the slack.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

CANDIDATES = 32
"""Shifts that are tried side by side."""
SETTLED = 0.09
"""The slack in log r that is left where the target stands still: the network that the projection starts from."""
_FINEST, _FARTHEST = 2.0**-13, 2.0


def miss(fractions: Mapping[str, jax.Array], goals: Mapping[str, jax.Array]) -> jax.Array:
    """The largest log(r / r_t) of all budgets, float32: above 0 where one of them is missed."""
    return jnp.max(jnp.stack([jnp.log(jnp.maximum(fractions[name], 1e-12) / goal) for name, goal in goals.items()]))


def slack(first: float, progress: jax.Array) -> jax.Array:
    """How far log r may be from its target, from `first` at the start to `SETTLED`, or `first` where that is less.

    It narrows as 1 - p^2: on the way a search may try what it will take back, and at the end it is where it should be.

    Args:
      first: in (0, inf).
      progress: p in [0, 1], how much of its way the target has gone.
    """
    first = min(first, 1e3)  # no r is as far; infinity times the 0 at the end is no number
    last = min(first, SETTLED)
    return last + (first - last) * (1.0 - jnp.square(progress))


def largest_share(fits: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """The largest of the shares 1, 1/2, 1/4, 1/8 of a step that fits, or 0.

    Args:
      fits: from a share to a bool, or a `[...]` of them.
    """
    shares = jnp.array([1.0, 0.5, 0.25, 0.125], jnp.float32)
    return jnp.max(jnp.where(jax.vmap(fits)(shares), shares, 0.0))


def shift(
    missed: Callable[[jax.Array], jax.Array], order: jax.Array, fine: np.ndarray, within: jax.Array | float = 0.0
) -> jax.Array:
    """The shifts in [-2, 2] that bring the miss nearest to 0, or to within a limit of it; of several, the smallest.

    Ratios of groups of one size lose an element at one and the same shift, a large step of r. So the last part of the
    way is gone by some of them alone. Where an element of one of these is itself a large step, over the target, those
    of fine groups make up for it: they open as far as it closed too much.

    Args:
      missed: from shifts `[ratios]` to the miss there, which falls with every one of them. It is called at 32 shifts
        side by side, five times.
      order: `[ratios]` int, who goes first.
      fine: `[ratios]` bool, whose elements are small steps of r.
      within: the limit, of the absolute miss; 0 or more.

    Returns:
      `[ratios]` float32.
    """
    tried_at, number = jax.vmap(missed), order.shape[0]
    steps = np.geomspace(_FINEST, _FARTHEST, CANDIDATES // 2)
    alike = np.concatenate([-steps[::-1], [0.0], steps]).astype(np.float32)
    back = np.geomspace(_FARTHEST, _FINEST, CANDIDATES).astype(np.float32)[:, None]
    part = np.repeat(np.linspace(0.0, 1.0, CANDIDATES, dtype=np.float32)[:, None], number, axis=1)
    some = (order[None].astype(np.float32) < part * number).astype(np.float32)

    grids = [jnp.asarray(np.repeat(alike[:, None], number, axis=1))]
    misses = [tried_at(grids[0])]

    def crossed() -> tuple[jax.Array, jax.Array]:
        """The last shifts above the target, and the first that are not, `[1, ratios]` each."""
        above = jnp.sum(misses[-1] > 0)
        return grids[-1][jnp.maximum(above - 1, 0)][None], grids[-1][jnp.minimum(above, CANDIDATES - 1)][None]

    def tries(grid: jax.Array) -> None:
        grids.append(grid)
        misses.append(tried_at(grid))

    for way in (part, some):  # finer alike, then finer one after another
        low, high = crossed()
        tries(low + (high - low) * way)
    _, high = crossed()
    tries(high - back * fine)
    low, high = crossed()
    tries(low + (high - low) * part)
    tried, away = jnp.concatenate(grids), jnp.maximum(jnp.abs(jnp.concatenate(misses)) - within, 0.0)
    nearest = away <= jnp.min(away) + 1e-6
    return tried[jnp.argmin(jnp.where(nearest, jnp.sum(jnp.abs(tried), axis=1), jnp.inf))]
