"""Bytes of memory of one forward pass at its peak: parameters, inputs, outputs and what is between them."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from typing import Any, ClassVar

import jax

from dms_jax import checks
from dms_jax.budgets.living import Peak, moments
from dms_jax.budgets.measured import Measured
from dms_jax.budgets.polynomial import Polynomial, add
from dms_jax.budgets.resource import Cost, Network, Sized, deployable
from dms_jax.errors import UserError


@dataclass(frozen=True)
class Memory:
    """Peak bytes of a compiled forward pass, by XLA's own analysis: arguments, outputs and temporary arrays.

    Args:
      batch: inputs at once; None: those of the example.

    Raises:
      UserError: a batch that is no whole number of at least 1.
    """

    always: ClassVar[bool] = False

    batch: int | None = field(
        default=None, metadata={"help": "Inputs at once, for --memory.", "default": "the example's"}
    )

    def __post_init__(self):
        if self.batch is not None:
            checks.whole("batch of memory", self.batch, 1)

    def __call__(self, network: Network) -> Cost:
        """What a compiled network needs. Predicted are parameters, inputs and, scaled, the most that lives at once.

        Raises:
          UserError: the compiler of this device does not say, or the program does not run at that batch.
        """
        full = network.at({name: range(size) for name, size in network.groups.items()})
        whole, (weights, factors) = self.measure(full), moments(network)
        terms = add(
            {monomial: coefficient * dtype.itemsize for monomial, coefficient in term.items()}
            for value, (gates, dtype) in network.arrays.items()
            for term in [network.variables.term(value.axes, gates)]
        )
        given = sum(prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(full.batched(self.batch).inputs))
        always = Polynomial.of("memory", "bytes", add([terms, {(): given}]), network.variables.sizes)
        bare = Peak("memory", "bytes", always, weights, factors)
        scale = max(whole - always.full, 0) / max(bare.full - always.full, 1)
        predicted = Peak("memory", "bytes", always, weights * scale, factors)
        found = Measured(predicted, self.measure, network)
        found.know(full.kept, whole)
        return found

    def measure(self, network: Sized) -> int:
        """Bytes of the network of a structure: it is compiled for the first device, and not run.

        Raises:
          UserError: the compiler does not say, or the program does not run at that batch.
        """
        sized = network.batched(self.batch)
        with deployable("memory", self.batch):
            compiled = jax.jit(sized.fn).lower(sized.params, *sized.inputs).compile()
        found: Any = compiled.memory_analysis()
        if found is None:
            raise UserError(f"memory is not known on {jax.devices()[0].platform}: its compiler does not say")
        inside = found.temp_size_in_bytes + found.output_size_in_bytes
        return int(found.argument_size_in_bytes + inside - found.alias_size_in_bytes)


resource = Memory()
