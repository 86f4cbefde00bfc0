"""Resources that can be measured: what stands for them in a search is a prediction, and the truth is slow to find."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dms_jax.budgets.resource import Cost, Network, Sized
from dms_jax.errors import UserError, shortened
from dms_jax.program.frames import Node


class Part(NamedTuple):
    """What a prediction is a sum of, for one structure.

    Attributes:
      node: the product that it begins with; None for what comes before the first.
      predicted, measured: of it alone, in the resource's unit; measured is None where there was no time.
    """

    node: Node | None
    predicted: float
    measured: float | None


@dataclass(frozen=True, eq=False)
class Measured:
    """A cost whose prediction is scaled to what the full network really has.

    A structure that is chosen by it is measured, and chosen again by a corrected budget until what is measured holds
    (see `dms_jax.method.correction`).

    Args:
      predicted: what the search and the projection follow.
      measuring: from the network of a structure to what it really has, a number of at least 0; or that and its spread,
        where another measurement gives another number.
      network: that it belongs to.
      beyond: from the smallest network to what to say of it where it is above a budget.
      options: what is asked for, the same whenever a job goes on.
      parts: from kept elements of every group to what the prediction is a sum of, each measured alone.
    """

    predicted: Cost
    measuring: Callable[[Sized], Any]
    network: Network
    beyond: Callable[[Sized], str] | None = None
    options: str = ""
    parts: Callable[[Mapping[str, Sequence[int]]], list[Part]] | None = None
    _known: dict[bytes, int | float] = field(default_factory=dict, init=False, repr=False)
    _spreads: dict[bytes, float] = field(default_factory=dict, init=False, repr=False)

    @property
    def name(self) -> str:
        """As in a budget."""
        return self.predicted.name

    @property
    def unit(self) -> str:
        """What it is counted in."""
        return self.predicted.unit

    @property
    def stepped(self) -> bool:
        """As the prediction."""
        return self.predicted.stepped

    @property
    def note(self) -> str:
        """`full network measured, others predicted`."""
        return "; ".join(filter(None, ("the full network's is measured, others are predicted", self.predicted.note)))

    @property
    def multiple(self) -> int | None:
        """Numbers of elements up to the next multiple take equally long on this device; None: it says nothing of it."""
        return getattr(self.predicted, "multiple", None)

    @property
    def full(self) -> int | float:
        """That of the full network, measured.

        Raises:
          UserError: it is not above 0.
        """
        found = self.measure({name: range(size) for name, size in self.network.groups.items()})
        if not found > 0:
            raise UserError(f"resource {self.name} is {found} for the full network; it must be above 0")
        return found

    def measure(self, kept: Mapping[str, Sequence[int]]) -> int | float:
        """What the network of a structure really has; once for structures of the same sizes.

        Args:
          kept: kept elements of every group.

        Returns:
          A number of at least 0, in the resource's unit; whole where what measures it gives whole numbers.

        Raises:
          UserError: what measures it gives no such number.
        """
        key = self.network.variables.counts(kept).tobytes()
        if key not in self._known:
            self.know(kept, self.measuring(self.network.at(kept)))
        return self._known[key]

    def know(self, kept: Mapping[str, Sequence[int]], value: Any) -> None:
        """Take in what was measured elsewhere: a number, or that and its spread."""
        key, pair = self.network.variables.counts(kept).tobytes(), isinstance(value, tuple) and len(value) == 2
        self._known[key] = self._number(value[0] if pair else value)
        if pair:
            self._spreads[key] = float(self._number(value[1]))

    def spread(self, kept: Mapping[str, Sequence[int]]) -> float | None:
        """Of what `measure` gives, in the resource's unit; None where every measurement gives the same."""
        self.measure(kept)
        return self._spreads.get(self.network.variables.counts(kept).tobytes())

    def hint(self, kept: Mapping[str, Sequence[int]]) -> str:
        """What to say where the smallest network is above a budget; often ""."""
        with contextlib.suppress(UserError):  # it is another error that this is said with
            return "" if self.beyond is None else self.beyond(self.network.at(kept))
        return ""

    def _number(self, value: Any) -> int | float:
        number = real(value)
        if number is None:
            raise UserError(
                f"resource {self.name} was measured to be {shortened(repr(value), 60)}; give a number of at least 0"
            )
        return int(number) if isinstance(value, int | np.integer) else number

    def exact(self, counts: np.ndarray) -> np.ndarray:
        """Predictions at integer counts `[..., variables]`: float64, or int64 where the full network's is whole."""
        share = np.asarray(self.predicted.exact(counts), np.float64) / float(self.predicted.full)
        if isinstance(self.full, int):
            return np.ceil(np.round(share * self.full, 6)).astype(np.int64)
        return share * self.full

    def fraction(self, counts: jax.Array) -> jax.Array:
        """The predicted share of the full network's at real counts `[variables]`, float32, differentiable."""
        return self.predicted.fraction(counts)


def real(value: Any) -> float | None:
    """A number of at least 0 that a user's function gave; None where it is something else."""
    if isinstance(value, bool | np.bool_):
        return None
    if isinstance(value, np.ndarray | jax.Array):
        if value.shape or not (jnp.issubdtype(value.dtype, jnp.floating) or jnp.issubdtype(value.dtype, jnp.integer)):
            return None
        value = value.item()
    if not isinstance(value, Real):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) and number >= 0 else None
