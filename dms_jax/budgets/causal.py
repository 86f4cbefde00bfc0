"""Which attention is that of a decoder: masks and biases that are the same in every call, read off their numbers."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from dms_jax.program.frames import Node, Value

LARGE = 1 << 24
"""Entries of an array that is looked at; what a larger one was broadcast from is smaller."""
NEVER = 100.0
"""Scores that are so far below another are no part of a softmax: exp(-100) is 0 in float32."""


def entries(value: Value) -> int:
    """How many numbers an array has."""
    return prod(axis.size for axis in value.axes)


def constant(made: Mapping[Value, Node], value: Value) -> np.ndarray | None:
    """An array that is made of constants alone; None where it is not, is large, or differs over devices.

    Args:
      made: array -> the operation that makes it.
      value: one of the program.
    """
    known: dict[Value, Any] = {}
    look = [value] if entries(value) <= LARGE else []
    while look:
        at, node = look[-1], made.get(look[-1])
        if at in known:
            look.pop()
        elif node is None and at.array is not None and not isinstance(at.array, Tracer):
            known[at] = at.array
        elif node is None or node.eqn is None or not (at.fixed or node.name == "alias"):
            return None
        elif (unknown := next((x for x in node.inputs if x not in known), None)) is not None:
            if unknown in look or entries(unknown) > LARGE:
                return None  # a loop carries it
            look.append(unknown)
        elif node.name == "alias":
            (source,) = node.inputs
            if [axis.size for axis in source.axes] != [axis.size for axis in at.axes]:
                return None  # a slice of what a loop goes through
            known[at] = known[source]
        else:
            try:
                found = node.eqn.primitive.bind(*(known[x] for x in node.inputs), **node.eqn.params)
            except (NameError, ValueError, TypeError, NotImplementedError):
                return (
                    None  # an axis of a mesh is known inside of `shard_map` alone; what it is made of may be constant
                )
            known |= zip(node.outputs, found if node.eqn.primitive.multiple_results else [found], strict=True)
    found = known.get(value)
    return None if found is None or jnp.issubdtype(jnp.asarray(found).dtype, jax.dtypes.extended) else np.asarray(found)


def hides_the_future(mask: np.ndarray) -> bool:
    """Whether a mask or a bias of scores leaves to every position itself, and hides all that come later from it.

    First keys that all may look at, as those of a prompt or a picture, are no part of that.

    Args:
      mask: any two of its axes may be those of queries and keys; there may be more keys, which then come first. What
        is hidden has one and the same value, or one that is at least 100 below the largest.
    """
    mask = np.squeeze(mask)
    for queries, keys in itertools.permutations(range(mask.ndim), 2):
        n, m = mask.shape[queries], mask.shape[keys]
        found = np.moveaxis(mask, (queries, keys), (-2, -1))
        distance = np.arange(m) - (m - n) - np.arange(n)[:, None]
        hidden = found == found[..., :1, -1:]
        if jnp.issubdtype(mask.dtype, jnp.floating):
            hidden |= found < found.max() - NEVER
        ahead = np.any((~hidden & (distance > 0)).reshape(-1, m), axis=0)
        first = int(np.flatnonzero(ahead)[-1]) + 1 if ahead.any() else 0
        every = not np.any(hidden[..., :first]) and not np.any(hidden[..., distance == 0])
        if n <= m and first <= m - 2 and every and not np.all(hidden[..., distance < 0]):
            return True
    return False
