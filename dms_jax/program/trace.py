"""A jaxpr, read: frames of steps as they are nested, and the same laid flat as nodes over values with axes.

`Tracer.run` walks a jaxpr once. Every array becomes a `Value` with an axis term a dimension; every operation a `Step`
of its `Frame` (which `evaluate.py` runs again at other sizes) and, if it is no call, a `Node` (which the passes over
the whole program look at: `exactness.py`, `branches.py`, `costs.py`).
"""

from __future__ import annotations

import operator
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jax.extend import core

from dms_jax.program.axes import Axis, Ties
from dms_jax.program.operations import OPERATIONS, AxesOf, Operation, fresh, unknown

_NOT_THE_USERS = ("jax", "jaxlib", "flax", "equinox", "keras", "haiku", "optax")
_HERE = os.path.dirname(os.path.dirname(__file__)) + os.sep
_OURS = (_HERE + "models" + os.sep,)  # networks of the zoo are a user's, as far as messages go


@dataclass(eq=False, slots=True)
class Value:
    """One array of the program. `constant` is its value where all of it is one known number."""

    axes: AxesOf
    constant: float | None = None


@dataclass(eq=False, slots=True)
class Node:
    """One operation. `name` is the primitive's, or "alias" where a value enters or leaves a nested program."""

    name: str
    inputs: list[Value]
    outputs: list[Value]
    eqn: Any = None
    callers: tuple[Any, ...] = ()  # the calls it is nested in, outermost first

    @property
    def in_loop(self) -> bool:
        return any(eqn.primitive.name in ("scan", "while") for eqn in self.callers)

    @property
    def operation(self) -> Operation | None:
        return OPERATIONS.get(self.name)


@dataclass(eq=False, slots=True)
class Step:
    """One equation of a frame: its values, the node it is (None: a call), and the frames of the programs it runs."""

    eqn: Any
    ins: list[Value]
    outs: list[Value]
    node: Node | None
    frames: list[Frame]
    derivative: Any = None


@dataclass(eq=False, slots=True)
class Frame:
    """One run of one jaxpr."""

    jaxpr: Any
    const_arrays: Sequence[Any]
    consts: list[Value]
    args: list[Value]
    steps: list[Step] = field(default_factory=list)
    outs: list[Value] = field(default_factory=list)


@dataclass(eq=False, slots=True)
class ProductTerm:
    """One matrix product: multiply-adds = the product of the axes' sizes."""

    axes: AxesOf
    node: Node


@dataclass(eq=False, slots=True)
class Scan:
    """A loop over rows: which axis the rows are, and what is carried."""

    step: Step
    rows: Axis
    carried_in: list[Value]
    carried_out: list[Value]
    stacked: list[Value]


@dataclass(eq=False)
class Program:
    """A traced function.

    Attributes:
      inputs, outputs: its values, in order.
      nodes: all operations, laid flat, in the order in which they run.
      products: all matrix products.
      uncounted: products whose number is not known, as text.
      marks: (node, value) of every `dms_jax.name`.
      scans: all loops over rows.
      ties: of its axes; programs of the same parameters share it.
      frame: the outermost frame.
    """

    inputs: list[Value]
    ties: Ties
    outputs: list[Value] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    products: list[ProductTerm] = field(default_factory=list)
    uncounted: list[str] = field(default_factory=list)
    scans: list[Scan] = field(default_factory=list)
    frame: Frame = field(init=False)

    @property
    def marks(self) -> list[Node]:
        return [node for node in self.nodes if node.name == "dms_name"]


def trace(closed: Any, inputs: Sequence[Value], ties: Ties) -> Program:
    """Trace a `ClosedJaxpr` on values for its inputs, some of which may be those of other programs."""
    program = Program(list(inputs), ties)
    tracer = Tracer(program)
    program.frame = tracer.run(closed.jaxpr, closed.consts, inputs)
    program.outputs = program.frame.outs
    return program


def describe(why: Any) -> str:
    """What tied or froze an axis, for people: `dot_general at models/resnet.py:41 (Bottleneck.__call__)`."""
    if isinstance(why, str):
        return why
    name = why.eqn.primitive.name
    for eqn in (why.eqn, *reversed(why.callers)):  # what JAX itself jits (sort, fft, ...) knows no line of the model
        traceback = eqn.source_info.traceback
        for frame in traceback.frames if traceback is not None else ():
            file = frame.file_name
            if file.startswith(_OURS) or not file.startswith((_HERE, *_libraries(), "<")):
                short = os.path.join(*file.split(os.sep)[-2:])
                return f"{name} at {short}:{frame.line_num} ({frame.function_name})"
    return str(name)


def _libraries() -> tuple[str, ...]:
    """Folders of the frameworks that are loaded: no line of theirs is the user's."""
    files = [getattr(sys.modules.get(name), "__file__", None) for name in _NOT_THE_USERS]
    return tuple(os.path.dirname(file) + os.sep for file in files if file)


class Tracer:
    """Runs the entries of `operations` over a jaxpr; what their rules see as `t`."""

    def __init__(self, program: Program):
        self.program = program
        self.repeats: AxesOf | None = ()  # the loops around the current operation; None in a `while` loop
        self.node: Node = Node("start", [], [])
        self.callers: tuple[Any, ...] = ()

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
            self.cost_unknown()
        else:
            self.program.products.append(ProductTerm((*self.repeats, *axes), self.node))

    def cost_unknown(self) -> None:
        """The multiply-adds of the current operation cannot be counted."""
        self.program.uncounted.append(describe(self.node))

    # --- walking ---

    def constant(self, value: Any) -> Value:
        """An array made in Python; running smaller slices it, so it may have any axes."""
        axes = fresh(np.shape(value))
        if not axes and isinstance(value, int | float | np.number | np.ndarray) and np.isrealobj(value):
            return Value(axes, float(value))
        return Value(axes)

    def run(self, jaxpr: Any, const_arrays: Sequence[Any], args: Sequence[Value]) -> Frame:
        consts = [self.constant(value) for value in const_arrays]
        frame = Frame(jaxpr, const_arrays, consts, list(args))
        env: dict[Any, Value] = dict(zip(jaxpr.constvars, consts, strict=True))
        env.update(zip(jaxpr.invars, args, strict=True))

        def read(atom: Any) -> Value:
            return self.constant(atom.val) if isinstance(atom, core.Literal) else env[atom]

        for eqn in jaxpr.eqns:
            step = self.apply(eqn, [read(atom) for atom in eqn.invars])
            frame.steps.append(step)
            env.update(zip(eqn.outvars, step.outs, strict=True))
        frame.outs = [read(atom) for atom in jaxpr.outvars]
        return frame

    def apply(self, eqn: Any, ins: list[Value]) -> Step:
        name = eqn.primitive.name
        if name not in OPERATIONS:
            special = {"scan": self.scan, "while": self.while_, "cond": self.cond, "shard_map": self.shard_map}
            if name in special:
                return special[name](eqn, ins)
            inner = called(eqn)
            if inner is not None:
                frame = self.call(eqn, inner, ins)
                return Step(eqn, ins, frame.outs, None, [frame])
        self.node = node = Node(name, ins, [], eqn, self.callers)
        rule = OPERATIONS[name].axes if name in OPERATIONS else unknown
        axes = rule(self, eqn, [value.axes for value in ins])
        node.outputs = [Value(a) for a in axes]
        if name in _UNIFORM and ins[0].constant is not None:
            node.outputs[0].constant = ins[0].constant
        if name in _ARITHMETIC and not axes[0] and all(value.constant is not None for value in ins):
            node.outputs[0].constant = _ARITHMETIC[name](*(value.constant for value in ins))
        self.program.nodes.append(node)
        return Step(eqn, ins, node.outputs, node, [])

    def alias(self, source: Value, target: Value, eqn: Any) -> None:
        """`target` is `source`, seen from inside or outside a nested program."""
        self.program.nodes.append(Node("alias", [source], [target], eqn, self.callers))

    def call(self, eqn: Any, inner: Any, args: Sequence[Value]) -> Frame:
        jaxpr, consts = inner.jaxpr if isinstance(inner, core.ClosedJaxpr) else inner, constants_of(inner)
        callers, self.callers = self.callers, (*self.callers, eqn)
        frame = self.run(jaxpr, consts, args)
        self.callers = callers
        return frame

    def _loop(self, eqn: Any, body: Any, shared: Sequence[Value], carry: Sequence[Value], rows: Sequence[Value]):
        """Run a loop body once, tying what it carries in to what it carries out; (inside, carried, frame)."""
        inside = [Value(value.axes) for value in carry]
        for outer, inner in zip(carry, inside, strict=True):
            self.alias(outer, inner, eqn)
        frame = self.call(eqn, body, [*shared, *inside, *rows])
        carried = []
        self.node = Node("loop", [], [], eqn, self.callers)
        for inner, out in zip(inside, frame.outs[: len(carry)], strict=True):
            for a, b in zip(inner.axes, out.axes, strict=True):
                self.tie(a, b)
            self.alias(out, inner, eqn)
            carried.append(Value(out.axes))
            self.alias(out, carried[-1], eqn)
        return inside, carried, frame

    def scan(self, eqn: Any, ins: list[Value]) -> Step:
        p, repeats = eqn.params, self.repeats
        n, carry = scan_counts(p)
        m = n + carry
        self.node = Node("scan", [], [], eqn, self.callers)
        (axis,) = fresh((p["length"],))
        rows = []
        for value in ins[m:]:
            self.tie(axis, value.axes[0])
            rows.append(Value(value.axes[1:]))
            self.program.nodes.append(Node("scan_row", [value], [rows[-1]], eqn, self.callers))
        self.repeats = None if repeats is None else (*repeats, axis)
        inside, carried, frame = self._loop(eqn, p["jaxpr"], ins[:n], ins[n:m], rows)
        self.repeats = repeats
        stacked = []
        for value in frame.outs[carry:]:
            stacked.append(Value((axis, *value.axes)))
            self.program.nodes.append(Node("scan_stack", [value], [stacked[-1]], eqn, self.callers))
        step = Step(eqn, ins, [*carried, *stacked], None, [frame])
        self.program.scans.append(Scan(step, axis, inside, frame.outs[:carry], stacked))
        return step

    def while_(self, eqn: Any, ins: list[Value]) -> Step:
        p, repeats = eqn.params, self.repeats
        n, m = p["cond_nconsts"], p["cond_nconsts"] + p["body_nconsts"]
        self.repeats = None
        _, carried, body = self._loop(eqn, p["body_jaxpr"], ins[n:m], ins[m:], ())
        stop = self.call(eqn, p["cond_jaxpr"], [*ins[:n], *(Value(value.axes) for value in carried)])
        for value, inner in zip(carried, stop.args[n:], strict=True):
            self.alias(value, inner, eqn)
        self.repeats = repeats
        outs = [Value(value.axes) for value in carried]
        for value, out in zip(carried, outs, strict=True):  # the condition decides what comes out
            self.program.nodes.append(Node("while_cond", [value, *stop.outs], [out], eqn, self.callers))
        return Step(eqn, ins, outs, None, [stop, body])

    def cond(self, eqn: Any, ins: list[Value]) -> Step:
        """All branches tie; the cost is that of the most expensive branch at full size."""
        frames, dearest, before = [], [], self.program.products
        for branch in eqn.params["branches"]:
            self.program.products = []
            frames.append(self.call(eqn, branch, ins[1:]))
            dearest = max(dearest, self.program.products, key=_full_cost)
        self.program.products = before + dearest
        self.node = Node("cond", [], [], eqn, self.callers)
        outs = [Value(value.axes) for value in frames[0].outs]
        for frame in frames:
            for value, out in zip(frame.outs, outs, strict=True):
                for a, b in zip(value.axes, out.axes, strict=True):
                    self.tie(a, b)
                self.alias(value, out, eqn)
        for out in outs:
            self.program.nodes.append(Node("cond", [ins[0]], [out], eqn, self.callers))
        return Step(eqn, ins, outs, None, frames)

    def shard_map(self, eqn: Any, ins: list[Value]) -> Step:
        """Dimensions that are cut over devices are frozen; inside, the others are what they are outside."""
        p = eqn.params
        self.node = Node("shard_map", [], [], eqn, self.callers)
        inside = [
            self._shard(value, spec, var)
            for value, spec, var in zip(ins, p["in_specs"], p["jaxpr"].invars, strict=True)
        ]
        for outer, inner in zip(ins, inside, strict=True):
            self.alias(outer, inner, eqn)
        cut = {name for spec in p["in_specs"] for entry in spec if entry for name in _names(entry)}
        repeats = self.repeats
        if repeats is not None:  # every device does its part
            self.repeats = (*repeats, *fresh((int(np.prod([p["mesh"].shape[name] for name in cut])),)))
        frame = self.call(eqn, p["jaxpr"], inside)
        self.repeats, outs = repeats, []
        for value, spec, var in zip(frame.outs, p["out_specs"], eqn.outvars, strict=True):
            outs.append(self._shard(value, spec, var))
            self.alias(value, outs[-1], eqn)
        return Step(eqn, ins, outs, None, [frame])

    def _shard(self, value: Value, spec: Any, var: Any) -> Value:
        axes = []
        for axis, entry, size in zip(value.axes, [*spec, *[None] * len(value.axes)], var.aval.shape, strict=False):
            if not entry:
                axes.append(axis)
            else:
                (other,) = fresh((size,))
                self.freeze(axis, other)
                axes.append(other)
        return Value(tuple(axes))


def _names(entry: Any) -> tuple[str, ...]:
    """The mesh axes that one entry of a PartitionSpec names."""
    return (entry,) if isinstance(entry, str) else tuple(entry)


_UNIFORM = frozenset("broadcast_in_dim reshape convert_element_type squeeze transpose copy".split())

_ARITHMETIC = {"add": operator.add, "sub": operator.sub, "mul": operator.mul}
"""Numbers that are computed from numbers: a variance divides by N - 0."""


def scan_counts(params: dict[str, Any]) -> tuple[int, int]:
    """How many of a scan's operands are constants, and how many are carried."""
    if "num_consts" in params:
        return params["num_consts"], params["num_carry"]
    consts, carry, _ = params["ft_in"].unpack()  # since JAX 0.12
    return len(consts), len(carry)


def _full_cost(terms: list[ProductTerm]) -> int:
    return sum(int(np.prod([axis.size for axis in term.axes], dtype=object)) for term in terms)


def constants_of(inner: Any) -> Sequence[Any]:
    """The arrays that a nested program is closed over; since JAX 0.12 an open one has them too."""
    return getattr(inner, "consts", ())


def called(eqn: Any) -> Any:
    """The program that a call-like operation (jit, remat, custom_jvp, ...) runs on its own operands, if it is one."""

    def shapes(variables: Any) -> list[Any]:
        return [getattr(var.aval, "shape", None) for var in variables]

    for key in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        inner = eqn.params.get(key)
        jaxpr = inner.jaxpr if isinstance(inner, core.ClosedJaxpr) else inner
        # a reduction's body has scalars, a shard's program has pieces of the operands
        if isinstance(jaxpr, core.Jaxpr) and shapes(jaxpr.invars) == shapes(eqn.invars):
            known = len(constants_of(inner)) == len(jaxpr.constvars)
            return inner if shapes(jaxpr.outvars) == shapes(eqn.outvars) and known else None
    return None
