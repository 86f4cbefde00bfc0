"""A space checks itself before a search begins: abstractly, on shapes, in milliseconds."""

from __future__ import annotations

from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dms_jax.errors import MOST_CHARACTERS, TracingError, one_line
from dms_jax.program.frames import describe
from dms_jax.program.nested import LEAVE_ALONE, USE_SCAN
from dms_jax.program.reading import ELSEWHERE
from dms_jax.program.running import Small


def failed(space: Any) -> dict[str, str]:
    """Run the small network of some structures on shapes, and count.

    The smallest structure, and a random one without every other block. Parameters must be those of the leaves, and
    MACs a count of the small program's own products.

    Returns:
      group -> why the space is to be made without it: it fails by itself, or no gradient reaches its masks.

    Raises:
      TracingError: something disagrees, and no group by itself is the reason, or one that the network names.
    """
    try:
        for kept in _structures(space):
            _check(space, kept)
    except TracingError as error:
        found = dict.fromkeys(error.groups, str(error)) or _culprits(space)
        named = {node.eqn.params["name"] for node in space._found.program.marks}
        if not found or not named.isdisjoint(found):
            culprit = next((f"group {name!r}: " for name in found if name not in error.groups), "")
            raise TracingError(f"{culprit}{error}") from error
        return {name: _reason(name, why) for name, why in found.items()}
    return _out_of_reach(space)


def _reason(name: str, why: str) -> str:
    """What fails, without advice on functions that the space does not know: this is its own."""
    why = why.removeprefix(f"group {name!r}: ").removesuffix(ELSEWHERE)
    return f"the check of its smaller network fails: {why}"


def _structures(space: Any) -> list[dict[str, tuple[int, ...]]]:
    """The smallest, and a random one without every other block."""
    rng = np.random.default_rng(0)
    least = {name: tuple(range(group.size - group.least, group.size)) for name, group in space.groups.items()}
    some = {}
    for name, group in space.groups.items():
        number = max(group.least, int(rng.integers(1, group.size + 1)))
        some[name] = tuple(int(i) for i in np.sort(rng.choice(group.size, number, replace=False)))
        if group.rules.gates and group.least <= (group.size + 1) // 2:
            some[name] = tuple(range(0, group.size, 2))
    return [least, some]


def _check(space: Any, kept: dict[str, tuple[int, ...]]) -> None:
    small = Small(space._readings, space.fn, space.sizes(kept), space.gone(kept))
    shapes = small.shapes
    arrays = [x for x in shapes if x is not None]

    def run(arrays: Any, *inputs: Any) -> Any:
        given = iter(arrays)
        return small(space.parameters.tree([None if x is None else next(given) for x in shapes]), *inputs)

    closed = jax.make_jaxpr(run)(arrays, *space.example)
    said = space.resources(kept)
    known = all(term.node.name.startswith(_COUNTED) for term in space._found.program.products)
    counted = {"macs": multiply_adds(closed.jaxpr)} if "macs" in said and known else {}
    trained = zip(shapes, space.parameters.trained, strict=True)
    counted["params"] = sum(prod(x.shape) for x, train in trained if train and x is not None)
    for name, number in counted.items():
        if said[name] != number:
            raise TracingError(f"the small network has {number:,} {name} where {said[name]:,} were expected")


def _culprits(space: Any) -> dict[str, str]:
    """The groups that fail by themselves, and why."""
    full = {name: tuple(range(group.size)) for name, group in space.groups.items()}
    found = {}
    for name, group in space.groups.items():
        try:
            _check(space, full | {name: tuple(range(group.size - max(group.least, 1), group.size))})
            if group.least == 0:
                _check(space, full | {name: ()})
        except TracingError as error:
            found[name] = str(error)
    return found


def _out_of_reach(space: Any) -> dict[str, str]:
    """Groups whose masks act inside of a custom derivative that holds a `while` loop, where none is by them.

    An adaptive solver of differential equations is such. One that the network names can be shrunk all the same.
    """
    program = space._found.program
    if not any(node.name == "while_cond" and _own_derivative(node) for node in program.nodes):
        return {}
    plan = space._readings.plan_of(space.fn, space.example)
    gates = [(name, node) for (name, _), sums in plan.gates.items() for node, _ in sums]
    reads = [(name, insertion.node) for name, several in plan.insertions.items() for insertion in several]
    inside = {name: node for name, node in (*gates, *reads) if _own_derivative(node)}
    found = {}
    for name in space.groups:
        if name in inside and name not in {node.eqn.params["name"] for node in program.marks}:
            try:
                _differentiate(space, name)
            except TracingError as error:
                found[name] = str(error).replace(LEAVE_ALONE, USE_SCAN)
            except ValueError as error:  # of JAX itself, which finds it when it transposes what is linear
                if _differentiable(space):
                    found[name] = (
                        f"a mask acts on {describe(inside[name])}, inside of a derivative of its own, and by that it "
                        f"cannot be differentiated ({one_line(error, MOST_CHARACTERS)}){USE_SCAN}"
                    )
    return found


def _differentiable(space: Any) -> bool:
    """Whether the network has a gradient by its parameters: what has none, masked or not, is shrunk otherwise."""
    try:
        _differentiate(space, None)
    except ValueError:
        return False
    return True


def _own_derivative(node: Any) -> bool:
    return any(eqn.primitive.name in ("custom_vjp_call", "custom_jvp_call") for eqn in node.callers)


def _differentiate(space: Any, name: str | None) -> None:
    """The gradient of what the network gives by the mask of one group, or by its parameters, on shapes."""
    run = space._readings.masked(space.fn, fold=True, writes=True)

    def total(by: Any, arrays: Any, inputs: Any) -> Any:
        if name is None:
            there = iter(by)
            arrays = [next(there) if jnp.issubdtype(x.dtype, jnp.floating) else x for x in arrays]
        masks = {} if name is None else {name: by}
        outs = jax.tree.leaves(run(space.parameters.tree(arrays), masks, *inputs))
        return sum(jnp.real(x).sum() for x in outs if jnp.issubdtype(x.dtype, jnp.inexact))

    shapes = list(space.parameters.shapes)
    by: Any = [x for x in shapes if jnp.issubdtype(x.dtype, jnp.floating)]
    if name is not None:
        by = jax.ShapeDtypeStruct((space.groups[name].size,), jnp.float32)
    jax.eval_shape(jax.grad(total), by, shapes, space.example)


_COUNTED = ("dot_general", "ragged_dot", "conv_general_dilated", "dot_product_attention_fwd_wrapper")
"""Operations whose multiply-adds are counted below; a user can register others."""


def multiply_adds(jaxpr: Any) -> int:
    """Multiply-adds of a jaxpr, counted on its own equations: nothing of the engine's is used."""
    total = 0
    for eqn in jaxpr.eqns:
        p, name = eqn.params, eqn.primitive.name
        if name == "dot_general":
            (contracted, _), _ = p["dimension_numbers"]
            total += prod(eqn.outvars[0].aval.shape) * prod(eqn.invars[0].aval.shape[i] for i in contracted)
        elif name.startswith("ragged_dot"):
            (contracted, _), _ = p["ragged_dot_dimension_numbers"].dot_dimension_numbers
            total += prod(eqn.outvars[0].aval.shape) * prod(eqn.invars[0].aval.shape[i] for i in contracted)
        elif name == "conv_general_dilated":
            total += _convolution(eqn)
        elif name == "dot_product_attention_fwd_wrapper":  # cuDNN's: q k^T and the scores times v
            query, key, out = (v.aval.shape for v in (*eqn.invars[:2], eqn.outvars[0]))
            total += key[2 if p["layout"] == 1 else 1] * (prod(query) + prod(out))
        elif name == "scan":
            total += p["length"] * multiply_adds(p["jaxpr"].jaxpr)
        elif name == "cond":
            total += max(multiply_adds(branch.jaxpr) for branch in p["branches"])
        elif name == "custom_linear_solve":
            total += multiply_adds(p["jaxprs"].solve.jaxpr)
        elif name == "shard_map":
            names = {n for spec in p["in_specs"] for e in spec if e for n in ((e,) if isinstance(e, str) else e)}
            total += prod(p["mesh"].shape[n] for n in names) * multiply_adds(p["jaxpr"])
        elif name != "reduce":
            keys = ("jaxpr", "call_jaxpr", "fun_jaxpr", "call", "callee")
            inner = [p[key] for key in keys if p.get(key) is not None]
            total += multiply_adds(getattr(inner[0], "jaxpr", inner[0])) if inner else 0
    return total


def _convolution(eqn: Any) -> int:
    x, kernel, out = eqn.invars[0].aval.shape, eqn.invars[1].aval.shape, eqn.outvars[0].aval.shape
    spec, dilated = eqn.params["dimension_numbers"], eqn.params["lhs_dilation"]
    spatial = zip(spec.lhs_spec[2:], spec.out_spec[2:], dilated, strict=True)
    places = prod(x[i] if d > 1 else out[o] for i, o, d in spatial)
    return out[spec.out_spec[0]] * places * prod(kernel)
