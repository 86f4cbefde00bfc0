"""What a strategy is: structure parameters (and importance) in, masks out. The search step does not know which."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import jax
import numpy as np

from dms_jax.strategies.layout import Layout


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


@dataclass(frozen=True)
class Strategy(ABC):
    """One way to turn structure parameters into masks. Immutable: parameters live in the `SearchState`.

    Args:
      rate: mean learning rate of Adam on the parameters, times the steps after the warm-up: about how far a parameter
        can move in a search.

    Class attributes:
      title: in tables: "found by ...".
      schedule: how the rate goes over a search, as `Search(ratio_schedule=...)` takes it. Constant where a falling one
        misses the target.
      ratios: the parameters are `[ratios]` pruning ratios.
      together: the share of the rate at which ratios move together, as `Search(ratio_together=...)` takes it.
      zeros: masks reach exactly 0. Then (1) masks are folded into kernels that read them alone: folded into what writes
        the axis, a mask of 0 under a ReLU passes no gradient to itself; (2) an element is judged as if its mask were 1,
        so that (m g)^2 of one that is out is the first-order change of the loss when it comes back. (What lies inside a
        block that is out has no gradient, and keeps its importance.)
      across: importances are compared across groups, so that a group of one element has an importance, too, and the
        projection holds no piece against them (`projection.project`).
    """

    rate: float = 5.0
    title: ClassVar[str] = "another strategy"
    schedule: ClassVar[Literal["cosine", "constant"]] = "constant"
    ratios: ClassVar[bool] = False
    together: ClassVar[float] = 0.0
    zeros: ClassVar[bool] = False
    across: ClassVar[bool] = False

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
