"""What is dropped must not overflow: exp(x - max x) is at most 1 where x was kept, and may be infinite elsewhere.

Nothing reads it there, but 0 times infinity is no number. So what a maximum over a group's axis is subtracted from is
bounded at dropped positions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from dms_jax.program.axes import Atom
from dms_jax.program.frames import Node, Program, Value
from dms_jax.program.sizes import owners

_FOLLOWED = frozenset(
    "alias broadcast_in_dim convert_element_type copy max optimization_barrier reduce_precision reshape select_n "
    "squeeze stop_gradient".split()
)


def differences(program: Program, owned: Mapping[Atom, tuple[str, int]]) -> Iterator[tuple[str, Node, int]]:
    """(group, node, axis) of every x - max(x) where the maximum ran over an axis of the group."""
    maxima: dict[Value, frozenset[str]] = {}
    for node in program.nodes:
        if node.name == "reduce_max":
            over = {name for i in node.eqn.params["axes"] for name in owners(node.inputs[0].axes[i], owned)}
            if over:
                maxima[node.outputs[0]] = frozenset(over)
        elif not maxima:
            continue
        elif node.name in _FOLLOWED:
            found = frozenset().union(*(maxima.get(value, frozenset()) for value in node.inputs))
            if found:
                maxima |= dict.fromkeys(node.outputs, found)
        elif node.name == "sub" and node.inputs[1] in maxima:
            for i, axis in enumerate(node.inputs[0].axes):
                for name in maxima[node.inputs[1]] & set(owners(axis, owned)):
                    yield name, node, i


def bounded(x: jax.Array, top: jax.Array, mask: jax.Array, axis: int) -> jax.Array:
    """`x`, at a mask of 0 not so far above `top` that a power of it overflows; a floating-point array."""
    m = mask.reshape([-1 if i == axis else 1 for i in range(x.ndim)])
    room = np.log(float(jnp.finfo(x.dtype).max)) / 3
    return jnp.where(m > 0, x, jnp.minimum(x, jax.lax.stop_gradient(top) + jnp.asarray(room, x.dtype)))
