"""A program cut into pieces that can be run alone: every product with the operations that follow it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core

from dms_jax.program.evaluate import bind_equation
from dms_jax.program.trace import called, constants_of

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


@dataclass(frozen=True, eq=False)
class Operation:
    """One equation, its values told apart by number; literals stand for themselves."""

    eqn: Any
    ins: tuple[Any, ...]
    outs: tuple[int, ...]


@dataclass(eq=False)
class Flat:
    """A program without calls; loops and choices stay one operation each.

    Attributes:
      shapes: of every value.
      operations: in the order in which they run; those that no output needs are left out.
      inputs, outputs: values.
      constants: values that the program is closed over -> arrays.
      fixed: values that depend on no input.
    """

    shapes: dict[int, jax.ShapeDtypeStruct] = field(default_factory=dict)
    operations: list[Operation] = field(default_factory=list)
    inputs: list[int] = field(default_factory=list)
    outputs: list[Any] = field(default_factory=list)
    constants: dict[int, Any] = field(default_factory=dict)
    fixed: set[int] = field(default_factory=set)

    def new(self, aval: Any) -> int:
        """A value that is not there yet."""
        self.shapes[len(self.shapes)] = jax.ShapeDtypeStruct(aval.shape, aval.dtype)
        return len(self.shapes) - 1


def flattened(fn: Callable[..., Any], *arguments: Any) -> Flat:
    """A function laid flat, for the shapes of its arguments."""
    closed = jax.make_jaxpr(fn)(*arguments)
    flat = Flat()
    flat.inputs = [flat.new(var.aval) for var in closed.jaxpr.invars]
    flat.outputs = _laid(flat, closed.jaxpr, closed.consts, flat.inputs)
    needed = {x for x in flat.outputs if isinstance(x, int)}
    live = []
    for operation in reversed(flat.operations):
        if needed.intersection(operation.outs) or operation.eqn.effects:
            live.append(operation)
            needed |= {x for x in operation.ins if isinstance(x, int)}
    flat.operations = live[::-1]
    flat.fixed = set(flat.constants)
    for operation in flat.operations:
        if all(x in flat.fixed for x in operation.ins if isinstance(x, int)):
            flat.fixed.update(operation.outs)
    return flat


def _laid(flat: Flat, jaxpr: Any, consts: Sequence[Any], given: Sequence[Any]) -> list[Any]:
    env: dict[Any, Any] = dict(zip(jaxpr.invars, given, strict=True))
    for var, array in zip(jaxpr.constvars, consts, strict=True):
        env[var] = flat.new(var.aval)
        flat.constants[env[var]] = array

    def read(atom: Any) -> Any:
        return atom if isinstance(atom, core.Literal) else env[atom]

    for eqn in jaxpr.eqns:
        ins, inner = [read(atom) for atom in eqn.invars], called(eqn)
        if inner is not None:
            outs = _laid(flat, getattr(inner, "jaxpr", inner), constants_of(inner), ins)
        else:
            outs = [flat.new(var.aval) for var in eqn.outvars]
            flat.operations.append(Operation(eqn, tuple(ins), tuple(outs)))
        env.update(zip(eqn.outvars, outs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


@dataclass(frozen=True, eq=False)
class Piece:
    """Operations in a row, as a function `(*arrays) -> arrays`.

    Attributes:
      name: of the product that it begins with; "" for what comes before the first.
      operations: of it, those it needs that depend on no input before them.
      shapes: of the arrays that it is given and that it makes.
      given, made: the numbers of these.
      constants: arrays that the program is closed over.
    """

    name: str
    operations: tuple[Operation, ...]
    shapes: Mapping[int, jax.ShapeDtypeStruct]
    given: tuple[int, ...]
    made: tuple[int, ...]
    constants: Mapping[int, Any]

    def __call__(self, *arrays: Any) -> list[Any]:
        """Its outputs."""
        env: dict[Any, Any] = dict(self.constants) | dict(zip(self.given, arrays, strict=True))
        for operation in self.operations:
            ins = [x.val if isinstance(x, core.Literal) else env[x] for x in operation.ins]
            env.update(zip(operation.outs, bind_equation(operation.eqn, ins), strict=True))
        return [env[x] for x in self.made]

    @property
    def inputs(self) -> list[jax.ShapeDtypeStruct]:
        """Shapes of what it is given."""
        return [self.shapes[x] for x in self.given]

    @property
    def key(self) -> str:
        """The same for pieces that compute the same from arrays of the same shapes."""
        number: dict[Any, int] = {x: i for i, x in enumerate(self.given)}
        lines = [str([_kind(self.shapes[x]) for x in self.given])]
        for operation in self.operations:
            ins = [
                repr(x) if isinstance(x, core.Literal) else _number(x, number, self.constants) for x in operation.ins
            ]
            for x in operation.outs:
                number[x] = len(number)
            params = _ADDRESS.sub("", str(sorted(operation.eqn.params.items(), key=lambda p: p[0])))
            lines.append(f"{operation.eqn.primitive.name} {ins} {params}")
        lines.append(str([number.get(x) for x in self.made]))
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:32]


def _kind(shape: jax.ShapeDtypeStruct) -> str:
    return f"{shape.dtype}{list(shape.shape)}"


def _number(x: Any, number: Mapping[Any, int], constants: Mapping[int, Any]) -> str:
    if isinstance(x, core.Literal):
        return repr(x)
    return str(number[x]) if x in number else f"constant {_kind(constants[x])}"


def whole(flat: Flat) -> Piece:
    """All of a program as one piece."""
    made = tuple(x for x in flat.outputs if isinstance(x, int))
    return Piece("", tuple(flat.operations), flat.shapes, tuple(flat.inputs), made, flat.constants)


def cut(flat: Flat, products: frozenset[str]) -> list[Piece]:
    """Pieces in order, the first one that before the first product: one more than there are products.

    Args:
      flat: the program.
      products: names of the primitives that pieces begin with; loops and choices with one inside, too.
    """
    fixed = {x: op for op in flat.operations for x in op.outs if x in flat.fixed}
    moving = [op for op in flat.operations if not all(x in flat.fixed for x in op.outs)]
    starts = [i for i, op in enumerate(moving) if begins(op.eqn, products)]
    last = {x: i for i, op in enumerate(moving) for x in op.ins if isinstance(x, int)}
    last |= {x: len(moving) for x in flat.outputs if isinstance(x, int)}
    found = []
    for start, stop in zip([0, *starts], [*starts, len(moving)], strict=True):
        own = moving[start:stop]
        name = own[0].eqn.primitive.name if own and start in starts else ""
        made = [x for op in own for x in op.outs]
        read = dict.fromkeys(x for op in own for x in op.ins if isinstance(x, int))
        before = _behind(read, fixed)
        there = {*made, *flat.fixed}
        given = tuple(x for x in read if x not in there)
        kept = tuple(x for x in made if last.get(x, -1) >= stop)
        found.append(Piece(name, (*before, *own), flat.shapes, given, kept, flat.constants))
    return found


def _behind(read: Mapping[int, None], fixed: Mapping[int, Operation]) -> list[Operation]:
    """What makes constants that are read, in order."""
    found: dict[Operation, None] = {}

    def need(x: Any) -> None:
        operation = fixed.get(x) if isinstance(x, int) else None
        if operation is not None and operation not in found:
            for other in operation.ins:
                need(other)
            found[operation] = None

    for x in read:
        need(x)
    return list(found)


def begins(eqn: Any, products: frozenset[str]) -> bool:
    """Whether an equation is a product, or runs programs with one."""
    inner = core.jaxprs_in_params(eqn.params)
    return eqn.primitive.name in products or any(begins(e, products) for jaxpr in inner for e in jaxpr.eqns)


def deployed(fn: Any, dtype: str | None) -> Any:
    """A function of the full network's parameters, computed in another dtype; it takes arrays that have it already."""
    if dtype is None:
        return fn

    def cast(x: Any) -> Any:
        floating = hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jnp.floating)
        return x.astype(dtype) if floating else x

    return lambda *arguments: fn(*jax.tree.map(cast, arguments))
