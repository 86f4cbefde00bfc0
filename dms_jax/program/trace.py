"""A jaxpr, read.

`Tracer.run` walks a jaxpr once. Every array becomes a `Value` with an axis term a dimension; every operation a `Step`
of its `Frame` (which `evaluate.py` runs again at other sizes) and, if it is no call, a `Node` (which the passes over
the whole program look at: `exactness.py`, `branches.py`, `dms_jax.budgets`).
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer as Unknown
from jax.extend import core

from dms_jax.program.axes import Axis, Ties
from dms_jax.program.frames import Frame, Node, ProductTerm, Program, Step, Value, describe
from dms_jax.program.loops import Loops, solve_parts
from dms_jax.program.needed import Needed
from dms_jax.program.operations import OPERATIONS, AxesOf, fresh, unknown


def trace(closed: Any, inputs: Sequence[Value], ties: Ties, lean: bool = True, shards: tuple[Any, ...] = ()) -> Program:
    """Trace a `ClosedJaxpr` on values for its inputs, some of which may be those of other programs.

    Args:
      closed: the program.
      inputs: of it.
      ties: of all axes.
      lean: leave out what no output needs.
      shards: the `shard_map`s that it runs in, outermost first.
    """
    program = Program(list(inputs), ties)
    program.frame = Tracer(program, lean, shards).run(closed.jaxpr, closed.consts, inputs)
    program.outputs = program.frame.outs
    return program


class Tracer(Loops):
    """Runs the entries of `operations` over a jaxpr; what their rules see as `t`."""

    def __init__(self, program: Program, lean: bool, shards: tuple[Any, ...] = ()):
        self.program, self.shards = program, shards
        self.needed = Needed(called) if lean else None
        self.repeats: AxesOf | None = ()  # the loops around the current operation; None in a `while` loop
        self.node: Node = Node("start", [], [])
        self.callers: tuple[Any, ...] = ()
        self.short: dict[Value, Any] = {}  # constant arrays of few entries

    # --- what rules may say ---

    def tie(self, a: Axis, b: Axis) -> None:
        self.program.ties.tie(a, b, self.node)

    def freeze(self, *axes: Axis) -> None:
        for axis in axes:
            self.program.ties.freeze(axis, self.node)

    def frozen_at(self, axes: AxesOf, dims: Iterable[int]) -> AxesOf:
        self.freeze(*(axes[i] for i in dims))
        return axes

    def meaningful(self, axis: Axis, size: int) -> Axis:
        """Freeze an axis whose positions the operation looks at, and return the axis of its result."""
        (out,) = fresh((size,))
        self.freeze(axis, out)
        return out

    def multiply_adds(self, axes: AxesOf) -> None:
        if self.repeats is None:
            self.program.uncounted.append(
                f"how often {describe(self.node)} multiplies is not known; use `jax.lax.scan`, or `fori_loop` with "
                "fixed bounds, instead of a `while` loop"
            )
        else:
            term = ProductTerm((*self.repeats, *axes), self.node)
            self.program.products.append(term)
            self.program.work.append(term)

    def cost_unknown(self) -> None:
        """The multiply-adds of the current operation cannot be counted."""
        self.program.uncounted.append(
            f"how much {describe(self.node)} multiplies is not known; tell it (`dms_jax.register_operation`), or bound "
            "another resource"
        )

    # --- walking ---

    def constant(self, value: Any) -> Value:
        """An array made in Python; running smaller slices it, so it may have any axes."""
        axes = fresh(np.shape(value))
        found = Value(axes, _all_over(value), True, None if isinstance(value, Unknown) else value)
        if len(axes) == 1 and axes[0].size <= _SHORT and not isinstance(value, Unknown):
            self.short[found] = value
        return found

    def run(
        self, jaxpr: Any, const_arrays: Sequence[Any], args: Sequence[Value], wanted: Sequence[bool] | None = None
    ) -> Frame:
        consts = [self.constant(value) for value in const_arrays]
        frame = Frame(jaxpr, const_arrays, consts, list(args))
        env: dict[Any, Value] = dict(zip(jaxpr.constvars, consts, strict=True))
        env.update(zip(jaxpr.invars, args, strict=True))

        def read(atom: Any) -> Value:
            if isinstance(atom, core.Literal):
                return self.constant(atom.val)
            if atom not in env:  # what makes it was left out
                env[atom] = Value(fresh(atom.aval.shape))
            return env[atom]

        for eqn, outs in self._equations(jaxpr, wanted):
            step = self.apply(eqn, [read(atom) for atom in eqn.invars], outs)
            frame.steps.append(step)
            env.update(zip(eqn.outvars, step.outs, strict=True))
        frame.outs = [read(atom) for atom in jaxpr.outvars]
        return frame

    def _equations(self, jaxpr: Any, wanted: Sequence[bool] | None) -> list[tuple[Any, Sequence[bool] | None]]:
        """Equations to trace, and which of their outputs are wanted; None: all."""
        if self.needed is None:
            return [(eqn, None) for eqn in jaxpr.eqns]
        lean = self.needed.of(jaxpr, [True] * len(jaxpr.outvars) if wanted is None else wanted)
        self.program.whole = self.program.whole and lean.whole
        return list(lean.equations)

    def apply(self, eqn: Any, ins: list[Value], wanted: Sequence[bool] | None = None) -> Step:
        name = eqn.primitive.name
        if name not in OPERATIONS:
            special = {"scan": self.scan, "while": self.while_, "cond": self.cond, "shard_map": self.shard_map}
            special["linear_call"] = self.linear_call
            if name in special:
                return special[name](eqn, ins)
            if name == "custom_linear_solve" and len(eqn.outvars) == len(solve_parts(eqn.params, ins)[2]):
                return self.linear_solve(eqn, ins)
            inner = called(eqn)
            if inner is not None:
                frame = self.call(eqn, inner, ins, wanted)
                return Step(eqn, ins, frame.outs, None, [frame], shards=self.shards)
        self.node = node = Node(name, ins, [], eqn, self.callers)
        rule = OPERATIONS[name].axes if name in OPERATIONS else unknown
        if name not in OPERATIONS and multiplies(eqn):
            self.cost_unknown()
        axes = rule(self, eqn, [value.axes for value in ins])
        fixed = all(value.fixed for value in ins) and not eqn.effects
        node.outputs = [Value(a, None, fixed) for a in axes]
        if name in _UNIFORM and ins[0].constant is not None:
            node.outputs[0].constant = ins[0].constant
        if name in _NUMBERS and all(value.constant is not None for value in ins) and not _divides_back(node):
            node.outputs[0].constant = _number(eqn, [value.constant for value in ins])
        if name == "reduce_prod" and not axes[0] and ins[0] in self.short:
            node.outputs[0].constant = float(np.prod(self.short[ins[0]]))
        self.program.nodes.append(node)
        return Step(eqn, ins, node.outputs, node, [])

    def alias(self, source: Value, target: Value, eqn: Any) -> None:
        """`target` is `source`, seen from inside or outside a nested program."""
        self.program.nodes.append(Node("alias", [source], [target], eqn, self.callers))

    def call(self, eqn: Any, inner: Any, args: Sequence[Value], wanted: Sequence[bool] | None = None) -> Frame:
        jaxpr, consts = inner.jaxpr if isinstance(inner, core.ClosedJaxpr) else inner, constants_of(inner)
        callers, self.callers = self.callers, (*self.callers, eqn)
        frame = self.run(jaxpr, consts, args, wanted)
        self.callers = callers
        return frame


COMPARISONS = frozenset("eq ne lt le gt ge".split())

_UNIFORM = frozenset("broadcast_in_dim reshape convert_element_type squeeze transpose copy".split())

_NUMBERS: dict[str, Callable[..., float]] = {
    **{name: getattr(operator, name) for name in ("add", "sub", "mul", "neg", "pow", *COMPARISONS)},
    "div": operator.truediv,
    "max": max,
    "min": min,
    "sqrt": math.sqrt,
    "square": lambda x: x * x,
    "integer_pow": operator.pow,
    "select_n": lambda which, *cases: cases[int(which)],
}
"""Numbers that are computed from numbers, alone or all over an array: a variance divides by N - 0, Keras by N where N
is not 0, else by 1; others multiply by 1 / max(N, 1)."""


def _divides_back(node: Node) -> bool:
    """d(sum x / N) = 1 / N, for all x: there N is what a mean counts."""
    return node.name in ("mul", "div") and node.transposed


def _all_over(value: Any) -> float | None:
    """The one number that an array made in Python holds, if that is all."""
    if isinstance(value, int | float):
        return float(value)
    known = isinstance(value, np.number | np.ndarray) or (isinstance(value, jax.Array) and np.ndim(value))
    if isinstance(value, Unknown) or not known or not 0 < np.size(value) <= _LARGE:
        return None
    if not (jnp.issubdtype(value.dtype, jnp.floating) or jnp.issubdtype(value.dtype, jnp.integer)):
        return None
    flat = np.asarray(value).reshape(-1)
    return float(flat[0]) if np.all(flat == flat[0]) else None


def _number(eqn: Any, numbers: Sequence[Any]) -> float | None:
    more = (eqn.params["y"],) if eqn.primitive.name == "integer_pow" else ()
    if eqn.primitive.name == "div" and jnp.issubdtype(eqn.outvars[0].aval.dtype, jnp.integer):
        return None  # which is rounded
    try:
        return float(_NUMBERS[eqn.primitive.name](*numbers, *more))
    except (ArithmeticError, ValueError, TypeError):  # what is no number, or no real one
        return None


_LARGE = 1 << 16  # entries of a constant array that is looked at
_SHORT = 8  # entries of a constant array that may be a shape: Keras takes its product


def multiplies(eqn: Any) -> bool:
    """Whether an operation may multiply matrices, in programs that it runs or by itself."""
    p = eqn.params
    if eqn.primitive.name == "custom_linear_solve":  # its other programs are for derivatives
        p = {"solve": p["jaxprs"].solve}
    inner = list(core.jaxprs_in_params(p))
    if not inner and eqn.primitive.name not in OPERATIONS:  # nobody knows what it does: a kernel of another language
        return True
    return any(e.primitive.name in _PRODUCTS or multiplies(e) for jaxpr in inner for e in jaxpr.eqns)


_PRODUCTS = ("dot_general", "conv_general_dilated", "ragged_dot_general", "ragged_dot")


def constants_of(inner: Any) -> Sequence[Any]:
    """The arrays that a nested program is closed over; since JAX 0.12 an open one has them too."""
    return getattr(inner, "consts", ())


def called(eqn: Any) -> Any:
    """The program that a call-like operation (jit, remat, custom_jvp, ...) runs on its own operands, if it is one."""

    def shapes(variables: Any) -> list[Any]:
        return [getattr(var.aval, "shape", None) for var in variables]

    for key in ("jaxpr", "call_jaxpr", "fun_jaxpr", "call"):
        inner = eqn.params.get(key)
        jaxpr = inner.jaxpr if isinstance(inner, core.ClosedJaxpr) else inner
        # a reduction's body has scalars, a shard's program has pieces of the operands
        if isinstance(jaxpr, core.Jaxpr) and shapes(jaxpr.invars) == shapes(eqn.invars):
            known = len(constants_of(inner)) == len(jaxpr.constvars)
            return inner if shapes(jaxpr.outvars) == shapes(eqn.outvars) and known else None
    return None
