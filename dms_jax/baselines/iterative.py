"""One threshold on importance per cost over the whole network: without learned structure, once or step by step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from dms_jax.method.layout import Layout
from dms_jax.method.strategy import Context, Strategy


@dataclass(frozen=True)
class Iterative(Strategy):
    """At every step, hard masks from one global threshold on importance per cost that just meets the current target.

        m_i = [c_(r) / cost_(r) >= t],    t the smallest at which no resource is above r_t(s)

    c_(r) is the importance of the element of rank r in its group, cost_(r) what an element of that group costs in the
    full network (the mean over the group, as a share of the target, summed over resources): both in units that can be
    compared across the network, so that the threshold removes the least squared change of the loss per cost. Tied
    groups pool theirs, rank by rank. The best elements, as many as must stay, always stay.

    Nothing is learned but the weights; importance is measured on and on, and what is out may come back. While refining,
    depth and heads keep their importance, but the threshold still moves by what the widths' does. Starts as exactly the
    supernet. In the manner of Molchanov et al., "Importance Estimation for Neural Network Pruning", CVPR
    2019, arXiv 1906.10771, with this project's schedule of targets.
    """

    title: ClassVar[str] = "iterative threshold"
    learned: ClassVar[bool] = False
    zeros: ClassVar[bool] = True
    across: ClassVar[bool] = True

    def init(self, layout: Layout) -> tuple[()]:
        return ()

    def owners(self, layout: Layout) -> tuple[()]:
        return ()

    def masks(self, layout: Layout, parameters: tuple[()], context: Context) -> jax.Array:
        return thresholded(layout, context.importance, context.targets)


def thresholded(layout: Layout, importance: jax.Array, targets: Mapping[str, jax.Array]) -> jax.Array:
    """Hard masks `[elements]` from the smallest global threshold on importance per cost that meets the targets.

    Where even the least network is above a target, that is what is returned.

    Args:
      layout: of the space and its limits.
      importance: c `[elements]`.
      targets: {resource: fraction of the full network}.
    """
    importance = jax.lax.stop_gradient(importance)
    ranks = layout.ranks(importance)
    always = layout.forced(ranks) | layout.to_elements(layout.fixed | layout.uninformative(importance))
    worth = _worth(layout, importance, ranks, targets)
    candidates = jnp.sort(worth)

    def masks(threshold: jax.Array) -> jax.Array:
        return ((worth >= threshold) | always).astype(jnp.float32)

    def halve(_: int, ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = ends  # at `high` the targets are met (or nothing meets them), below `low` they are not
        middle = (low + high) // 2
        fractions = layout.space.fractions(masks(candidates[middle]))
        fits = jnp.all(jnp.stack([fractions[name] <= goal * (1 + 1e-6) for name, goal in targets.items()]))
        return jnp.where(fits, low, middle + 1), jnp.where(fits, middle, high)

    number = len(layout.of_element)
    start = (jnp.int32(0), jnp.int32(number))
    found, _ = jax.lax.fori_loop(0, int(np.ceil(np.log2(number + 1))), halve, start)
    beyond = jnp.concatenate([candidates, jnp.full((1,), jnp.inf)])  # the last one keeps only what must stay
    return masks(beyond[found])


def _worth(layout: Layout, importance: jax.Array, ranks: jax.Array, targets: Mapping[str, jax.Array]) -> jax.Array:
    """`[elements]` importance per cost; elements of one rank in tied groups have their sum together."""
    place = layout.to_shared(ranks)
    number = len(layout.of_shared)
    total = jax.ops.segment_sum(importance, place, number)
    cost = jax.ops.segment_sum(layout.to_elements(_costs(layout, targets)), place, number)
    return (total / jnp.maximum(cost, 1e-12))[place]


def _costs(layout: Layout, targets: Mapping[str, jax.Array]) -> jax.Array:
    """`[groups]` the mean cost of an element in the full network, each resource as a share of its target."""
    ones = jnp.ones(len(layout.of_element), jnp.float32)

    def price(masks: jax.Array) -> jax.Array:
        fractions = layout.space.fractions(masks)
        return jnp.sum(jnp.stack([fractions[name] / goal for name, goal in targets.items()]))

    total = jax.ops.segment_sum(jax.grad(price)(ones), layout.of_element, len(layout.size))
    return total / layout.size.astype(np.float32)
