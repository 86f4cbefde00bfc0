"""Milliseconds of one forward pass on this device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from dms_jax import checks
from dms_jax.budgets import timing
from dms_jax.budgets.measured import Measured, Part
from dms_jax.budgets.pieces import Flat, deployed, flattened, whole
from dms_jax.budgets.profile import Profile
from dms_jax.budgets.resource import Cost, Network, Sized, deployable
from dms_jax.budgets.table import Table
from dms_jax.program.symbolic import leading

DTYPES = ("float32", "bfloat16", "float16")

PARTS = 4
"""A fourth of the seconds, at most, is taken for measuring the parts of what was found."""

LARGER = 8
"""Times the batch that is tried where no structure reaches a budget."""


@dataclass(frozen=True)
class Latency:
    """Milliseconds of a compiled forward pass, the result awaited, on the first device.

    What the search follows is a sum of times of pieces, measured over sizes of theirs (`dms_jax.budgets.profile`); what
    comes out is compiled and measured whole.

    Args:
      batch: inputs at once; None: those of the example.
      dtype: of floating-point parameters and inputs as deployed; None: those that they have.
      seconds: bound on the time that pieces are measured for, about; a fortieth of it on that of one network.

    Raises:
      UserError: a batch below 1, another dtype, or seconds that are not above 0.
    """

    always: ClassVar[bool] = False
    unit: ClassVar[str] = "ms"

    batch: int | None = field(
        default=None, metadata={"help": "Inputs at once, for --latency.", "default": "the example's"}
    )
    dtype: Literal["float32", "bfloat16", "float16"] | None = field(
        default=None, metadata={"help": "Dtype of deployed parameters and inputs, for --latency.", "default": "theirs"}
    )
    seconds: float = field(
        default=120.0, metadata={"help": "Most seconds that pieces are measured for, for --latency."}
    )

    def __post_init__(self):
        if self.batch is not None:
            checks.whole("batch of latency", self.batch, 1)
        if self.dtype is not None:
            checks.one_of("dtype of latency", self.dtype, *DTYPES)
        checks.number("seconds of latency", self.seconds, "(0, inf)")

    def __call__(self, network: Network) -> Cost:
        """Milliseconds of pieces, scaled to what whole networks take.

        Raises:
          UserError: no median settles, a clock that jumps, a table of another device, or a batch or dtype at which the
            network does not run.
        """
        table = Table.of_device(self.dtype, self.batch)
        with self._deployable(), table:
            profile = Profile(network, self.flat, self._whole, self.seconds, table)
            predicted = profile.predicted("latency", self.unit)

        def parts(kept: Mapping[str, Sequence[int]]) -> list[Part]:
            with self._deployable(), table:
                return profile.parts(kept, self.seconds / PARTS)

        return Measured(predicted, lambda sized: self.measure(sized, table), network, self.larger, repr(self), parts)

    def measure(self, network: Sized, table: Table | None = None) -> tuple[float, float]:
        """Milliseconds of the network of a structure, compiled and called with zeros, and their spread.

        Args:
          network: of the structure.
          table: of what is known; None: that of this device.

        Raises:
          UserError: as calling it does.
        """
        with self._deployable(), table or Table.of_device(self.dtype, self.batch) as known:
            return self._whole(self.flat(network), known)

    def larger(self, network: Sized) -> str:
        """What a larger batch would change for a network: "at a batch of 8 it takes 3 ms, 0.4 ms for each 1"."""
        batch = self.batch or leading(network.inputs) or 1
        ms, _ = replace(self, batch=LARGER * batch).measure(network)
        return f"at a batch of {LARGER * batch} it takes {ms:.3g} ms, {ms / LARGER:.3g} for every {batch}"

    def flat(self, network: Sized) -> Flat:
        """The program of a network as it is deployed."""
        sized: Any = network.batched(self.batch)
        params, inputs = jax.tree.map(self._shape, (sized.params, sized.inputs))
        fn = sized.fn if self.dtype is None else sized.fn.of(deployed(sized.fn.fn, self.dtype))
        return flattened(fn, params, *inputs)

    def _deployable(self) -> AbstractContextManager[None]:
        return deployable("latency", self.batch, self.dtype)

    def _shape(self, x: Any) -> jax.ShapeDtypeStruct:
        floating = self.dtype is not None and jnp.issubdtype(x.dtype, jnp.floating)
        return jax.ShapeDtypeStruct(x.shape, self.dtype if floating else x.dtype)

    def _whole(self, flat: Flat, table: Table, again: bool = False) -> tuple[float, float]:
        piece = whole(flat)

        def measure() -> tuple[float, float]:
            return timing.calls(piece, piece.inputs, self.seconds / 40, "this network")

        def measured() -> Sequence[float]:
            return table.time(f"whole {piece.key}", measure, again=again)

        ms, spread = timing.agreed(measured, 2)
        return ms, spread


resource = Latency()
