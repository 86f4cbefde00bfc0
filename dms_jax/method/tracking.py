"""Staying on the target, or near it: one common shift of the ratios is not searched but solved for, in every step.

What moves each ratio by itself is the optimizer, along the sum of both gradients. On the target, what all have in
common is whatever brings r to the next target, from either side: where the network fell below it, the ratios open
again. Near it, the optimizer moves what they have in common, too, and the shift is 0 while r is within the slack.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

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
    first = float(min(first, 1e3))  # no r is as far; infinity times the 0 at the end is no number
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
    """The shifts in [-2, 2] that bring the miss nearest to 0, or to within a limit of it; of several that are tried,
    the smallest.

    Ratios of groups of one size lose an element at one and the same shift, a large step of r. So the last part of the
    way is gone by some of them alone. Where an element of one of these is itself a large step, past the target,
    groups of fine elements make up for it: they open again.

    Args:
      missed: from shifts `[ratios]` to the miss there, which falls with every one of them. It is called at 32 shifts
        side by side, five times.
      order: `[ratios]` int, who goes first.
      fine: `[ratios]` bool, whose elements are small steps of r.
      within: the limit, of the absolute miss; 0 or more.

    Returns:
      `[ratios]` float32.
    """
    number = order.shape[0]
    closer, opener = (np.geomspace(_FINEST, _FARTHEST, n) for n in (CANDIDATES // 2 - 1, CANDIDATES // 2))
    back = np.geomspace(_FARTHEST, _FINEST, CANDIDATES)
    part = np.repeat(np.linspace(0.0, 1.0, CANDIDATES, dtype=np.float32)[:, None], number, axis=1)
    some = (order[None].astype(np.float32) < part * number).astype(np.float32)
    alike = np.repeat(np.concatenate([-opener[::-1], [0.0], closer])[:, None], number, axis=1)
    ways = jnp.stack([jnp.asarray(way, jnp.float32) for way in (alike, part, some, -back[:, None] * fine, part)])

    def tries(before: tuple[jax.Array, jax.Array], way: tuple[jax.Array, jax.Array, jax.Array]) -> Any:
        """One row of candidates, around where the row before crossed the target."""
        (grid, misses), (by, anew, alone) = before, way
        above = jnp.sum(misses > 0)
        low, high = grid[jnp.maximum(above - 1, 0)][None], grid[jnp.minimum(above, CANDIDATES - 1)][None]
        start, span = jnp.where(anew, high, low), jnp.where(alone, 1.0, high - low)
        grid = jnp.clip(start + span * by, -_FARTHEST, _FARTHEST)
        found = grid, jax.vmap(missed)(grid)
        return found, found

    first = jnp.zeros((CANDIDATES, number), jnp.float32), jnp.zeros(CANDIDATES, jnp.float32)
    anew, alone = np.array([False, False, False, True, False]), np.array([True, False, False, True, False])
    rows: Any = (ways, anew, alone)
    _, (grids, misses) = jax.lax.scan(tries, first, rows)  # a loop: `missed` is compiled once
    tried, away = grids.reshape(-1, number), jnp.maximum(jnp.abs(misses.reshape(-1)) - within, 0.0)
    nearest = away <= jnp.min(away) + 1e-6
    return tried[jnp.argmin(jnp.where(nearest, jnp.sum(jnp.abs(tried), axis=1), jnp.inf))]
