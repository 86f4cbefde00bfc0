"""Which equations of a jaxpr its outputs need. What nobody reads keeps nothing from being searched."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from jax.extend import core

Wanted = tuple[bool, ...]


@dataclass(frozen=True, eq=False)
class Lean:
    """What is needed of one jaxpr.

    Attributes:
      equations: those that are needed, and which of their outputs are.
      inputs: which inputs are.
      whole: whether that is all of it.
    """

    equations: list[tuple[Any, Wanted]]
    inputs: Wanted
    whole: bool


class Needed:
    """Looks at a jaxpr from its end; programs that calls run are looked into.

    Args:
      called: the program that a call-like equation runs on its own operands, or None.
    """

    def __init__(self, called: Callable[[Any], Any]):
        self._called = called
        self._known: dict[tuple[int, Wanted], tuple[Any, Lean]] = {}

    def of(self, jaxpr: Any, wanted: Sequence[bool]) -> Lean:
        """What some outputs of a jaxpr need."""
        key = (id(jaxpr), tuple(wanted))
        if key not in self._known:
            self._known[key] = jaxpr, self._lean(jaxpr, wanted)  # kept: an identity is good for as long as it lives
        return self._known[key][1]

    def _lean(self, jaxpr: Any, wanted: Sequence[bool]) -> Lean:
        needed = {var for var, want in zip(jaxpr.outvars, wanted, strict=True) if want and _is_variable(var)}
        found, whole = [], all(wanted)
        for eqn in reversed(jaxpr.eqns):
            outs = tuple(var in needed for var in eqn.outvars)
            if not (any(outs) or eqn.effects or _marks(eqn)):
                whole = False
                continue
            inner = self._called(eqn) if eqn.primitive.name in _PLAIN and not _marks(eqn) and not eqn.effects else None
            ins: Sequence[bool] = [True] * len(eqn.invars)
            if inner is None:
                outs = (True,) * len(outs)
            else:
                inside = self.of(getattr(inner, "jaxpr", inner), outs)
                ins, whole = inside.inputs, whole and inside.whole
            needed.update(v for v, need in zip(eqn.invars, ins, strict=True) if need and _is_variable(v))
            found.append((eqn, outs))
        return Lean(found[::-1], tuple(var in needed for var in jaxpr.invars), whole)


_PLAIN = ("jit", "pjit", "closed_call", "core_call", "remat2", "checkpoint")
"""Calls that run as well for some of their outputs."""


def _is_variable(atom: Any) -> bool:
    return not isinstance(atom, core.Literal)


def _marks(eqn: Any) -> bool:
    """Whether an equation names a group, which it does whether or not anybody reads its result."""
    if eqn.primitive.name == "dms_name":
        return True
    return any(_marks(inner) for jaxpr in core.jaxprs_in_params(eqn.params) for inner in jaxpr.eqns)
