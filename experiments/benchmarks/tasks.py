"""What a benchmark trains on: a network, its data, a supernet pretrained once a seed, and the phases of one cell."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from dms_jax.conduct import warm_cosine
from dms_jax.method.loss import Loss
from dms_jax.space import SearchSpace
from dms_jax.training import supervised
from dms_jax.training.interrupt import InterruptFlag
from dms_jax.training.joint import Answers
from dms_jax.training.loop import run_phase
from dms_jax.training.runs import Run
from dms_jax.training.supervised import TrainState
from experiments.benchmarks import networks
from experiments.benchmarks.sharing import in_turns
from experiments.benchmarks.store import Say

CACHE = Path("runs/benchmarks")
"""Where pretrained supernets lie, outside version control; they are made anew where they are missing."""


@dataclass(frozen=True)
class TaskOptions:
    """What all tasks may have otherwise; a task's own options come on top.

    Attributes:
      batch: examples of a step.
      pretrain_rate: peak of the cosine of pretraining.
      pretrain_steps: of the supernet.
      learning_rate: peak of the cosine after it.
    """

    batch: int
    pretrain_rate: float
    pretrain_steps: int
    learning_rate: float


class Unit(NamedTuple):
    """How scores are shown: in what, times which number, with how many digits after the point."""

    name: str
    scale: float = 1.0
    digits: int = 3


@dataclass(frozen=True, eq=False)
class Task:
    """One network on one set of data.

    Attributes:
      name: "text" or "digits": the file of its results.
      options: that make it another task.
      data: what is learned from, in words.
      space: of the full network.
      loss: from a network to its loss.
      batches: from a seed to the batch of any step; the same ones for every method.
      optimizer: from a schedule to the optimizer of the weights.
      scores: `(network, variables, seed) -> {"valid": x, "test": y}`, lower is better.
      unit: of the scores.
      choice: the score that choices look at, of validation data, and its unit.
      answers: from a network to `(variables, batch, key) -> logits [..., classes]`, as in training; None where there
        is no one to be taught by them.
      residual: the model with the residual width as one more group; None where `space` has it already.
      usual: options that need no mention in a cell's name; None: these.
      later: the names of options that the supernet does not depend on.
    """

    name: str
    options: TaskOptions
    data: str
    space: SearchSpace
    loss: Callable[[nn.Module], Loss]
    batches: Callable[[int], Callable[[int], Any]]
    optimizer: Callable[[optax.Schedule], optax.GradientTransformation]
    scores: Callable[[nn.Module, Any, int], dict[str, float]]
    unit: Unit
    choice: tuple[str, Unit]
    answers: Callable[[nn.Module], Answers] | None = None
    residual: nn.Module | None = None
    usual: TaskOptions | None = None
    later: tuple[str, ...] = ("learning_rate",)
    _supernets: dict[int, dict[str, Any]] = field(default_factory=dict, init=False)

    @property
    def model(self) -> Any:
        """The full network."""
        return self.space.model

    @property
    def changed(self) -> dict[str, Any]:
        """The options that tell its cells from the usual ones."""
        usual = asdict(self.usual or self.options)
        return {name: value for name, value in asdict(self.options).items() if value != usual[name]}

    def with_residual(self) -> Task:
        """This task with the residual width among what may shrink; the supernets are the same.

        Raises:
          ValueError: it is among it already.
        """
        if self.residual is None:
            raise ValueError(f"the residual width of {self.name} is searched as it is")
        return replace(self, space=SearchSpace.from_model(self.residual, *self.space.example), residual=None)

    def over(self, steps: int) -> optax.GradientTransformation:
        """The optimizer of the weights after pretraining, with a warm-up and a cosine over so many steps."""
        return self.optimizer(warm_cosine(self.options.learning_rate, steps))

    def new(self, model: nn.Module, seed: int) -> dict[str, Any]:
        """Random variables of a network of this task."""
        return networks.new(model, *self.space.example, seed=seed)

    def pretrain(self, seeds: Iterable[int]) -> None:
        """Have the supernets of these seeds; other processes may make some of them at the same time.

        Raises:
          Interrupted: stopped and saved.
        """
        with InterruptFlag() as interrupt:
            in_turns([(self._run(seed), partial(self.pretrained, seed)) for seed in dict.fromkeys(seeds)], interrupt)

    def pretrained(self, seed: int) -> dict[str, Any]:
        """The supernet's variables after pretraining; stopped, it goes on where it was.

        Raises:
          Interrupted: stopped and saved.
        """
        if seed in self._supernets:
            return self._supernets[seed]
        steps, name = self.options.pretrain_steps, f"pretrain {self.name} seed {seed}"
        optimizer = self.optimizer(warm_cosine(self.options.pretrain_rate, steps))
        step = jax.jit(supervised.make_step(self.loss(self.model), optimizer), donate_argnums=0)
        state = supervised.init(self.new(self.model, seed), optimizer)
        with Run(self._run(seed), self._identity | {"seed": seed}) as run:
            key, batches, log_every = jax.random.key(seed), self.batches(seed), max(steps // 20, 1)
            last = run.phase(name, step, state, batches, key, steps=steps, log_every=log_every)
        self._supernets[seed] = last.params
        return last.params

    def _run(self, seed: int) -> Path:
        """The run directory of a supernet."""
        digest = hashlib.sha256(json.dumps(self._identity, sort_keys=True).encode()).hexdigest()[:10]
        return CACHE / f"{self.name}-{digest}" / f"seed{seed}"

    @property
    def _identity(self) -> dict[str, Any]:
        """What a supernet depends on, besides its seed."""
        options = {name: value for name, value in asdict(self.options).items() if name not in self.later}
        return {"task": self.name, **options, "data": self.data}


@dataclass(eq=False)
class Phases:
    """Runs the training phases of one cell, and times them in CPU seconds with compilation apart.

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

    def finetune(
        self, model: Any, variables: Any, steps: int, start: int, opt_state: Any = None, whole: int = 0
    ) -> TrainState:
        """Train a network with the task's optimizer, in a schedule over these steps.

        Args:
          model: the network.
          variables: of it.
          steps: that are taken.
          start: the first batch.
          opt_state: of a search that goes on here; None for a new one.
          whole: steps of the schedule that the search shares.
        """
        optimizer = self.task.over(steps if opt_state is None else whole)
        state = supervised.init(variables, optimizer)
        state = state if opt_state is None else replace(state, opt_state=opt_state)
        return self.run("finetune", supervised.make_step(self.task.loss(model), optimizer), state, steps, start)

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

    @property
    def spent(self) -> dict[str, float]:
        """The seconds as cells have them."""
        return {name: round(value, 1) for name, value in self.seconds.items()}

    def timed(self, name: str, function: Callable[[], Any]) -> Any:
        """Call a part of a phase; its CPU seconds are added to those of the name."""
        began = time.process_time()
        result = function()
        self.seconds[name] = self.seconds.get(name, 0.0) + time.process_time() - began
        return result
