"""What command lines of several experiments share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

import tyro

from dms_jax.training import processes

StrategyName: TypeAlias = Literal[
    "dms", "dms_raw", "multiple", "single", "gradient_estimated", "capped_simplex", "iterative"
]
"""`dms_jax.strategies.STRATEGIES`, as a command line takes them."""

ImportanceName: TypeAlias = Literal["taylor", "taylor_last", "snip", "fisher", "magnitude", "index"]
"""`dms_jax.importance.EVALUATIONS`, likewise."""


def default(what: str) -> Any:
    """Help of a flag that is None unless given."""
    return tyro.conf.arg(help_behavior_hint=f"(default: {what})")


@dataclass(frozen=True)
class Hosts:
    """Several processes; TPU slices and SLURM jobs say by themselves who takes part."""

    coordinator: Annotated[str | None, default("none: one process, or as the environment says")] = None
    """HOST:PORT of process 0."""
    processes: Annotated[int | None, default("as the environment says")] = None
    """How many take part."""
    process: Annotated[int | None, default("as the environment says")] = None
    """The number of this one, from 0."""

    def join(self) -> None:
        """Find the others, before anything is computed; a process that is alone goes on alone.

        Raises:
          UserError: as `dms_jax.training.processes.initialize`.
        """
        processes.initialize(self.coordinator, self.processes, self.process)
