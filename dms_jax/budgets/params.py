"""Trainable numbers: every trained leaf of the parameters."""

from __future__ import annotations

from dms_jax.budgets.polynomial import Polynomial, add
from dms_jax.budgets.resource import Cost, Network


def resource(network: Network) -> Cost:
    """Parameters as a polynomial."""
    terms = add(network.variables.term(value.axes, gates) for value, gates in network.parameters.items())
    return Polynomial.of("params", "parameters", terms, network.variables.sizes)
