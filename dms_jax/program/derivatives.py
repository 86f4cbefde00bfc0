"""Custom derivatives, traced on the axes of what they differentiate, so that they can run at other sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.extend.core import ClosedJaxpr

from dms_jax.errors import MOST_CHARACTERS, TracingError, one_line
from dms_jax.program.axes import Ties
from dms_jax.program.frames import Frame, Program, Step, Value, describe_call
from dms_jax.program.loops import within
from dms_jax.program.trace import trace


def know(frame: Frame, ties: Ties) -> None:
    """Trace the custom derivatives of a frame and of those inside; what these use in their turn, when it is run."""
    for step in frame.steps:
        if step.eqn.primitive.name == "custom_jvp_call":
            jvp_rule(step, ties)
        elif step.eqn.primitive.name == "custom_vjp_call":
            vjp_rules(step, ties)
        for inner in step.frames:
            know(inner, ties)


@dataclass(frozen=True, eq=False)
class Closed:
    """A custom derivative that cannot be run again: it uses an array that was made outside, say. `why` says it."""

    step: Step
    why: str

    def refuse(self) -> TracingError:
        return TracingError(
            f"{describe_call(self.step)} has a derivative of its own that cannot be run at other sizes or with masks: "
            f"{self.why}"
        )


_OUTSIDE = "it uses an array that was made outside of it, while the function ran; hand the array in as an argument"


@dataclass(frozen=True, eq=False)
class JvpRule:
    """The derivative of a `custom_jvp` function: operands and tangents to results and tangents.

    Attributes:
      program: traced on the operands' axes, twice.
      zeros: which tangents of results are zero.
      consts: how many operands come first that are arrays the function holds; its derivative holds its own.
    """

    program: Program
    zeros: tuple[bool, ...]
    consts: int

    def apply(self, evaluator: Any, primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[Any, Any]:
        outs = evaluator.run([*primals[self.consts :], *tangents[self.consts :]])
        values, rest = outs[: len(self.zeros)], iter(outs[len(self.zeros) :])
        moved = [_zero_tangent(x) if zero else next(rest) for x, zero in zip(values, self.zeros, strict=True)]
        return tuple(values), tuple(moved)


def _zero_tangent(x: Any) -> Any:
    if jnp.issubdtype(x.dtype, jnp.inexact):
        return jnp.zeros_like(x)
    return np.zeros(jnp.shape(x), jax.dtypes.float0)


def jvp_rule(step: Step, ties: Ties) -> JvpRule | Closed:
    """The derivative of a `custom_jvp_call`."""
    if step.derivative is None:
        p = step.eqn.params
        first = p.get("num_consts", 0)
        own = step.ins[first:]
        try:
            jaxpr, consts, zeros = within(step.shards, lambda: p["jvp_jaxpr_fun"].call_wrapped(*[False] * len(own)))
        except Exception as error:  # the user's own code runs here
            step.derivative = Closed(step, one_line(error, MOST_CHARACTERS))
            return step.derivative
        if _outside(consts):
            step.derivative = Closed(step, _OUTSIDE)
        else:
            values = [*own, *(Value(value.axes) for value in own)]
            program = trace(ClosedJaxpr(jaxpr, consts), values, ties, shards=step.shards)
            step.derivative = JvpRule(program, tuple(zeros), first)
    return step.derivative


def _outside(consts: Sequence[Any]) -> bool:
    """Whether arrays of a trace that is over are among the constants of a derivative."""
    return any(isinstance(const, Tracer) for const in consts)


@dataclass(frozen=True, eq=False)
class VjpRules:
    """The derivative of a `custom_vjp` function.

    Attributes:
      forward: operands to residuals (but for those that are operands) and results.
      backward: all residuals and the cotangents of results to those of operands, where there is one.
      forwarded: of every residual, the number of the operand that it is, or None.
      there: of every operand, whether `backward` has a cotangent for it.
      consts: how many operands come first that are arrays the function holds; its derivative holds its own.
    """

    forward: Program
    backward: Program
    forwarded: tuple[int | None, ...]
    there: tuple[bool, ...]
    consts: int

    def ahead(self, evaluator: Any, arrays: Sequence[Any]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """Results and residuals."""
        outs = evaluator.run(arrays[self.consts :])
        made = sum(number is None for number in self.forwarded)
        new = iter(outs[:made])
        return tuple(outs[made:]), tuple(next(new) if n is None else arrays[n] for n in self.forwarded)

    def cotangents(self, outs: Sequence[Any]) -> tuple[Any, ...]:
        """What `backward` gives, as one for every operand; None where there is none."""
        rest = iter(outs)
        return (*[None] * self.consts, *(next(rest) if there else None for there in self.there))


def vjp_rules(step: Step, ties: Ties) -> VjpRules | Closed:
    """The derivative of a `custom_vjp_call`."""
    if step.derivative is None:
        try:
            step.derivative = _traced_vjp(step, ties)
        except Exception as error:  # the user's own code runs here
            step.derivative = Closed(step, one_line(error, MOST_CHARACTERS))
    return step.derivative


def _traced_vjp(step: Step, ties: Ties) -> VjpRules | Closed:
    p = step.eqn.params
    first = p.get("num_consts", 0)
    own = step.ins[first:]
    ahead = p["fwd_jaxpr_thunk"]
    jaxpr, consts = within(step.shards, lambda: ahead.call_wrapped(*[True] * len(own)))[:2]  # differentiated by all
    if _outside(consts):
        return Closed(step, _OUTSIDE)
    forwarded = tuple(p["out_trees"]()[2])
    made = sum(number is None for number in forwarded)
    forward = trace(ClosedJaxpr(jaxpr, consts), own, ties, shards=step.shards)
    new = iter(forward.outputs[:made])
    residuals = [next(new) if number is None else step.ins[number] for number in forwarded]
    fresh_avals = iter(var.aval for var in jaxpr.outvars[:made])
    avals = [next(fresh_avals) if number is None else step.eqn.invars[number].aval for number in forwarded]
    there: list[bool] = []

    def backward_outputs(*arrays: Any) -> list[Any]:
        outs = p["bwd"].call_wrapped(*arrays)
        if isinstance(outs, tuple) and len(outs) == 2 and isinstance(outs[0], list | tuple):  # since JAX 0.12: and logs
            outs = outs[0]
        there.extend(isinstance(out, jax.Array | np.ndarray) for out in outs)
        return [out for out in outs if isinstance(out, jax.Array | np.ndarray)]

    given = [*avals, *(var.aval for var in step.eqn.outvars)]  # which say what differs over the devices of a shard_map
    closed = within(step.shards, lambda: jax.make_jaxpr(backward_outputs)(*given))
    if _outside(closed.consts):
        return Closed(step, _OUTSIDE)
    values = [Value(value.axes) for value in (*residuals, *step.outs)]
    backward = trace(closed, values, ties, shards=step.shards)
    backward.ahead = forward
    outs = iter(backward.outputs)
    for has, operand in zip(there, own, strict=True):
        if has:
            for a, b in zip(next(outs).axes, operand.axes, strict=True):
                ties.tie(a, b, "a custom derivative")
    return VjpRules(forward, backward, forwarded, tuple(there), first)
