"""Multiply-adds of one forward pass: convolutions and matrix products, those of attention included; nothing else."""

from __future__ import annotations

from dms_jax.budgets.polynomial import Polynomial, add
from dms_jax.budgets.resource import Cost, Network
from dms_jax.errors import TracingError


def resource(network: Network) -> Cost:
    """MACs as a polynomial.

    Raises:
      TracingError: products whose number cannot be counted.
    """
    if network.program.uncounted:
        raise TracingError(
            f"MACs cannot be counted: how often {network.program.uncounted[0]} multiplies is not known; use "
            "`jax.lax.scan`, or `fori_loop` with fixed bounds, instead of a `while` loop"
        )
    alive = [p for p in network.program.products if p.node.outputs[0] in network.behind]  # others are never computed
    terms = add(network.variables.term(p.axes, network.behind[p.node.outputs[0]]) for p in alive)
    return Polynomial.of("macs", "MACs", terms, network.variables.sizes)
