"""A trial before the finetuning: what a search found beside the same search with a block less.

What a layer costs before it has any width is paid by the widths of all others, and no gradient of a mask says what they
would do with it. So both are finetuned a little, and the better one, on batches that neither was trained on, goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import optax

from dms_jax.errors import UserError
from dms_jax.method.limits import Limits
from dms_jax.method.loss import Loss, outcome
from dms_jax.space import SearchSpace
from dms_jax.structure import Structure
from dms_jax.training.interrupt import stop_if_requested
from dms_jax.training.job import Job

PHASES = ("trial", "trial of a block less")
JUDGED = 32
"""Batches that the two are compared on: the ones that follow those of the trial. Both see the same ones, so that little
of what batches differ in is left in the difference."""


@dataclass(frozen=True)
class Outcome:
    """How a trial ended.

    Attributes:
      steps: that each was finetuned for.
      removed: {group: block} that the second one lacks of the first; empty: no block could go, nothing was tried.
      losses: the mean loss of each on the same batches; empty where nothing was tried.
      error: standard error of their difference over batches.
      chosen: which goes on: 0, what was found, or 1, a block less.
    """

    steps: int
    removed: dict[str, list[int]]
    losses: tuple[float, ...] = ()
    error: float = 0.0
    chosen: int = 0

    @property
    def words(self) -> str:
        """One line for people."""
        if not self.losses:
            return "trial: no block could go within the budget, so nothing was compared"
        blocks = " and ".join(f"{', '.join(map(str, them))} of {name}" for name, them in self.removed.items())
        kept, less = (f"{loss:.4g}" for loss in self.losses)
        goes = "without it" if self.chosen else "as it was found"
        return (
            f"trial of {self.steps} steps: loss {kept} as found, {less} without block {blocks} "
            f"(difference ± {self.error:.2g}); the network goes on {goes}"
        )


def check_sizes(steps: int, sizes: Any) -> None:
    """Refuse a trial of several sizes.

    Raises:
      UserError: there are both.
    """
    if steps and sizes is not None:
        raise UserError("a trial is of one network, and several sizes are asked for; leave one of the two out")


def check(space: SearchSpace, limits: Limits) -> None:
    """Refuse a trial that has nothing to compare.

    Raises:
      UserError: no block of the network may go.
    """
    allowed = limits.counts(space)
    if not any(group.rules.gates and min(allowed[name]) < group.size for name, group in space.groups.items()):
        raise UserError("a trial compares with a block less, and no block of this network may go; leave it out")


def run(
    job: Job,
    space: SearchSpace,
    networks: Sequence[tuple[Structure, Loss, Any]],
    starts: Sequence[Any],
    optimizer: optax.GradientTransformation,
    steps: int,
) -> Outcome:
    """Finetune one or two networks a little, and compare them.

    Args:
      job: of the finetuning.
      space: of the full network.
      networks: structure, loss and what is trained, of what was found and of the same with a block less.
      starts: the parameters of each.
      optimizer: of the whole finetuning, whose first steps these are.
      steps: of each.
    """
    if len(networks) < 2:
        return Outcome(steps, {})
    values = []
    for phase, (_, loss, trained), start in zip(PHASES, networks, starts, strict=True):
        params = job.train(phase, loss, start, optimizer, steps, trained=trained)
        values.append(_losses(job, loss, params, steps))
    kept, less = (structure.kept for structure, _, _ in networks)
    gone = {n: sorted(set(kept[n]) - set(less[n])) for n, group in space.groups.items() if group.rules.gates}
    difference = values[1] - values[0]
    return Outcome(
        steps,
        {name: blocks for name, blocks in gone.items() if blocks},
        (float(values[0].mean()), float(values[1].mean())),
        float(difference.std(ddof=1) / np.sqrt(JUDGED)),
        int(difference.mean() < 0),
    )


def _losses(job: Job, loss: Loss, params: Any, start: int) -> np.ndarray:
    """`[JUDGED]` float64: of the batches that follow so many steps."""
    value = jax.jit(lambda params, batch, key: outcome(loss)(params, batch, key)[0])
    key, found = job.phase_key("trial judged"), []
    for i in range(JUDGED):
        stop_if_requested("the trial was judged")
        found.append(value(params, job.batches(start + i), key))
    return np.asarray(jax.device_get(found), np.float64)
