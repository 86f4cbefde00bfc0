"""Pretrain, search, shrink, finetune, and two controls: what every experiment does, with its own model and data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from dms_jax.baselines import uniform
from dms_jax.errors import UserError
from dms_jax.method.search import Search
from dms_jax.shrink import shrink, verify
from dms_jax.space import SearchSpace
from dms_jax.structure import Structure
from dms_jax.training.job import Job
from dms_jax.training.mesh import place
from dms_jax.training.processes import local

FULL, FOUND, UNIFORM, LONGER = "full network", "found", "same ratio everywhere", "full network, trained on"


@dataclass(frozen=True)
class Steps:
    """Optimizer steps of every phase; 0 leaves a phase out.

    The controls get as many steps after pretraining as search and finetuning together, so that the table compares
    equal work; a pipeline that does not finetune (p-) does not train its controls either. Without `compare` there are
    none: they are two trainings more.
    """

    pretrain: int
    search: int
    finetune: int
    compare: bool = True

    @property
    def controls(self) -> int:
        return self.search + self.finetune if self.finetune and self.compare else 0

    def after(self, name: str) -> int:
        """All steps that a network of the results has taken: its own, and those that found it."""
        extra = {FULL: 0, FOUND: self.search + self.finetune, UNIFORM: self.controls, LONGER: self.controls}
        return self.pretrain + extra[name]

    @property
    def plan(self) -> str:
        """`pretrain 500, search 400, finetune 600, uniform 1000, full 1000`."""
        phases = {"pretrain": self.pretrain, "search": self.search, "finetune": self.finetune}
        phases |= {"uniform": self.controls, "full": self.controls}
        return ", ".join(f"{name} {steps}" for name, steps in phases.items() if steps)


@dataclass(frozen=True)
class Finished:
    """What the phases left.

    Attributes:
      structure: the one found.
      networks: name -> the network and its variables.
      difference: the largest difference between the masked and the shrunk network's outputs, right after the search.
    """

    structure: Structure
    networks: dict[str, tuple[nn.Module, Any]]
    difference: float


@dataclass(frozen=True, eq=False)
class Pipeline:
    """The phases of one experiment.

    Attributes:
      job: trains; its loss and batches are those of the pretraining and of the full network's control.
      search: what is searched, under which budget.
      steps: of every phase.
      optimizer: from a number of steps to the optimizer of a phase that long; the search has its own.
      model: {"name", "arguments"} for `dms_jax.models.create`, to be written down.
      example: inputs to check on that masked and shrunk network agree.
      retrain: start the small network from the weights that the search left, or from new ones. The uniform control
        starts alike: from the pretrained weights, or from new ones.
      taught: from the pretrained variables to the job that trains the search; None trains it as `job` does. This is
        where a teacher comes in: those variables, or any other network.
      retaught: likewise, to the job of everything after the search, where batches, loss or teacher are others there;
        None trains finetuning and the uniform control as the search was, and the full network's control as `job` does.
      average: decay of a moving average of the weights in everything after the search, or from a step to it; the
        averaged networks are the results.
      trained: the first variables are worth something already; the full network is then among the results.
    """

    job: Job
    search: Search
    steps: Steps
    optimizer: Callable[[int], optax.GradientTransformation]
    model: Mapping[str, Any]
    example: Any
    retrain: Literal["sliced", "scratch"] = "sliced"
    taught: Callable[[Any], Job] | None = None
    trained: bool = False
    retaught: Callable[[Any], Job] | None = None
    average: optax.ScalarOrSchedule | None = None

    def run(self, variables: Any) -> Finished:
        """Run all phases, or what is left of them, from the full network's first variables.

        Raises:
          UserError: the shrunk network does not compute what the masked one does.
        """
        search, model, space = self.search, self.search.space.model, self.search.space
        pretrained = self._train(self.job, "pretrain", model, variables, self.steps.pretrain, None)
        pupil = self.job if self.taught is None else self.taught(pretrained)
        state = pupil.search("search", search, pretrained)
        chosen = state.replace(ratios=local(state.ratios), importance=local(state.importance))  # type: ignore[attr-defined]
        structure = search.structure(chosen, self.model)
        difference = verify(_exact(space), state.params, structure, self.example)
        if not difference < 1e-2:
            raise UserError(f"masked and shrunk network differ by {difference:.2g}: the model reads an axis unmasked")
        small = model.clone(structure=structure)
        start = self._start(small, state.params)
        del state, chosen  # a supernet with its optimizer's moments
        after = pupil if self.retaught is None else self.retaught(pretrained)
        found = self._train(after, "finetune", small, start, self.steps.finetune, self.average)
        networks = {FULL: (model, pretrained)} if self.steps.pretrain or self.trained else {}
        networks |= {FOUND: (small, found)}
        if self.steps.compare:
            networks |= self._controls(pretrained, after)
        return Finished(structure, networks, difference)

    def _controls(self, pretrained: Any, after: Job) -> dict[str, tuple[nn.Module, Any]]:
        search, space, model, steps = self.search, self.search.space, self.search.space.model, self.steps.controls
        ranking = {name: np.asarray(m) for name, m in space.magnitudes(pretrained).items()}
        even = uniform(space, ranking, search.targets, search.limits)
        thin = model.clone(structure=even)
        trained = self._train(after, "uniform", thin, self._start(thin, pretrained), steps, self.average)
        networks = {UNIFORM: (thin, trained)}
        if steps:
            job = self.job if self.retaught is None else after
            networks[LONGER] = (model, self._train(job, "full", model, pretrained, steps, self.average))
        return networks

    def _train(self, job: Job, name: str, model: nn.Module, variables: Any, steps: int, average: Any) -> Any:
        return job.train(name, model, variables, self.optimizer(steps), steps, average=average) if steps else variables

    def _start(self, small: Any, full: Any) -> Any:
        """Where a small network's training starts: from slices of the full network's variables, or anew."""
        if self.retrain == "sliced":
            return shrink(self.search.space, full, small.structure)
        inputs = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), self.search.space.example)
        return place(jax.jit(small.init)(self.job.phase_key("scratch"), *inputs), self.job.mesh)


def _exact(space: SearchSpace) -> SearchSpace:
    """The same space, computing in float32: half precision differs by its rounding, however right a structure is."""
    if jnp.dtype(getattr(space.model, "dtype", jnp.float32)) == jnp.float32:
        return space
    return SearchSpace.from_model(space.model.clone(dtype=jnp.float32), *space.example)
