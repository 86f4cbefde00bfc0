"""What a search carries from step to step."""

from __future__ import annotations

from typing import Any

import flax.struct
import jax

from dms_jax.partition import numbers


@flax.struct.dataclass(repr=False)
class SearchState:
    """Everything a search carries from step to step.

    Attributes:
      step: int32, steps done.
      params: the supernet's variables, the whole tree, without masks.
      opt_state: of the weights' optimizer, over what is trained of `params`.
      ratios: the strategy's parameters, a pytree. Of DMS: `[ratios]` float32 pruning ratios, in the order of
        `space.counted`: one a group, but for tied groups.
      ratio_opt_state: of the ratios' optimizer.
      importance: {group: [N]} float32 moving averages.
      task_norm: float32, moving average of the norm of the task gradient on the ratios.
      weights: {resource: float32} multipliers w.
    """

    step: jax.Array
    params: Any
    opt_state: Any
    ratios: Any
    ratio_opt_state: Any
    importance: dict[str, jax.Array]
    task_norm: jax.Array
    weights: dict[str, jax.Array]

    def __repr__(self) -> str:
        parts = ("params", "ratios", "importance", "opt_state", "ratio_opt_state")
        sizes = ", ".join(f"{name}: {numbers(getattr(self, name))}" for name in parts)
        return f"SearchState(step={self.step}, {sizes})"
