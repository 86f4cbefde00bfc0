"""Loops over layers, laid out: every layer gets parameters, and so widths, of its own.

Stacked parameters `[layers, ...]` become tuples of rows. A program of the stacked ones is run with rows in their place:
a scan over rows is run layer by layer, a cast is made row by row; whatever else looks at all of a stack makes one of
the rows again, and so ties them.
"""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core

from dms_jax.errors import UserError
from dms_jax.program.loops import scan_counts
from dms_jax.program.trace import called, constants_of


def row_path(path: str, row: int, pattern: str) -> str:
    """What a row of a stacked parameter is called: "layers/3/mlp/kernel" for "layers/mlp/kernel" and "layers/*"."""
    stem = pattern.split("*")[0].rstrip("/")
    if stem and path.startswith(stem + "/"):
        return f"{stem}/{row}/{path[len(stem) + 1 :]}"
    module, _, name = path.rpartition("/")
    return f"{module}/{row}/{name}" if module else f"{name}/{row}"


def matching(path: str, patterns: Sequence[str]) -> str | None:
    """The first pattern that a path matches."""
    return next((pattern for pattern in patterns if fnmatchcase(path, pattern)), None)


def rows(array: Any, count: int) -> tuple[Any, ...]:
    """The rows of a stacked array, or of its shape."""
    if isinstance(array, tuple | list):
        return tuple(array)
    if isinstance(array, jax.ShapeDtypeStruct):
        return tuple(jax.ShapeDtypeStruct(array.shape[1:], array.dtype) for _ in range(count))
    return tuple(array[i] for i in range(count))


def run(jaxpr: Any, consts: Sequence[Any], args: Sequence[Any]) -> list[Any]:
    """Run a jaxpr in which some arguments are tuples of rows; so may be some of its results."""
    env: dict[Any, Any] = dict(zip(jaxpr.constvars, consts, strict=True))
    env.update(zip(jaxpr.invars, args, strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, core.Literal) else env[atom]

    for eqn in jaxpr.eqns:
        outs = _equation(eqn, [read(atom) for atom in eqn.invars])
        env.update(zip(eqn.outvars, outs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _equation(eqn: Any, ins: list[Any]) -> list[Any]:
    from dms_jax.program.evaluate import bind_equation

    if not any(isinstance(x, tuple) for x in ins):
        return bind_equation(eqn, ins)
    name = eqn.primitive.name
    if name == "scan":
        return _scan(eqn, ins)
    inner = called(eqn)
    if inner is not None:
        jaxpr, consts = getattr(inner, "jaxpr", inner), constants_of(inner)
        if name in ("remat2", "checkpoint"):
            p = eqn.params
            again = jax.checkpoint(lambda *xs: run(jaxpr, consts, xs), prevent_cse=p["prevent_cse"], policy=p["policy"])
            return again(*ins)
        return run(jaxpr, consts, ins)
    if len(ins) == 1 and name in _EACH:
        return [tuple(bind_equation(eqn, [row])[0] for row in ins[0])]
    if name == "slice" and (eqn.params["strides"] or (1,))[0] == 1:
        start, stop = eqn.params["start_indices"][0], eqn.params["limit_indices"][0]
        whole = zip(eqn.params["start_indices"][1:], eqn.params["limit_indices"][1:], ins[0][0].shape, strict=True)
        if stop - start == 1 and all(a == 0 and b == n for a, b, n in whole):  # one layer
            return [jnp.expand_dims(ins[0][start], 0)]
    return bind_equation(eqn, [jnp.stack(x) if isinstance(x, tuple) else x for x in ins])


_EACH = frozenset("convert_element_type neg copy copy_p stop_gradient reduce_precision square abs name".split())


def _scan(eqn: Any, ins: list[Any]) -> list[Any]:
    p = eqn.params
    n, c = scan_counts(p)
    consts, carry, stacks = ins[:n], list(ins[n : n + c]), ins[n + c :]
    consts = [jnp.stack(x) if isinstance(x, tuple) else x for x in consts]
    body, made = p["jaxpr"], []
    order = range(p["length"])
    for i in reversed(order) if p["reverse"] else order:
        outs = run(body.jaxpr, body.consts, [*consts, *carry, *(stack[i] for stack in stacks)])
        carry = outs[:c]
        made.append(outs[c:])
    if p["reverse"]:
        made.reverse()
    return [*carry, *(tuple(row[k] for row in made) for k in range(len(eqn.outvars) - c))]


def check(patterns: Sequence[str], paths: Sequence[str]) -> None:
    """Every pattern has to match a parameter.

    Raises:
      UserError: one matches none.
    """
    for pattern in patterns:
        if not any(fnmatchcase(path, pattern) for path in paths):
            raise UserError(
                f"pattern {pattern!r} to unroll matches no parameter; there are {', '.join(paths[:6])}, ..."
            )
