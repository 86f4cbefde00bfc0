"""What a block is worth: the finite effect of its removal, for no extra pass.

A residual branch of a trained network has next to no first-order signal: at m = 1 the loss hardly changes with m, and
most of what removal costs appears below one half. So in every step a block that is open gets a mask u in place of its
own, and u runs evenly through (0, 1): the mean of dL/dm at u is the whole way from there to gone,

    E_u [dL/dm at u] = L(m = 1) - L(m = 0)

Measured while a block is wide, that is more than its last elements will be worth. So it pulls at its ratio by its
effect times the root of what is left of its cost: between the whole effect, with which no thin block ever goes, and the
effect in proportion to the cost, with which blocks go as if they were as wide as at the start.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from dms_jax.method.layout import Layout

PER_PROBE = 12
"""Blocks that share one probe a step."""
MEMORY = 0.8
"""Of the moving mean of a block's effects: it has one every `PER_PROBE` steps or so."""
_GOLDEN = 0.6180339887498949


def together(blocks: np.ndarray) -> int:
    """How many blocks are probed in one step."""
    return -(-len(blocks) // PER_PROBE)


def first_round(blocks: np.ndarray) -> int:
    """Steps, from the first one on, in which each of the blocks has a turn while all are open."""
    return -(-len(blocks) // together(blocks)) if len(blocks) else 0


def probes(masks: jax.Array, blocks: np.ndarray, step: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Which blocks are probed in this step, and at which masks.

    Open blocks take turns, each as often. u of a block follows the golden ratio, which fills (0, 1) evenly at any time.

    Args:
      masks: `[elements]` of all groups.
      blocks: `[B]` int, which elements gate blocks; one at least.
      step: int32.

    Returns:
      `[elements]` bool, and u `[elements]`, 1 where no block is.
    """
    opened = masks[blocks] >= 0.5
    rounds = jnp.maximum(-(-jnp.sum(opened) // together(blocks)), 1)  # steps in which everybody has a turn
    turn = opened & ((jnp.cumsum(opened) - 1) % rounds == step % rounds)
    turns = (step // rounds + 1).astype(jnp.float32)
    u = jnp.mod((turns + np.asarray(_GOLDEN * np.arange(len(blocks)), np.float32)) * _GOLDEN, 1.0)
    ones = jnp.ones_like(masks)
    return jnp.zeros(masks.shape, bool).at[blocks].set(turn), ones.at[blocks].set(u.astype(masks.dtype))


def probed(masks: jax.Array, layout: Layout, step: jax.Array, learning: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The masks that the network is run with, and which of them are probes `[elements]` bool.

    Args:
      masks: `[elements]` of all groups.
      layout: of them, with blocks.
      step: int32.
      learning: `[groups]` bool.
    """
    chosen, u = probes(masks, layout.blocks, step)
    chosen &= layout.to_elements(learning)
    return jnp.where(chosen, u, masks), chosen


def update(effects: jax.Array, gradient: jax.Array, probed: jax.Array) -> jax.Array:
    """The moving mean of the effects of those that were probed; the first effect stands for itself.

    Args:
      effects: of all elements `[elements]` float32, 0 for a block that had no turn yet.
      gradient: dL/dm `[elements]` at the masks of this step.
      probed: `[elements]` bool.
    """
    effect = -gradient.astype(jnp.float32)
    mean = jnp.where(effects == 0, effect, MEMORY * effects + (1.0 - MEMORY) * effect)
    return jnp.where(probed & jnp.isfinite(effect), mean, effects)


def worth(effects: jax.Array, cost: Callable[[jax.Array], jax.Array], kept: jax.Array, blocks: np.ndarray) -> jax.Array:
    """What blocks are worth at the widths they have now.

        E_b sqrt(c_b / C_b),     c_b the cost of block b at its present widths, C_b of the full one

    Args:
      effects: E `[elements]`.
      cost: of a network that keeps `[elements]` of 0 and 1, a scalar.
      kept: `[elements]`.
      blocks: `[elements]` bool, which of them gate blocks; costs are compared with all of them open.

    Returns:
      `[elements]`: the effects themselves where no block is.
    """
    of_block = jax.grad(cost)
    now, full = of_block(jnp.where(blocks, 1.0, kept)), of_block(jnp.ones_like(kept))
    left = jnp.clip(now / jnp.maximum(full, 1e-12), 0.0, 1.0)
    return jnp.where(blocks, effects * jnp.sqrt(left), effects)
