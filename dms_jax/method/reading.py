"""The loss of a search, read with the space before anything is trained.

What only the loss sees (an auxiliary head, parameters of the loss itself) is then sliced with the groups it belongs to,
and counted; where the loss needs all elements of a group, or takes its axis apart, that group is not searched.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from dms_jax import checks
from dms_jax.errors import TracingError, UserError, shortened
from dms_jax.method import gradients
from dms_jax.reading import shown
from dms_jax.space import SearchSpace


def read(space: SearchSpace, loss: Callable[..., Any], batch: Any, parts: int, writes: bool) -> SearchSpace:
    """The space that knows the loss as well: the same one where it told all.

    Args:
      space: of the network.
      loss: `(params, batch, key)`, as the search will mask it: what is read here is not read again.
      batch: arrays or shapes; None: nothing is read.
      parts: that the batch passes in.
      writes: as `SearchSpace.masked` takes it.

    Warns:
      UserWarning: the loss leaves nothing to take out of a group that the network alone would have searched.

    Raises:
      TracingError: a mask cannot act in the loss.
      UserError: a batch that cannot be cut, or a loss that leaves nothing to search.
    """
    checks.whole("accumulate", parts, 1)
    if batch is None:
        return space
    given = jax.tree.map(lambda leaf: shape_of(leaf, parts), batch), jax.eval_shape(lambda: jax.random.key(0))
    known = space.with_programs({"loss": (loss, given)})
    lost = [name for name in space.groups if name not in known.groups]
    if lost:
        why = known.left.get(lost[0], "its elements are tied to another group's there")
        others = f", nor {', '.join(lost[1:])}" if lost[1:] else ""
        warnings.warn(shortened(f"the loss leaves group {lost[0]!r} out of the search: {why}{others}"), stacklevel=4)
    known.plan(loss, given, writes=writes)
    return known


def masked(space: SearchSpace, loss: Callable[..., Any], batch: Any, writes: bool) -> Callable[..., Any]:
    """The loss under masks; where it was not read before, a refusal says how it is."""
    run = space.masked(loss, writes=writes)

    def advised(*given: Any) -> Any:
        try:
            return run(*given)
        except TracingError as error:
            raise TracingError(f"{error}; or let the search read its loss: Search(..., batch=batch)") from error

    return run if batch is not None else advised


def shape_of(leaf: Any, parts: int = 1) -> jax.ShapeDtypeStruct:
    """The shape and dtype that a leaf of a batch has as a JAX array, in one of `parts`.

    Raises:
      UserError: it is no array, such as a text, or cannot be cut.
    """
    try:
        if not (hasattr(leaf, "dtype") or isinstance(leaf, bool | int | float | complex)):
            raise TypeError
        dtype = jnp.result_type(leaf)
    except TypeError:  # an array of texts or objects, too
        raise UserError(
            f"the batch holds {shown(leaf)}, which is no array; give arrays, shapes or numbers alone"
        ) from None
    gradients.check_parts(leaf, parts)
    shape = jnp.shape(leaf)
    return jax.ShapeDtypeStruct((shape[0] // parts, *shape[1:]) if parts > 1 else shape, dtype)
