"""What a strategy is: structure parameters (and importance) in, masks out. The search step does not know which."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import jax
import numpy as np
import optax

from dms_jax import checks
from dms_jax.errors import UserError
from dms_jax.method.layout import Layout
from dms_jax.method.optimizer import adam_together


@dataclass(frozen=True)
class Context:
    """What a strategy may look at besides its parameters. No gradient flows into any of it.

    Attributes:
      importance: c `[elements]` float32.
      targets: {resource: float32} where the target stands now, as a fraction of the full network.
      key: of this step, for noise; None asks for the masks without noise (pictures, the result).
      quiet: `[groups]` bool: no noise here (warm-up, and groups that are frozen).
    """

    importance: jax.Array
    targets: Mapping[str, jax.Array]
    key: jax.Array | None
    quiet: jax.Array


@dataclass(frozen=True)
class Decision:
    """What goes into `projection.project`.

    Attributes:
      ratios: `[ratios]` float64, pruning ratio of every set of groups that share one.
      ranking: `[elements]` what elements are worth: the largest stay, and come back first, per cost.
    """

    ratios: np.ndarray
    ranking: np.ndarray


SLACK = 0.7
"""Of log r around the target when it begins to shrink: a factor of two."""


@dataclass(frozen=True)
class Strategy(ABC):
    """One way to turn structure parameters into masks. Immutable: parameters live in the `SearchState`.

    A file of `dms_jax.baselines` with a subclass is a strategy of the command line, by the name of the file.

    Args:
      rate: mean learning rate of Adam on the parameters, times the steps after the warm-up: about how far a parameter
        can move in a search.
      schedule: "cosine" lets the rate fall from twice its mean to 0, so that parameters settle while the target stands
        still; "constant" is the paper's, and right where a falling one misses the target.
      together: share in [0, 1) of the rate at which the ratios of widths and heads move together; at the rest each
        moves by itself, and depth at all of it (`optimizer.adam_together`). 0 is the paper's.
      slack: how far log r may be from the target, either way, when the target begins to shrink, that is after the
        warm-up; the limit narrows to 0.09 where the target stands at the budget (`tracking.slack`). Where a step would
        go beyond it, a common shift of the ratios takes r back inside, as nearly as elements allow, and depth moves
        only as far as widths can make up for. A search that never comes near the limit is the same without. inf:
        nothing holds r but the weight that follows the miss. Of two budgets the one that binds is held. It holds where
        the parameters are ratios; other strategies have none.
      on_target: after every step that shift brings r to the target itself, whatever the slack. It takes the place of
        the movement together, and of a weight that follows the miss.
      effects: blocks are judged, and pull at their ratio, by the finite effect of their removal (`effects`), in place
        of their gradient at the masks they have.

    Class attributes:
      title: in tables: "found by ...".
      ratios: the parameters are `[ratios]` pruning ratios.
      learned: there are parameters, which a rate moves.
      uses_importance: which elements stay is decided by their importance.
      zeros: masks reach exactly 0. Then (1) masks are folded into kernels that read them alone: folded into what writes
        the axis, a mask of 0 under a ReLU passes no gradient to itself; (2) an element is judged as if its mask were 1,
        so that (m g)^2 of one that is out is the first-order change of the loss when it comes back. (What lies inside a
        block that is out has no gradient, and keeps its importance.)
      across: importances are compared across groups, so that a group of one element has an importance, too, and the
        projection holds no piece against them (`projection.project`).

    Raises:
      UserError: numbers outside their ranges, a rate where nothing is learned, or ratios that should move together, or
        be held on the target or near it, where there are none.
    """

    rate: float = 5.0
    schedule: Literal["cosine", "constant"] = "constant"
    together: float = 0.0
    slack: float = field(default=SLACK, repr=False)
    on_target: bool = False
    effects: bool = False
    title: ClassVar[str] = "another strategy"
    ratios: ClassVar[bool] = False
    learned: ClassVar[bool] = True
    uses_importance: ClassVar[bool] = True
    zeros: ClassVar[bool] = False
    across: ClassVar[bool] = False

    def __post_init__(self):
        checks.number("rate", self.rate, "(0, inf)", "of the structure parameters")
        checks.number("together", self.together, "[0, 1)", "of the rate")
        checks.number("slack", self.slack, "(0, inf]", "around the target")
        checks.one_of("schedule of the rate", self.schedule, "cosine", "constant")
        if not self.learned and (self.rate, self.schedule) != (type(self).rate, type(self).schedule):
            raise UserError(f"{self.title} has no parameters that a rate could move; leave `rate` and `schedule` out")
        if self.together and not self.ratios:
            raise UserError(f"{self.title} has no ratios that could move together; leave `together` out")
        if self.slack not in (SLACK, math.inf) and not self.ratios:
            raise UserError(f"{self.title} has no ratios that a shift could hold near the target; leave `slack` out")
        if self.slack not in (SLACK, math.inf) and self.on_target:
            raise UserError(f"on the target there is no slack of {self.slack:g}; leave `slack` or `on_target` out")
        for name in ("on_target", "effects"):
            checks.flag(name, getattr(self, name))
        if self.on_target and not self.ratios:
            raise UserError(f"{self.title} has no ratios that a shift could hold on the target; leave `on_target` out")
        if self.effects and self.zeros:
            raise UserError(f"{self.title} has masks of 0 or 1, and blocks with no way between; leave `effects` out")

    @property
    def limit(self) -> float:
        """The slack as far as it does anything: inf where there are no ratios, and where they are on the target."""
        return self.slack if self.ratios and not self.on_target else math.inf

    @abstractmethod
    def init(self, layout: Layout) -> Any:
        """The parameters before the first step: a pytree of float32 arrays at which (nearly) all elements stay."""

    @abstractmethod
    def owners(self, layout: Layout) -> Any:
        """A pytree like the parameters: the number of the group that each entry of a leaf's first axis belongs to."""

    @abstractmethod
    def masks(self, layout: Layout, parameters: Any, context: Context) -> jax.Array:
        """Masks `[elements]` float32 in [0, 1], differentiable in the parameters.

        The search itself opens groups that are left alone, and makes frozen groups hard.
        """

    def retention(self, layout: Layout, parameters: Any, context: Context) -> jax.Array | None:
        """With which probability elements stay, `[elements]` in [0, 1], or a stand-in for it.

        The resources' gradient flows through it in place of the masks; None, through the masks.
        """
        return None

    def optimizer(self, layout: Layout, steps: int) -> optax.GradientTransformation:
        """What moves the parameters: Adam, without weight decay.

        Args:
          layout: of the space.
          steps: after the warm-up, which alone count for it.
        """
        rate = self.rate / steps
        scheduled = optax.cosine_decay_schedule(2 * rate, steps) if self.schedule == "cosine" else rate
        if not self.together:
            return optax.adam(scheduled)
        members = layout.to_ratios(layout.moves_together)
        return adam_together(scheduled, self.together, members, common=not self.on_target)

    def kept(self, layout: Layout, masks: jax.Array) -> jax.Array:
        """Which elements masks stand for, `[elements]` of 0 and 1: what r counts, and what a group is frozen at."""
        return (masks >= 0.5).astype(masks.dtype)

    def clip(self, layout: Layout, parameters: Any) -> Any:
        """The nearest parameters within their range."""
        return parameters

    def decide(self, layout: Layout, parameters: Any, context: Context) -> Decision:
        """Ratios and ranking for the final projection: here what the masks without noise keep, and importance."""
        counts = layout.counts(self.kept(layout, self.masks(layout, parameters, context)))
        return Decision(layout.ratios(counts), np.asarray(context.importance))
