"""Optimizer states of which a part cannot be sliced: that part begins anew, with its count, and says so."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from dms_jax.errors import UserError, shortened
from dms_jax.program.parameters import path_of


@dataclass(frozen=True)
class Unsliced:
    """In the place of an array whose axes do not say how to slice it, or that the small network would not keep so."""

    why: str


def restarted(small: Any, anew: Any) -> Any:
    """The small tree, with those parts from `anew` that could not be sliced.

    A moment of zeros beside a count of many steps would be taken for one that has settled. So what begins anew is the
    outermost state around it that counts steps, all of it; the whole tree where none does.

    Args:
      small: sliced, with `Unsliced` in places.
      anew: the same tree at the beginning: `optimizer.init(small parameters)`.

    Warns:
      UserWarning: something begins anew: one line a state.

    Raises:
      UserError: `anew` has another structure.
    """
    flat, treedef = jax.tree_util.tree_flatten_with_path(small)
    if treedef != jax.tree.structure(anew):
        raise UserError(
            "`anew` is another tree than what is shrunk; give what this one is at the beginning, in the small network: "
            "optimizer.init(dms_jax.shrink(space, params, structure))"
        )
    fresh, states = jax.tree.leaves(anew), _counting(small)
    begins: dict[Any, str] = {}
    for (keys, leaf), new in zip(flat, fresh, strict=True):
        why = _unlike(path_of(keys), leaf, new)
        if why is not None:
            begins.setdefault(_state_of(keys, states), why)
    for keys, why in begins.items():
        what = f"the optimizer's {states[keys]} at {path_of(keys)}" if keys else "the optimizer"
        warnings.warn(shortened(f"{what} begins anew in the small network, its count too: {why}"), stacklevel=3)
    chosen = zip(flat, fresh, strict=True)
    out = [new if _state_of(keys, states) in begins else leaf for (keys, leaf), new in chosen]
    return jax.tree_util.tree_unflatten(treedef, out)


def _unlike(path: str, leaf: Any, new: Any) -> str | None:
    """Why a leaf is not what the small network keeps; None: it is."""
    if isinstance(leaf, Unsliced):
        return leaf.why
    found, expected = (tuple(jnp.shape(x)) for x in (leaf, new))
    return None if found == expected else f"{path} would have shape {found}, and has {expected} there"


def _counting(tree: Any) -> Mapping[Any, str]:
    """Key path -> name of the outermost named tuples that count steps: a whole number is among their fields."""
    found: dict[Any, str] = {}

    def look(node: Any, keys: tuple[Any, ...]) -> None:
        if hasattr(node, "_fields") and any(_is_count(value) for value in node):
            found[keys] = type(node).__name__
            return
        if isinstance(node, Unsliced) or jax.tree_util.all_leaves([node]):
            return
        for more, child in jax.tree_util.tree_flatten_with_path(node, is_leaf=lambda x: x is not node)[0]:
            look(child, (*keys, *more))

    look(tree, ())
    return found


def _is_count(value: Any) -> bool:
    if isinstance(value, int):
        return not isinstance(value, bool)
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    return shape == () and dtype is not None and jnp.issubdtype(dtype, jnp.integer)


def _state_of(keys: tuple[Any, ...], states: Mapping[Any, str]) -> tuple[Any, ...]:
    """The state that a leaf is in; () for the whole tree."""
    return next((keys[:n] for n in range(len(keys) + 1) if keys[:n] in states), ())
