"""How long every phase of a pipeline is, and what its networks are called."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from dms_jax.errors import UserError

FULL, FOUND, UNIFORM, LONGER = "full network", "found", "same ratio everywhere", "full network, trained on"


@dataclass(frozen=True)
class Steps:
    """Optimizer steps of every phase; 0 leaves a phase out.

    The controls get as many steps after pretraining as search, trial and finetuning together, so that the table
    compares equal work; a pipeline that does not finetune (p-) does not train its controls either. Without `compare`
    there are none: they are two trainings more.

    Attributes:
      pretrain: of the full network.
      search: of it.
      finetune: of the small network.
      compare: whether the controls are trained.
      trial: of each of two networks that are compared before the finetuning: what was found, and a block less.

    Raises:
      UserError: a trial that is no part of a finetuning.
    """

    pretrain: int
    search: int
    finetune: int
    compare: bool = True
    trial: int = 0

    def __post_init__(self) -> None:
        if self.trial and not self.finetune:
            raise UserError(f"a trial of {self.trial} steps is of a finetuning, and there is none; leave it out")
        if self.trial > self.finetune:
            raise UserError(
                f"a trial of {self.trial} steps is longer than the finetuning of {self.finetune}: give fewer"
            )

    @property
    def controls(self) -> int:
        return self._after_pretraining if self.finetune and self.compare else 0

    @property
    def _after_pretraining(self) -> int:
        return self.search + 2 * self.trial + self.finetune

    @property
    def identity(self) -> dict[str, Any]:
        """What of it makes a job the one it is; jobs from before there were trials say nothing of them."""
        return {name: value for name, value in asdict(self).items() if name != "trial" or value}

    def after(self, name: str) -> int:
        """All steps that a network of the results has taken: its own, and those that found it."""
        extra = {LONGER: self.controls, FULL: 0, FOUND: self._after_pretraining, UNIFORM: self.controls}
        return self.pretrain + next(steps for kind, steps in extra.items() if name.startswith(kind))

    @property
    def plan(self) -> str:
        """`pretrain 500, search 400, trial 2 x 100, finetune 600, uniform 1200, full 1200`."""
        phases: dict[str, Any] = {"pretrain": self.pretrain, "search": self.search}
        phases |= {"trial": f"2 x {self.trial}" if self.trial else 0, "finetune": self.finetune}
        phases |= {"uniform": self.controls, "full": self.controls}
        return ", ".join(f"{name} {steps}" for name, steps in phases.items() if steps)
