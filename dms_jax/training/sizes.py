"""Several sizes from one search: which they are, and their finetuning, all together or each by itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dms_jax import checks
from dms_jax.budgets.amounts import Given, amount, words
from dms_jax.errors import UserError
from dms_jax.explanation import exactly
from dms_jax.family import Family
from dms_jax.method.loss import Loss
from dms_jax.nested import labels, plain
from dms_jax.reading import shown
from dms_jax.space import SearchSpace
from dms_jax.training.distillation import Distillation
from dms_jax.training.job import Job
from dms_jax.training.joint import Lessons, joint_loss, of_weights


@dataclass(frozen=True)
class Sizes:
    """The sizes that a job ends with.

    Attributes:
      budgets: size -> its budget, from the largest to the smallest; the search's own is the smallest one.
      together: one set of weights for all, trained by `joint_loss`; else each is finetuned by itself.
      lessons: how the largest teaches the others where they are trained together; None: it does not.
    """

    budgets: Mapping[Any, Mapping[str, Given]]
    together: bool = True
    lessons: Lessons | None = None

    def __post_init__(self):
        """Raises: UserError: sizes that no `Family` can have."""
        object.__setattr__(self, "budgets", dict(zip(labels(self.budgets), self.budgets.values(), strict=True)))

    @staticmethod
    def of(space: SearchSpace, name: str, amounts: Sequence[Given], together: bool = True) -> Sizes:
        """Sizes that differ in one resource, given in any order.

        Raises:
          UserError: fewer than two, one of them twice, amounts that are none, or above the full network's.
        """
        if len(amounts) < 2:
            raise UserError(f"sizes {shown(amounts)} of {name}: give two or more, or one budget")
        space = space.asked([name])
        if name not in space.costs:
            raise UserError(f"budget on {name!r}: give one on {' or '.join(space.costs)}")
        cost = space.costs[name]

        def share(given: Given) -> float:
            found = amount(name, given, cost.unit)
            return float(found.value) if found.relative else float(found.value / cost.full)

        ordered = sorted(map(plain, amounts), key=share, reverse=True)
        if share(ordered[0]) > 1:
            raise UserError(
                f"size {ordered[0]} is above the full network's {exactly(cost.full)} {words(name, cost.unit)} "
                f"({space.title}); give sizes up to it"
            )
        if (
            twice := next((a for a, b in zip(ordered, ordered[1:], strict=False) if share(a) == share(b)), None)
        ) is not None:
            raise UserError(f"size {twice} of {name} is given twice; give every size once")
        return Sizes({given: {name: given} for given in ordered}, together)

    @property
    def smallest(self) -> Mapping[str, Given]:
        """The search's own budget."""
        return list(self.budgets.values())[-1]

    @property
    def identity(self) -> dict[str, Any]:
        """What of it makes a job the one it is."""
        how = {"together": self.together, "taught": self.lessons is not None}
        return {"sizes": list(self.budgets), "sizes_of": next(iter(self.smallest)), **how}


def split(
    space: SearchSpace,
    budget: Mapping[str, Any],
    together: bool,
    loss: Loss,
    teach: Callable[[Any, Any], jax.Array] | None = None,
    batch: Any = None,
) -> tuple[Mapping[str, Given], Sizes | None]:
    """A budget in which one resource may have several amounts: that of the search, and the sizes.

    Args:
      space: of the full network.
      budget: {"macs": (0.5, 0.25, 0.1)}, say.
      together: whether they have one set of weights.
      loss: of the full network.
      teach: `(params, batch)` -> its logits, by which the largest teaches the others.
      batch: one, to try `teach` with.

    Raises:
      UserError: several resources have several amounts, a teacher where there is nobody to teach, or as `Sizes.of`.
    """
    checks.flag("together", together)
    asked = budget if isinstance(budget, Mapping) else {}  # which the search refuses
    amounts = {name: found for name, x in asked.items() if (found := several_of(x)) is not None}
    if len(amounts) > 1:
        raise UserError(f"budgets on {' and '.join(amounts)} have several amounts; sizes differ in one resource")
    if teach is not None and not (amounts and together):
        raise UserError("teach= is of several sizes that are finetuned together; leave it out")
    budget = {name: plain(x) for name, x in asked.items()} if asked else budget
    if not amounts:
        return budget, None
    ((name, given),) = amounts.items()
    sizes = Sizes.of(space, name, given, together)
    if teach is not None:
        answers = checks.called("teach", teach, "params", "batch")
        _check_answers(space, answers, batch)
        lessons = Lessons.mixed(lambda params, batch, key: answers(params, batch), loss, Distillation())
        sizes = dataclasses.replace(sizes, lessons=lessons)
    return {**budget, **sizes.smallest}, sizes


def several_of(given: Any) -> list[Any] | None:
    """The amounts of a budget that has several; None where it is one."""
    if isinstance(given, np.ndarray | jax.Array) and given.ndim == 1:
        return given.tolist()
    return list(given) if isinstance(given, Sequence | Set) and not isinstance(given, str | bytes) else None


def _check_answers(space: SearchSpace, answers: Callable[[Any, Any], Any], batch: Any) -> None:
    """Refuse before the search what would be refused after it."""
    found = jax.eval_shape(lambda arrays: answers(space.whole(arrays), batch), space.arrays(space.parameters.template))
    shape, dtype = getattr(found, "shape", None), getattr(found, "dtype", None)
    if not shape or dtype is None or not jnp.issubdtype(dtype, jnp.floating):
        what = type(found).__name__ if shape is None else f"{dtype}{list(shape)}"
        raise UserError(f"teach returns {what}; give the logits, an array of floating-point numbers [..., classes]")


def finetuned(
    job: Job,
    name: str,
    family: Family,
    large: Any,
    make: Callable[[int], optax.GradientTransformation],
    steps: int,
    sizes: Sizes,
    average: Any,
) -> list[Any]:
    """The parameters of every size, trained from those of the largest network.

    Args:
      job: trains; its loss is that of the full network.
      name: of the phase; of several phases the first part.
      family: the networks.
      large: parameters of the largest, the whole tree.
      make: from a number of steps to the optimizer.
      steps: of the phase; of every size by itself as many.
      sizes: how.
      average: decay of a moving average of the weights, or from a step to it; None keeps none.
    """
    space, params = family.space, family.within(large)
    if not steps:
        return [family.params(params, size) for size in family.sizes]
    losses = {size: space.shrunk(job.loss, structure) for size, structure in family.structures.items()}
    if not sizes.together:

        def alone(number: int, size: Given) -> Any:
            how = {"trained": family.marks(number), "average": average}
            return job.train(f"{name} {size}", losses[size], family.params(params, size), make(steps), steps, **how)

        return [alone(number, size) for number, size in enumerate(family.sizes)]
    loss = joint_loss(family, job.loss, sizes.lessons)
    # statistics of a network that was not drawn stay as they are, from which no momentum can be read: each by itself
    apart = dataclasses.replace(job, calibrate=0) if job.calibrate else job
    how = {"trained": family.trained(params), "average": average}
    params = apart.train(name, loss, params, of_weights(make(steps)), steps, **how)
    found = [family.params(params, size) for size in family.sizes]
    if not job.calibrate:
        return found
    batches = job.batches_of(steps)
    return [
        job.calibrated(f"{name} {size}", losses[size], found[number], batches, family.marks(number))
        for number, size in enumerate(family.sizes)
    ]
