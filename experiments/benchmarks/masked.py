"""The full network under masks: with those of a structure it computes, and trains, as the small network does."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TypeAlias

import jax

from dms_jax.method.loss import Loss, outcome
from dms_jax.method.search import Search
from dms_jax.space import SearchSpace

Masks: TypeAlias = Mapping[str, jax.Array]


def masked_loss(space: SearchSpace, loss: Loss, masks: Masks) -> Loss:
    """The loss under masks.

    Args:
      space: of the full network.
      loss: of the full network.
      masks: of a structure (`SearchSpace.masks`).
    """
    run = space.masked(loss)
    return lambda params, batch, key: run(params, masks, batch, key)


def inserted(search: Search) -> Search:
    """The same search with every mask on activations, none multiplied into parameters."""
    other = copy.copy(search)
    object.__setattr__(other, "_loss", search.space.masked(outcome(search.loss), fold=False))
    return other
