"""`name`: an identity that gives a group of elements a name, in any framework."""

from __future__ import annotations

from typing import Any

import jax
from jax.extend import core
from jax.interpreters import ad, batching, mlir

_name_p = core.Primitive("dms_name")


def name(x: jax.Array, name: str, axis: int = -1) -> jax.Array:
    """Name the group of elements that an axis of `x` is made of; `x` itself is returned.

    A name that is given is searched: where something stands against it, the space says so instead of leaving it out.

    Args:
      x: any array of the network.
      name: of the group: "hidden". One word, or several with "/" between.
      axis: of `x`; counted from behind it is the same under `jax.vmap`.

    Returns:
      `x`.
    """
    from dms_jax.errors import UserError

    if not isinstance(name, str) or not name:
        raise UserError(f"a group's name must be a word, not {name!r}")
    if not -x.ndim <= axis < x.ndim:
        raise UserError(f"group {name!r}: there is no axis {axis} of an array of shape {x.shape}")
    return mark(x, name, axis=axis if axis < 0 else axis - x.ndim)


def mark(x: Any, name: str, *, axis: int | None = None, element: int | None = None) -> Any:
    """`x`, marked as having the group along `axis`, or as the gate of one element of it."""
    return _name_p.bind(x, name=name, axis=axis, element=element)


_name_p.def_impl(lambda x, **_: x)
_name_p.def_abstract_eval(lambda x, **_: x)
mlir.register_lowering(_name_p, lambda context, x, **_: [x])
ad.deflinear2(_name_p, lambda cotangent, x, **_: [cotangent])


def _batch(arrays: Any, dims: Any, **params: Any) -> Any:
    (x,), (dim,) = arrays, dims
    return _name_p.bind(jax.numpy.moveaxis(x, dim, 0), **params), 0


batching.primitive_batchers[_name_p] = _batch
