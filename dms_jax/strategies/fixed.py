"""Structures that no search found: the same ratio everywhere, one threshold, and chance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from dms_jax import projection
from dms_jax.projection import Limits
from dms_jax.space import SearchSpace
from dms_jax.strategies.layout import Layout
from dms_jax.strategies.threshold import thresholded
from dms_jax.structure import Structure


def uniform(
    space: SearchSpace,
    ranking: Mapping[str, Any],
    budget: Mapping[str, int],
    limits: Limits | None = None,
    *,
    blocks: projection.Blocks = "most",
) -> Structure:
    """The same keep ratio in every width and head group, as many blocks as fit (see `projection.uniform`).

    Args:
      space: the search space.
      ranking: {group: [N]} which elements stay; `space.magnitudes(params)`, say.
      budget: {"macs": int, "params": int}, either or both; `search.targets`.
      limits: groups to leave alone, smallest numbers, multiples.
      blocks: how many blocks stay (see `projection.uniform`).

    Raises:
      UserError: nothing within the limits is under the budget.
    """
    arrays = {name: np.asarray(x) for name, x in ranking.items()}
    return space.structure(projection.uniform(space, arrays, budget, limits, blocks=blocks))


def threshold(
    space: SearchSpace, importance: Mapping[str, Any], budget: Mapping[str, int], limits: Limits | None = None
) -> Structure:
    """One global threshold on importance per cost, as `Iterative` does at every step, once.

    The importance of a pretrained network is `state.importance` after some steps of a search in its warm-up:
    `Search(space, loss, None, budget, Schedule(n, warmup=n - 1))`, which changes no weights.

    Args:
      space: the search space.
      importance: {group: [N]}.
      budget, limits: as in `uniform`.

    Raises:
      UserError: nothing within the limits is under the budget.
    """
    layout, full = Layout.of(space, limits), space.resources()
    flat = space.flat({name: jnp.asarray(c, jnp.float32) for name, c in importance.items()})
    masks = thresholded(layout, flat, {name: jnp.float32(most / full[name]) for name, most in budget.items()})
    ranking = {name: np.asarray(c) for name, c in importance.items()}
    return _projected(space, layout.ratios(layout.counts(masks)), ranking, budget, limits, hold=False)


def random(space: SearchSpace, budget: Mapping[str, int], limits: Limits | None = None, *, seed: int) -> Structure:
    """Numbers of elements and elements drawn by chance, then brought to the budget.

    Pruning ratios are uniform in [0, 1], one for groups that share one; any element is as likely as another.

    Args:
      space: the search space.
      budget, limits: as in `uniform`.
      seed: of everything drawn.

    Raises:
      UserError: nothing within the limits is under the budget.
    """
    draw = np.random.default_rng(seed)
    ratios = draw.uniform(size=len(space.counted))
    ranking = {name: draw.uniform(size=group.size) for name, group in space.groups.items()}
    return _projected(space, ratios, ranking, budget, limits)


def _projected(
    space: SearchSpace,
    ratios: np.ndarray,
    ranking: Mapping[str, np.ndarray],
    budget: Mapping[str, int],
    limits: Limits | None,
    *,
    hold: bool = True,
) -> Structure:
    by_name = {name: float(ratio) for names, ratio in zip(space.counted, ratios, strict=True) for name in names}
    return space.structure(projection.project(space, by_name, ranking, budget, limits, hold=hold))
