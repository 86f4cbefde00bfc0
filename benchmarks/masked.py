"""The full network under the 0/1 masks of a structure: it computes, and trains, as the small network does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax

from dms_jax.method.loss import Loss
from dms_jax.space import SearchSpace


def masked_loss(space: SearchSpace, loss: Loss, masks: Mapping[str, Any]) -> Loss:
    """The loss under masks.

    Args:
      space: of the full network.
      loss: of the full network.
      masks: the "masks" collection of a structure (`SearchSpace.masks`).
    """

    def masked(params: Any, batch: Any, key: jax.Array) -> Any:
        folded, left = space.fold(params["params"], masks)
        return loss({**params, "params": folded, "masks": left}, batch, key)

    return masked
