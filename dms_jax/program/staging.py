"""Functions of parameters as jaxprs, for the shapes of their arguments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core

from dms_jax.errors import UserError
from dms_jax.program import unrolling
from dms_jax.program.axes import UNIT, Atom, Axis, Ties
from dms_jax.program.derivatives import know
from dms_jax.program.frames import Program, Value
from dms_jax.program.parameters import Parameters, is_array
from dms_jax.program.trace import trace
from dms_jax.reading import shown


@dataclass(frozen=True, eq=False)
class Staged:
    """A function of parameters as a jaxpr, for the shapes of its arguments.

    Attributes:
      closed: of all arrays of the parameters, then those of the arguments.
      arguments: shapes of the arguments' arrays.
      out_tree: of the outputs.
    """

    closed: Any
    arguments: tuple[tuple[int, ...], ...]
    out_tree: Any


def stage(
    parameters: Parameters, fn: Callable[..., Any], args: Sequence[Any], context: Callable[[], Any] = nullcontext
) -> Staged:
    """Trace a function of the whole tree of parameters and of other arguments, arrays or shapes."""
    fn, shapes = _returning_arrays(fn), jax.tree.map(_abstract, tuple(args))
    trees: list[Any] = []

    def flat(arrays: Sequence[Any], args: Any) -> Any:
        outs, tree = jax.tree.flatten(fn(parameters.tree(arrays), *args))
        trees.append(tree)
        return outs

    with context():
        if parameters.stacked:
            closed, tree = _unrolled(parameters, fn, shapes)
        else:
            closed = jax.make_jaxpr(flat)(list(parameters.shapes), shapes)
            tree = trees[-1]
        closed = _without_refs(closed)
    rest = closed.jaxpr.invars[len(parameters) :]
    return Staged(closed, tuple(tuple(var.aval.shape) for var in rest), tree)


def _returning_arrays(fn: Callable[..., Any]) -> Callable[..., Any]:
    def checked(params: Any, *args: Any) -> Any:
        found = fn(params, *args)
        for out in jax.tree.leaves(found):
            if not hasattr(out, "dtype") and not _is_number(out):
                raise UserError(f"the function returns {shown(out)}, which is no array; give a tree of arrays")
        return found

    return checked


def _without_refs(closed: Any) -> Any:
    """The same program without arrays that it makes and changes in their places: every change makes another array.

    It is what JAX itself does before it compiles. Where it cannot be asked to, such arrays are refused by name.
    """
    if not _changes_in_place(closed.jaxpr):
        return closed
    try:
        from jax._src.state.discharge import discharge_state
    except ImportError:
        return closed
    return discharge_state(closed)


def _changes_in_place(jaxpr: Any) -> bool:
    if not jaxpr.effects:
        return False
    inner = (i for eqn in jaxpr.eqns for i in core.jaxprs_in_params(eqn.params))
    return any(eqn.primitive.name in _REFS for eqn in jaxpr.eqns) or any(_changes_in_place(i) for i in inner)


_REFS = ("new_ref", "empty_ref", "ref", "mutable_array")


def _is_number(out: Any) -> bool:
    if isinstance(out, int) and not isinstance(out, bool):  # JAX itself fails on those that its integers do not hold
        bounds = jnp.iinfo(jnp.result_type(int))
        return bounds.min <= out <= bounds.max
    return isinstance(out, bool | float | complex)


def _unrolled(parameters: Parameters, fn: Callable[..., Any], shapes: Any) -> tuple[Any, Any]:
    """The jaxpr of a function of stacked parameters, as one of rows; the tree of its outputs, rows in tuples."""
    leaves, treedef = jax.tree.flatten(parameters.whole)
    there = [i for i, leaf in enumerate(leaves) if is_array(leaf)]

    def whole(arrays: Sequence[Any], args: Any) -> Any:
        filled = list(leaves)
        for i, array in zip(there, arrays, strict=True):
            filled[i] = array
        return fn(jax.tree.unflatten(treedef, filled), *args)

    stacked = [leaves[i] for i in there]
    closed, out = jax.make_jaxpr(whole, return_shape=True)(stacked, shapes)
    trees: list[Any] = []

    def by_rows(arrays: Sequence[Any], args: Any) -> Any:
        laid_out = jax.tree.leaves(parameters.tree(arrays), is_leaf=lambda x: isinstance(x, tuple))
        given = [x for x in laid_out if isinstance(x, tuple) or is_array(x)]
        outs = unrolling.run(closed.jaxpr, closed.consts, [*given, *jax.tree.leaves(args)])
        flat, tree = jax.tree.flatten(jax.tree.unflatten(jax.tree.structure(out), outs))
        trees.append(tree)
        return flat

    return jax.make_jaxpr(by_rows)(list(parameters.shapes), shapes), trees[-1]


def traced(staged: Staged, leaves: Sequence[Value], ties: Ties, lean: bool = True) -> tuple[Program, list[Value]]:
    """Read a staged function on given values of its parameters: the program, and values of its arguments.

    Its custom derivatives are read with it: what they tie and freeze holds before anything is taken out. With `lean`,
    what no output needs is not read.
    """
    arguments = [Value(_fresh(shape)) for shape in staged.arguments]
    program = trace(staged.closed, [*leaves, *arguments], ties, lean)
    know(program.frame, ties)
    return program, arguments


def _abstract(leaf: Any) -> Any:
    if hasattr(leaf, "shape") and hasattr(leaf, "dtype"):
        return jax.ShapeDtypeStruct(tuple(leaf.shape), leaf.dtype)
    return leaf


def _fresh(shape: Sequence[int]) -> tuple[Axis, ...]:
    return tuple(Atom(n) if n != 1 else UNIT for n in shape)
