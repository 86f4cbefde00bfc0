"""An independent count of multiply-adds, and random structures, for tests of whole models.

The count knows nothing of axes or groups: it reads the shapes off the jaxpr of a network as it stands.
"""

# Linen's `apply` gives a value or a tuple, options come as dictionaries, and some arguments are wrong on purpose:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportIndexIssue=false, reportOptionalSubscript=false

from collections.abc import Callable, Iterator, Mapping
from math import prod
from typing import Any

import hypothesis.strategies as st
import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from dms_jax import SearchSpace
from dms_jax.groups import Group


def multiply_adds(fun: Callable[..., Any], *args: Any, dead: bool = False) -> int:
    """Multiply-adds of one call: what reaches no output is not computed, a branch counts as the dearest.

    With `dead`, what the outermost program computes for no output counts, too.
    """
    jaxpr = jax.make_jaxpr(fun)(*args).jaxpr
    return sum(map(_operation, jaxpr.eqns)) if dead else _count(jaxpr)


def _count(jaxpr: Any) -> int:
    total, needed = 0, {v for v in jaxpr.outvars if hasattr(v, "count") or not hasattr(v, "val")}
    for eqn in reversed(jaxpr.eqns):
        if not needed.isdisjoint(eqn.outvars):
            needed.update(v for v in eqn.invars if not hasattr(v, "val"))
            total += _operation(eqn)
    return total


def _operation(eqn: Any) -> int:
    name, p = eqn.primitive.name, eqn.params
    if name == "dot_general":
        (contracted, _), _ = p["dimension_numbers"]
        return prod(eqn.outvars[0].aval.shape) * prod(eqn.invars[0].aval.shape[i] for i in contracted)
    if name == "symmetric_product":  # a a^T, of which XLA computes all
        *_, rows, _ = shape = eqn.invars[0].aval.shape
        return prod(shape) * rows
    if name.startswith("ragged_dot"):  # every row meets one matrix of the group
        (contracted, _), _ = p["ragged_dot_dimension_numbers"].dot_dimension_numbers
        return prod(eqn.outvars[0].aval.shape) * prod(eqn.invars[0].aval.shape[i] for i in contracted)
    if name == "conv_general_dilated":
        x, kernel, out = eqn.invars[0].aval.shape, eqn.invars[1].aval.shape, eqn.outvars[0].aval.shape
        spec = p["dimension_numbers"]
        per_position = prod(kernel)  # output features x input features of one x kernel positions
        places = 1
        for i, o, dilation in zip(spec.lhs_spec[2:], spec.out_spec[2:], p["lhs_dilation"], strict=True):
            places *= x[i] if dilation > 1 else out[o]
        return x[spec.lhs_spec[0]] * places * per_position
    if name == "scan":
        return p["length"] * _count(p["jaxpr"].jaxpr)
    if name == "custom_linear_solve":
        return _count(p["jaxprs"].solve.jaxpr)
    if name == "cond":
        return max(_count(branch.jaxpr) for branch in p["branches"])
    inner = [v for key in ("jaxpr", "call_jaxpr", "fun_jaxpr", "call") if (v := p.get(key)) is not None]
    return _count(getattr(inner[0], "jaxpr", inner[0])) if inner and name != "reduce" else 0


def equations(jaxpr: Any) -> Iterator[Any]:
    """All equations of a program, those of the programs inside included."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from equations(inner)


def numbers(tree: Any) -> int:
    """How many numbers the leaves of a tree hold."""
    return sum(prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def _kept(group: Group) -> st.SearchStrategy[tuple[int, ...]]:
    flags = st.lists(st.booleans(), min_size=group.size, max_size=group.size)
    least = st.permutations(range(group.size)).map(lambda order: order[: group.least])
    return st.tuples(flags, least).map(lambda x: tuple(sorted({i for i in range(group.size) if x[0][i]} | set(x[1]))))


def structures(groups: Mapping[str, Group]) -> st.SearchStrategy[dict[str, tuple[int, ...]]]:
    """Any structure of a small space: hypothesis shrinks towards few elements."""
    return st.fixed_dictionaries({name: _kept(group) for name, group in groups.items()})


def random_structure(groups: Mapping[str, Group], seed: int, keep: float | None = None) -> dict[str, tuple[int, ...]]:
    """A structure of a large space, every group with a share of its own."""
    rng, kept = np.random.default_rng(seed), {}
    for name, group in groups.items():
        share = rng.uniform() if keep is None else keep
        chosen = np.flatnonzero(rng.uniform(size=group.size) < share)
        order = rng.permutation(group.size)[: group.least]
        kept[name] = tuple(sorted(int(i) for i in {*chosen, *order}))
    return kept


def random_variables(space: SearchSpace, seed: int = 0) -> Any:
    """Parameters in which everything matters: no zeros, no symmetry; moving variances are positive."""
    rng, filled = np.random.default_rng(seed), []
    for path, leaf in space.leaves.items():
        name = path.split("/")[-1]
        fan = prod(leaf.shape[:-1]) if len(leaf.shape) > 1 else 1
        x = rng.normal(size=leaf.shape).astype(np.float32)
        if name == "var":
            x = 0.5 + np.abs(x)
        elif name == "scale":
            x = 1.0 + 0.3 * x
        elif len(leaf.shape) > 1:
            x = x * np.float32(1.4 / np.sqrt(fan))
        else:
            x = 0.3 * x
        filled.append(jnp.asarray(x))
    return space.parameters.tree(filled)


def flat_masks(space: SearchSpace, seed: int) -> jax.Array:
    """Soft masks `[elements]` in (0.1, 1)."""
    total = sum(group.size for group in space.groups.values())
    return jnp.asarray(np.random.default_rng(seed).uniform(0.1, 1.0, total), jnp.float32)


def folded(space: SearchSpace) -> set[str]:
    """The groups whose masks are multiplied into parameters and nothing else."""
    plan = space._readings.plan_of(space.fn, space.example)
    return {name for name in space.groups if plan.folds(name)}


def shapes(tree: Any) -> dict[Any, Any]:
    """{path: (shape, dtype)} of a tree of nested dictionaries."""
    return {path: (tuple(leaf.shape), jnp.dtype(leaf.dtype)) for path, leaf in flatten_dict(tree).items()}
