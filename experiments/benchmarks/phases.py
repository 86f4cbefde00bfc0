"""The training phases of one cell: run on its task's batches, and timed in CPU seconds with compilation apart."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp

from dms_jax.training import supervised
from dms_jax.training.interrupt import InterruptFlag
from dms_jax.training.loop import run_phase
from dms_jax.training.supervised import TrainState
from experiments.benchmarks.store import Say
from experiments.benchmarks.task import Task


@dataclass(eq=False)
class Phases:
    """Runs phases.

    Attributes:
      task: whose batches they see.
      seed: of the batches.
      interrupt: stops a phase.
      say: shows a text.
      seconds: CPU seconds by phase, and of "compile".
      programs: what steps were compiled to; a step that is run again has a state like the first one.
    """

    task: Task
    seed: int
    interrupt: InterruptFlag
    say: Say
    seconds: dict[str, float] = field(default_factory=dict)
    programs: dict[Any, Any] = field(default_factory=dict)

    def train(self, name: str, model: Any, state: TrainState, optimizer: Any, steps: int, start: int) -> Any:
        """Train a network; returns its variables."""
        step = supervised.make_step(self.task.loss(model), optimizer)
        return self.run(name, step, state, steps, start).params

    def run(self, name: str, step: Any, state: Any, steps: int, start: int) -> Any:
        """Run a phase on batches `start` to `start + steps` of this seed; returns the last state.

        Raises:
          Interrupted: the flag was up.
        """
        draw = self.task.batches(self.seed)
        state = jax.tree.map(jnp.copy, state)  # steps donate their state, and what it was made of is needed again
        key = jax.random.fold_in(jax.random.key(self.seed), start)
        if step not in self.programs:
            self.programs[step] = self.timed(
                "compile", lambda: jax.jit(step, donate_argnums=0).lower(state, draw(start), key).compile()
            )

        def record(done: int, values: Mapping[str, float], _: Any) -> None:
            self.say(f"{name} {done}/{steps}, loss {values['loss']:.3f}")

        return self.timed(
            name,
            lambda: run_phase(
                name, self.programs[step], state, lambda i: draw(start + i), key, steps=steps,
                log_every=max(steps // 20, 1), on_log=record, interrupt=self.interrupt,
            ),
        )  # fmt: skip

    def timed(self, name: str, function: Callable[[], Any]) -> Any:
        """Call a part of a phase; its CPU seconds are added to those of the name."""
        began = time.process_time()
        result = function()
        self.seconds[name] = self.seconds.get(name, 0.0) + time.process_time() - began
        return result
