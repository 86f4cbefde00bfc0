"""From a traced program to ties between its axes, its matrix products, and what each depth gate controls.

`trace` walks the jaxpr of a forward pass once. Nested programs are laid out flat: what comes out is a list of nodes
(one an operation) over values (one an array), on which the later passes (`control`, `folding.py`) run.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import flax
import jax
import numpy as np
from jax.extend import core

from dms_jax.axes import Axis, Ties
from dms_jax.errors import TracingError
from dms_jax.rules import RULES, AxesOf, fresh, no_rule

Gate: TypeAlias = tuple[str, int]  # (depth group, element)

_HERE = os.path.dirname(__file__) + os.sep
_NOT_THE_MODEL = (
    *(os.path.dirname(str(module.__file__)) + os.sep for module in (jax, flax)),
    *(_HERE + name for name in ("elements.py", "layers.py", "space.py")),
)


@dataclass(eq=False, slots=True)
class Value:
    """One array of the program."""

    axes: AxesOf
    constant: Any = None  # a scalar literal's value


@dataclass(eq=False, slots=True)
class Node:
    """One operation. `name` is the primitive's, or "alias" where a value enters or leaves a nested program."""

    name: str
    inputs: list[Value]
    outputs: list[Value]
    eqn: Any = None
    callers: tuple[Any, ...] = ()  # the calls it is nested in, outermost first


@dataclass(eq=False, slots=True)
class ProductTerm:
    """One matrix product: multiply-adds = times x the product of the axes' sizes."""

    axes: AxesOf
    times: int
    node: Node


@dataclass(eq=False)
class Program:
    """A traced forward pass, laid flat."""

    inputs: list[Value]
    outputs: list[Value]
    nodes: list[Node] = field(default_factory=list)
    products: list[ProductTerm] = field(default_factory=list)
    ties: Ties = field(default_factory=Ties)


def trace(closed: Any, data: int = 0) -> Program:
    """Trace a `ClosedJaxpr`; its inputs are `Program.inputs`, in order.

    The last `data` inputs and all outputs are what the network takes and gives: they keep their shapes.
    """
    inputs = [Value(fresh(var.aval.shape)) for var in closed.jaxpr.invars]
    program = Program(inputs, [])
    tracer = Tracer(program)
    consts = [tracer.constant(value) for value in closed.consts]
    program.outputs = tracer.run(closed.jaxpr, consts, inputs)
    _freeze_means(program)
    for values, what in ((inputs[len(inputs) - data :], "an input"), (program.outputs, "an output")):
        for axis in (axis for value in values for axis in value.axes):
            program.ties.freeze(axis, f"its being an axis of {what} of the network")
    return program


def describe(why: Any) -> str:
    """What tied or froze an axis, for people: `dot_general at models/resnet.py:41 (Bottleneck.__call__)`."""
    if isinstance(why, str):
        return why
    name = why.eqn.primitive.name
    for eqn in (why.eqn, *reversed(why.callers)):  # what JAX itself jits (sort, fft, ...) knows no line of the model
        traceback = eqn.source_info.traceback
        for frame in traceback.frames if traceback is not None else ():
            if not frame.file_name.startswith(_NOT_THE_MODEL):
                short = os.path.join(*frame.file_name.split(os.sep)[-2:])
                return f"{name} at {short}:{frame.line_num} ({frame.function_name})"
    return str(name)


class Tracer:
    """Runs rules over a jaxpr; what the rules of `rules.py` see as `t`."""

    def __init__(self, program: Program):
        self.program = program
        self.times: int | None = 1  # how often the current operation runs; None in a `while` loop
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
        if self.times is None:
            raise TracingError(
                f"{describe(self.node)} is a matrix product inside a `while` loop: how often it runs is unknown, "
                "so its cost is too; use `jax.lax.scan`, or `fori_loop` with fixed bounds"
            )
        self.program.products.append(ProductTerm(axes, self.times, self.node))

    # --- walking ---

    def constant(self, value: Any) -> Value:
        """An array made in Python: an axis along which it varies belongs to it, and nothing may go from there."""
        axes = fresh(np.shape(value))
        if not axes:
            return Value(axes, value)
        for i, axis in enumerate(axes):
            if np.size(value) > 1_000_000 or not _uniform(np.asarray(value), i):
                self.program.ties.freeze(axis, f"a constant array of shape {np.shape(value)} made in Python")
        return Value(axes)

    def run(self, jaxpr: Any, consts: Sequence[Value], args: Sequence[Value]) -> list[Value]:
        env: dict[Any, Value] = dict(zip(jaxpr.constvars, consts, strict=True))
        env.update(zip(jaxpr.invars, args, strict=True))

        def read(atom: Any) -> Value:
            return self.constant(atom.val) if isinstance(atom, core.Literal) else env[atom]

        for eqn in jaxpr.eqns:
            outs = self.apply(eqn, [read(atom) for atom in eqn.invars])
            env.update(zip(eqn.outvars, outs, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def apply(self, eqn: Any, ins: list[Value]) -> list[Value]:
        name = eqn.primitive.name
        if name == "scan":
            return self.scan(eqn, ins)
        if name == "while":
            return self.while_(eqn, ins)
        if name == "cond":
            return self.cond(eqn, ins)
        inner = _called(eqn) if name not in RULES else None
        if inner is not None:
            return self.call(eqn, inner, ins)
        self.node = node = Node(name, ins, [], eqn, self.callers)
        axes = RULES.get(name, no_rule)(self, eqn, [value.axes for value in ins])
        node.outputs = [Value(a) for a in axes]
        self.program.nodes.append(node)
        return node.outputs

    def alias(self, source: Value, target: Value, eqn: Any) -> None:
        """`target` is `source`, seen from inside or outside a nested program."""
        self.program.nodes.append(Node("alias", [source], [target], eqn))

    def call(self, eqn: Any, inner: Any, args: Sequence[Value]) -> list[Value]:
        jaxpr, consts = inner.jaxpr if isinstance(inner, core.ClosedJaxpr) else inner, _constants_of(inner)
        callers, self.callers = self.callers, (*self.callers, eqn)
        outs = self.run(jaxpr, [self.constant(value) for value in consts], args)
        self.callers = callers
        return outs

    def _loop(self, eqn: Any, body: Any, shared: Sequence[Value], carry: Sequence[Value], rows: Sequence[Value]):
        """Run a loop body once, tying what it carries in to what it carries out; returns (carried, others)."""
        inside = [Value(value.axes) for value in carry]
        for outer, inner in zip(carry, inside, strict=True):
            self.alias(outer, inner, eqn)
        outs = self.call(eqn, body, [*shared, *inside, *rows])
        carried = []
        self.node = Node("loop", [], [], eqn, self.callers)
        for inner, out in zip(inside, outs[: len(carry)], strict=True):
            for a, b in zip(inner.axes, out.axes, strict=True):
                self.tie(a, b)
            self.alias(out, inner, eqn)
            carried.append(Value(out.axes))
            self.alias(out, carried[-1], eqn)
        return carried, outs[len(carry) :]

    def scan(self, eqn: Any, ins: list[Value]) -> list[Value]:
        p, times = eqn.params, self.times
        n, carry = _scan_counts(p)
        m = n + carry
        self.node = Node("scan", [], [], eqn, self.callers)
        rows = []
        for value in ins[m:]:
            self.freeze(value.axes[0])
            rows.append(Value(value.axes[1:]))
            self.program.nodes.append(Node("scan_row", [value], [rows[-1]], eqn))
        self.times = None if times is None else times * p["length"]
        carried, others = self._loop(eqn, p["jaxpr"], ins[:n], ins[n:m], rows)
        self.times = times
        stacked = []
        for value in others:
            (axis,) = fresh((p["length"],))
            self.freeze(axis)
            stacked.append(Value((axis, *value.axes)))
            self.alias(value, stacked[-1], eqn)
        return [*carried, *stacked]

    def while_(self, eqn: Any, ins: list[Value]) -> list[Value]:
        p, times = eqn.params, self.times
        n, m = p["cond_nconsts"], p["cond_nconsts"] + p["body_nconsts"]
        self.times = None
        stop = self.call(eqn, p["cond_jaxpr"], [*ins[:n], *ins[m:]])
        carried, _ = self._loop(eqn, p["body_jaxpr"], ins[n:m], ins[m:], ())
        self.times = times
        for value in carried:  # the condition decides what comes out
            self.program.nodes.append(Node("while_cond", stop, [value], eqn))
        return carried

    def cond(self, eqn: Any, ins: list[Value]) -> list[Value]:
        """All branches tie; the cost is that of the dearest branch at full size."""
        results, dearest = [], []
        before = self.program.products
        for branch in eqn.params["branches"]:
            self.program.products = []
            results.append(self.call(eqn, branch, ins[1:]))
            dearest = max(dearest, self.program.products, key=_full_cost)
        self.program.products = before + dearest
        self.node = Node("cond", [], [], eqn, self.callers)
        outs = [Value(value.axes) for value in results[0]]
        for branch in results:
            for value, out in zip(branch, outs, strict=True):
                for a, b in zip(value.axes, out.axes, strict=True):
                    self.tie(a, b)
                self.alias(value, out, eqn)
        self.program.nodes.append(Node("cond", [ins[0]], outs, eqn))
        return outs


def _scan_counts(params: dict[str, Any]) -> tuple[int, int]:
    """How many of a scan's operands are constants, and how many are carried."""
    if "num_consts" in params:
        return params["num_consts"], params["num_carry"]
    consts, carry, _ = params["ft_in"].unpack()  # since JAX 0.12
    return len(consts), len(carry)


def _full_cost(terms: list[ProductTerm]) -> int:
    return sum(term.times * int(np.prod([a.size for a in term.axes], dtype=object)) for term in terms)


def _uniform(value: np.ndarray, axis: int) -> bool:
    first = value.take([0], axis)
    return bool(np.all((value == first) | ((value != value) & (first != first))))


def _constants_of(inner: Any) -> Sequence[Any]:
    """The arrays that a nested program is closed over; since JAX 0.12 an open one has them too."""
    return getattr(inner, "consts", ())


def _called(eqn: Any) -> Any:
    """The program that a call-like operation (jit, remat, custom_jvp, ...) runs on its own operands, if it is one."""

    def shapes(variables: Any) -> list[Any]:
        return [getattr(var.aval, "shape", None) for var in variables]

    for key in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        inner = eqn.params.get(key)
        jaxpr = inner.jaxpr if isinstance(inner, core.ClosedJaxpr) else inner
        # a reduction's body has scalars, a shard's program has pieces of the operands
        if isinstance(jaxpr, core.Jaxpr) and shapes(jaxpr.invars) == shapes(eqn.invars):
            known = len(_constants_of(inner)) == len(jaxpr.constvars)
            return inner if shapes(jaxpr.outvars) == shapes(eqn.outvars) and known else None
    return None


def _freeze_means(program: Program) -> None:
    """A sum divided by the size of what was summed is a mean: in a smaller network it would divide by less.

    Masked elements are zeros but still counted, so masked and shrunk networks would differ: nothing may go from there.
    """
    summed: dict[Value, AxesOf] = {}
    for node in program.nodes:
        if node.name == "reduce_sum":
            summed[node.outputs[0]] = tuple(node.inputs[0].axes[i] for i in node.eqn.params["axes"])
        elif node.name in ("broadcast_in_dim", "reshape", "squeeze", "convert_element_type", "alias"):
            if node.inputs[0] in summed:
                summed[node.outputs[0]] = summed[node.inputs[0]]
        elif node.name in ("div", "mul"):
            total, other = node.inputs if node.inputs[0] in summed or node.name == "div" else node.inputs[::-1]
            if total not in summed or other.constant is None:
                continue
            axes, by = summed[total], float(other.constant)
            size = float(np.prod([axis.size for axis in axes]))
            if size > 1 and np.isclose(by if node.name == "div" else 1 / by if by else 0.0, size):
                for axis in axes:
                    program.ties.freeze(axis, f"{describe(node)}, a mean over its full size (see dms_jax.layers)")


# --- depth gates ---------------------------------------------------------------------------------------------------


_SAME = ("convert_element_type", "broadcast_in_dim", "reshape", "copy", "alias")  # the same number, elsewhere


@dataclass(frozen=True)
class Control:
    """Which gates every path from a value to the outputs goes through. Values that reach no output are absent."""

    gates: dict[Value, frozenset[Gate]]
    used: frozenset[Gate]


def gate_values(program: Program, masks: dict[Value, str]) -> dict[Value, Gate]:
    """The scalars that are one element of a mask: sliced out, squeezed, perhaps converted or broadcast."""
    ranges: dict[Value, tuple[str, int, int]] = {v: (name, 0, v.axes[0].size) for v, name in masks.items()}
    gates: dict[Value, Gate] = {}
    for node in program.nodes:
        source = node.inputs[0] if node.inputs else None
        if source in gates and node.name in _SAME:
            gates[node.outputs[0]] = gates[source]
        elif source in ranges and node.name in (*_SAME, "slice", "squeeze"):
            name, start, stop = ranges[source]
            if node.name == "slice":
                stop = start + node.eqn.params["limit_indices"][0]
                start = start + node.eqn.params["start_indices"][0]
            out = node.outputs[0]
            if not out.axes and stop - start == 1:
                gates[out] = (name, start)
            elif len(out.axes) == 1:
                ranges[out] = (name, start, stop)
    return gates


def control(program: Program, masks: dict[Value, str]) -> Control:
    """Find what each gate controls: post-dominance, by a reverse pass repeated until loops have settled.

    A value is controlled by a gate if every path from it to an output is multiplied by that gate on its way.
    """
    marks = gate_values(program, masks)

    def gate_of(node: Node, number: int) -> Gate | None:
        return marks.get(node.inputs[number]) if node.name == "mul" else None

    through: dict[Value, frozenset[Gate]] = {value: frozenset() for value in program.outputs}
    settled = False
    while not settled:
        settled = True
        for node in reversed(program.nodes):
            after = [through[out] for out in node.outputs if out in through]
            if not after:
                continue
            common = frozenset.intersection(*after)
            for i, value in enumerate(node.inputs):
                other = gate_of(node, 1 - i)
                found = common | {other} if other is not None and gate_of(node, i) is None else common
                known = through.get(value)
                now = found if known is None else known & found
                if now != known:
                    through[value] = now
                    settled = False
    multiplied = {gate_of(node, i) for node in program.nodes if node.outputs[0] in through for i in (0, 1)}
    return Control(through, frozenset(gate for gate in multiplied if gate is not None))
