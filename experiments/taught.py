"""What commands share that prune a published network with the original as its teacher."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import jax
import numpy as np
import optax
import tyro

from dms_jax.conduct import warm_cosine
from dms_jax.errors import UserError
from dms_jax.training.distillation import Distillation
from experiments import bounds
from experiments.flags import Budgets, Searching


@dataclass(frozen=True)
class Taught:
    """Flags of such a command."""

    macs: ClassVar[float]
    """Share of the MACs where no budget is given."""

    steps: int = 150
    """Search steps."""
    finetune_steps: int = 450
    """Finetuning steps of the small network."""
    controls: bool = True
    """Train two baselines as long as search and finetuning: a uniformly thinned network and the full one."""
    batch: int = 16
    """Global batch size."""
    learning_rate: float = 1e-3
    """Peak of AdamW's cosine schedule in every phase."""
    distill: float = 0.5
    """Weight of the distillation loss, in [0, 1]; 0 disables the teacher."""
    temperature: float = 1.0
    """Distillation temperature."""
    seed: int = 0
    """Random seed."""
    budgets: tyro.conf.OmitArgPrefixes[Budgets] = field(default_factory=Budgets)
    searching: tyro.conf.OmitArgPrefixes[Searching] = field(default_factory=Searching)

    @property
    def budget(self) -> dict[str, float | str]:
        """The budgets asked for, or else `macs`."""
        return self.budgets.amounts or {"macs": self.macs}

    @property
    def distillation(self) -> Distillation:
        """How much the teacher counts."""
        return Distillation(self.distill, self.temperature)

    @property
    def identity(self) -> dict[str, Any]:
        """What `dms_jax.fit` does not know of that makes the job the one it is."""
        return {name: getattr(self, name) for name in ("batch", "learning_rate", "distill", "temperature")}

    @property
    def options(self) -> dict[str, Any]:
        """Arguments of `dms_jax.fit`.

        Raises:
          UserError: a budget that is not possible.
        """
        return {
            "budget": self.budgets.amounts_of_sizes(self.budget),
            "resources": self.budgets.resources(self.budget),
            "together": not self.budgets.sizes_apart,
            "steps": self.steps,
            "optimizer": lambda steps: optax.adamw(warm_cosine(self.learning_rate, steps)),
            "finetune": self.finetune_steps,
            "trial": self.searching.block_trial,
            "compare": self.controls,
            "seed": self.seed,
            **self.searching.options,
        }

    def check(self) -> None:
        """Refuse what no run can be made of, before anything is brought or read.

        Raises:
          UserError: a flag that is not possible.
        """
        bounds.check(self)
        self.searching.check(self.budgets)
        _ = self.distillation  # which refuses what is no weight
        if self.batch % len(jax.devices()):
            raise UserError(f"--batch {self.batch} cannot be cut over {len(jax.devices())} devices; take a multiple")


class Teacher:
    """The original's logits of the training examples: computed when they are first asked for, and kept.

    Every example passes by itself, which takes no longer and makes its logits the same bits in every batch: a run that
    goes on is the run that was never stopped.

    Args:
      run: `[1, ...]`, one example as the network sees it -> logits `[1, C]`.
      examples: `[N, ...]`, all of them.
      classes: C.
    """

    def __init__(self, run: Callable[[np.ndarray], np.ndarray], examples: np.ndarray, classes: int):
        self._run, self._examples = run, examples
        self._answers = np.full((len(examples), classes), np.nan, np.float32)

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """Logits `[len(rows), C]` float32."""
        for row in rows[np.isnan(self._answers[rows, 0])]:
            self._answers[row] = self._run(self._examples[row : row + 1])[0]
        return self._answers[rows]


def in_batches(run: Callable[[np.ndarray], np.ndarray], examples: np.ndarray, at_once: int) -> np.ndarray:
    """What a network gives for all examples, `at_once` at a time: one compilation, whatever their number.

    Args:
      run: `[at_once, ...]` -> `[at_once, ...]`.
      examples: `[N, ...]`.

    Returns:
      `[N, ...]`.
    """
    rest = -len(examples) % at_once
    full = np.concatenate([examples, np.repeat(examples[:1], rest, axis=0)]) if rest else examples
    found = [np.asarray(run(full[i : i + at_once])) for i in range(0, len(full), at_once)]
    return np.concatenate(found)[: len(examples)]
