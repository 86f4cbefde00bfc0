"""Multiply-adds of one forward pass: convolutions and matrix products, those of attention included; nothing else."""

from __future__ import annotations

from collections.abc import Sequence

from dms_jax.budgets.polynomial import Maximum, Polynomial, Sum, add
from dms_jax.budgets.resource import Cost, Network
from dms_jax.errors import TracingError
from dms_jax.program.frames import Alternatives, ProductTerm

MOST_WAYS = 64
"""How many ways through the branches of choices are compared."""


def resource(network: Network) -> Cost:
    """MACs as a polynomial, or as the largest of several where the program chooses.

    Raises:
      TracingError: products whose number cannot be counted.
    """
    if network.program.uncounted:
        raise TracingError(f"MACs cannot be counted: {network.program.uncounted[0]}")
    several = _sums(network, network.program.work)
    if len(several) > MOST_WAYS:
        raise TracingError(
            f"MACs cannot be counted: the branches of `cond` and `switch` that cost differently make {len(several):,} "
            f"ways through the network, and at most {MOST_WAYS} can be compared"
        )
    sizes = network.variables.sizes
    polynomials = tuple(Polynomial.of("macs", "MACs", terms, sizes) for terms in several)
    return polynomials[0] if len(polynomials) == 1 else Maximum(polynomials)


def _sums(network: Network, work: Sequence[ProductTerm | Alternatives]) -> list[Sum]:
    """The multiply-adds of every way through choices, equal ones and those that others always exceed left out."""
    alive = [p for p in work if isinstance(p, ProductTerm) and p.node.outputs[0] in network.behind]  # others never run
    terms = [network.variables.term(p.axes, network.behind[p.node.outputs[0]]) for p in alive]
    several = [add(terms)]
    for choice in work:
        if isinstance(choice, Alternatives):
            branches = _largest([way for branch in choice.branches for way in _sums(network, branch)])
            several = [add([one, way]) for one in several for way in branches]
            if len(several) > MOST_WAYS:  # it is refused; how many there are is told roughly
                break
    return several


def _largest(several: Sequence[Sum]) -> list[Sum]:
    """Without those that another exceeds, or equals, term by term."""
    found: list[Sum] = []
    for terms in several:
        if not any(_exceeds(other, terms) for other in found):
            found = [other for other in found if not _exceeds(terms, other)] + [terms]
    return found


def _exceeds(one: Sum, other: Sum) -> bool:
    return all(one.get(monomial, 0) >= coefficient for monomial, coefficient in other.items())
