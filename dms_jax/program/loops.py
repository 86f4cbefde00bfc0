"""Loops, choices and shards: what running other programs says of axes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend import core

from dms_jax.program.axes import Axis
from dms_jax.program.frames import Alternatives, Frame, Node, ProductTerm, Program, Scan, Step, Value
from dms_jax.program.operations import AxesOf, fresh


class Loops:
    """The part of a `Tracer` that reads operations with programs of their own."""

    program: Program
    repeats: AxesOf | None
    node: Node
    callers: tuple[Any, ...]
    shards: tuple[Any, ...]
    tie: Callable[[Axis, Axis], None]
    freeze: Callable[..., None]
    alias: Callable[[Value, Value, Any], None]
    call: Callable[[Any, Any, Sequence[Value]], Frame]

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
        if carry:  # rows that nothing is carried over are a batch
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
        """All branches tie; the cost is that of the most expensive branch, which sizes decide."""
        frames, dearest, before, work = [], [], self.program.products, self.program.work
        alternatives = Alternatives([])
        for branch in eqn.params["branches"]:
            self.program.products, self.program.work = [], []
            frames.append(self.call(eqn, branch, ins[1:]))
            dearest = max(dearest, self.program.products, key=_full_cost)
            alternatives.branches.append(self.program.work)
        self.program.products = before + dearest
        self.program.work = [*work, alternatives] if any(alternatives.branches) else work
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

    def linear_solve(self, eqn: Any, ins: list[Value]) -> Step:
        """What solves runs; what it undoes, and both transposed, are for derivatives and cost nothing here."""
        jaxprs, consts, b = solve_parts(eqn.params, ins)
        frames, products, work = [], self.program.products, self.program.work
        frames.append(self.call(eqn, jaxprs["solve"], [*consts["solve"], *b]))
        outs = [Value(value.axes) for value in frames[0].outs]
        for value, out in zip(frames[0].outs, outs, strict=True):
            self.alias(value, out, eqn)
        self.program.products, self.program.work, uncounted = [], [], list(self.program.uncounted)
        for name in ("matvec", "transpose_solve"):
            if jaxprs[name] is not None:
                frames.append(self.call(eqn, jaxprs[name], [*consts[name], *outs]))
        self.program.products, self.program.work, self.program.uncounted = products, work, uncounted
        self.node = Node("custom_linear_solve", [], [], eqn, self.callers)
        for frame in frames:
            for value, given in zip(frame.outs, b, strict=True):
                for a, c in zip(value.axes, given.axes, strict=True):
                    self.tie(a, c)
        return Step(eqn, ins, outs, None, frames)

    def linear_call(self, eqn: Any, ins: list[Value]) -> Step:
        """What is called runs; its transpose, which is the user's, is for derivatives and costs nothing here."""
        p = eqn.params
        frame = self.call(eqn, p["callee"], ins)
        transposed, held = within(self.shards, p["transpose_thunk"])
        products, work, uncounted = list(self.program.products), list(self.program.work), list(self.program.uncounted)
        first = p["num_callee_consts"]
        given = [*ins[first : first + p["num_res"]], *(Value(value.axes) for value in frame.outs)]
        back = self.call(eqn, _holding(transposed.jaxpr, held), given)
        self.program.products, self.program.work, self.program.uncounted = products, work, uncounted
        self.node = Node("linear_call", [], [], eqn, self.callers)
        for value, operand in zip(back.outs, ins[first + p["num_res"] :], strict=True):
            for a, b in zip(value.axes, operand.axes, strict=True):
                self.tie(a, b)
        return Step(eqn, ins, frame.outs, None, [frame, back])

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
        shards, self.shards = self.shards, (*self.shards, eqn)
        frame = self.call(eqn, p["jaxpr"], inside)
        self.shards = shards
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


def sharded(eqn: Any, body: Callable[..., Any], **changed: Any) -> Callable[..., Any]:
    """`jax.shard_map` of another body, on the mesh and with the settings of an equation, but for those that change."""
    p = eqn.params
    manual = p.get("newly_manual_axes", p.get("manual_axes", p["mesh"].axis_names))
    given = {"in_specs": tuple(p["in_specs"]), "out_specs": tuple(p["out_specs"]), **changed}
    return jax.shard_map(body, mesh=p["mesh"], check_vma=p.get("check_vma", True), axis_names=set(manual), **given)


def within(shards: Sequence[Any], make: Callable[[], Any]) -> Any:
    """What `make` gives inside of `shard_map`s: what it traces knows their mesh, and what differs over its devices."""
    if not shards:
        return make()
    found: list[Any] = []

    def body() -> tuple[()]:
        found.append(within(shards[1:], make))
        return ()

    jax.eval_shape(sharded(shards[0], body, in_specs=(), out_specs=()))
    return found[0]


def _holding(jaxpr: Any, arrays: Sequence[Any]) -> Any:
    """A jaxpr whose first inputs are arrays that it holds."""
    n = len(arrays)
    return core.ClosedJaxpr(jaxpr.replace(constvars=jaxpr.invars[:n], invars=jaxpr.invars[n:]), list(arrays))


def solve_parts(params: dict[str, Any], ins: Sequence[Any]) -> tuple[dict[str, Any], dict[str, Any], list[Any]]:
    """Of a `custom_linear_solve`: its programs by name, what each holds, and the right-hand side."""
    lengths, consts, start = params["const_lengths"], {}, 0
    for name in lengths._fields:
        consts[name], start = list(ins[start : start + getattr(lengths, name)]), start + getattr(lengths, name)
    return params["jaxprs"]._asdict(), consts, list(ins[start:])


def scan_counts(params: dict[str, Any]) -> tuple[int, int]:
    """How many of a scan's operands are constants, and how many are carried."""
    if "num_consts" in params:
        return params["num_consts"], params["num_carry"]
    consts, carry, _ = params["ft_in"].unpack()  # since JAX 0.12
    return len(consts), len(carry)


def _full_cost(terms: list[ProductTerm]) -> int:
    return sum(int(np.prod([axis.size for axis in term.axes], dtype=object)) for term in terms)


def _names(entry: Any) -> tuple[str, ...]:
    """The mesh axes that one entry of a PartitionSpec names."""
    return (entry,) if isinstance(entry, str) else tuple(entry)
