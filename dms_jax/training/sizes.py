"""Several sizes from one search: which they are, and their finetuning, all together or each by itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import optax

from dms_jax import checks
from dms_jax.budgets.amounts import Given, amount
from dms_jax.errors import UserError
from dms_jax.family import Family
from dms_jax.method.loss import Loss
from dms_jax.reading import shown
from dms_jax.shrink import shrink
from dms_jax.space import SearchSpace
from dms_jax.training.distillation import Distillation
from dms_jax.training.job import Job
from dms_jax.training.joint import Lessons, joint_loss


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

    @staticmethod
    def of(space: SearchSpace, name: str, amounts: Sequence[Given], together: bool = True) -> Sizes:
        """Sizes that differ in one resource, given in any order.

        Raises:
          UserError: fewer than two, one of them twice, or amounts that are none.
        """
        if len(amounts) < 2:
            raise UserError(f"sizes {shown(amounts)} of {name}: give two or more, or one budget")
        space = space.asked([name])
        if name not in space.costs:
            raise UserError(f"budget on {name!r}: give one on {' or '.join(space.costs)}")
        cost = space.costs[name]

        def share(given: Given) -> float:
            found = amount(name, given, cost.unit)
            return found.value if found.relative else found.value / cost.full

        ordered = sorted(amounts, key=share, reverse=True)
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
        return {"sizes": list(self.budgets), "together": self.together, "taught": self.lessons is not None}


def split(
    space: SearchSpace,
    budget: Mapping[str, Any],
    together: bool,
    loss: Loss,
    teach: Callable[[Any, Any], jax.Array] | None = None,
) -> tuple[Mapping[str, Given], Sizes | None]:
    """A budget in which one resource may have several amounts: that of the search, and the sizes.

    Args:
      space: of the full network.
      budget: {"macs": (0.5, 0.25, 0.1)}, say.
      together: whether they have one set of weights.
      loss: of the full network.
      teach: `(params, batch)` -> its logits, by which the largest teaches the others.

    Raises:
      UserError: several resources have several amounts, a teacher where there is nobody to teach, or as `Sizes.of`.
    """
    checks.flag("together", together)
    given = budget if isinstance(budget, Mapping) else {}  # which the search refuses
    several = [name for name, x in given.items() if isinstance(x, Sequence) and not isinstance(x, str | bytes)]
    if len(several) > 1:
        raise UserError(f"budgets on {' and '.join(several)} have several amounts; sizes differ in one resource")
    if teach is not None and not (several and together):
        raise UserError("teach= is of several sizes that are finetuned together; leave it out")
    if not several:
        return budget, None
    sizes = Sizes.of(space, several[0], budget[several[0]], together)
    if teach is not None:
        answers = checks.function("teach", teach)
        lessons = Lessons.mixed(lambda params, batch, key: answers(params, batch), loss, Distillation())
        sizes = dataclasses.replace(sizes, lessons=lessons)
    return {**budget, **sizes.smallest}, sizes


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
    losses = {size: space.shrunk(job.loss, structure) for size, structure in family.structures.items()}
    marks = {size: shrink(space, space.trained, structure) for size, structure in family.structures.items()}
    start = {size: family.params(params, size) for size in family.sizes}
    if not steps:
        return list(start.values())
    if not sizes.together:
        how = {"average": average}
        return [
            job.train(f"{name} {s}", losses[s], start[s], make(steps), steps, trained=marks[s], **how)
            for s in family.sizes
        ]
    loss = joint_loss(family, job.loss, sizes.lessons)
    # statistics of a network that was not drawn stay as they are, from which no momentum can be read: each by itself
    plain = dataclasses.replace(job, calibrate=0) if job.calibrate else job
    params = plain.train(name, loss, params, make(steps), steps, trained=family.trained(params), average=average)
    found = {size: family.params(params, size) for size in family.sizes}
    if not job.calibrate:
        return list(found.values())
    return [job.calibrated(f"{name} {s}", losses[s], found[s], job.batches_of(steps), marks[s]) for s in family.sizes]
