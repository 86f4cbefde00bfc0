"""What a loss is: the user's own function of the whole tree of variables."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from dms_jax.errors import UserError
from dms_jax.reading import shown

Loss: TypeAlias = Callable[[Any, Any, jax.Array], Any]
"""`(params, batch, key)` -> the mean loss, a scalar, or `(loss, {"state": ..., "metrics": ...})`; both may be left out.

`params` is the whole tree. "state" is a partial tree, {"batch_stats": ...} say: new values of leaves that are not
trained. "metrics" are scalars by name.
"""

_EXPECTED = 'a scalar, or (scalar, {"state": new values of what is not trained, "metrics": {name: scalar}})'


def outcome(loss: Loss) -> Callable[[Any, Any, jax.Array], tuple[jax.Array, tuple[Any, dict[str, Any]]]]:
    """Make a loss `(params, batch, key) -> (value, (state, metrics))`, as `jax.value_and_grad(has_aux=True)` takes it.

    Raises:
      UserError: it takes other arguments; or, when traced, returns something else.
    """
    if not callable(loss):
        raise UserError(f"loss {loss!r} is not a function; give loss(params, batch, key)")
    try:
        inspect.signature(loss).bind(None, None, None)
    except TypeError:
        raise UserError(f"the loss takes {inspect.signature(loss)}; it is called as loss(params, batch, key)") from None
    except ValueError:  # a function without a signature to look at
        pass

    def run(params: Any, batch: Any, key: jax.Array) -> tuple[jax.Array, tuple[Any, dict[str, Any]]]:
        found = loss(params, batch, key)
        value, more = found if isinstance(found, tuple) and len(found) == 2 else (found, {})
        if not isinstance(more, Mapping) or set(more) - {"state", "metrics"}:
            what = f"keys {sorted(map(str, more))}" if isinstance(more, Mapping) else f"a {type(more).__name__}"
            raise UserError(f"the loss returns a scalar and {what}; give {_EXPECTED}")
        return _scalar(value), (more.get("state"), _metrics(more.get("metrics")))

    return run


def _scalar(value: Any) -> Any:
    if not hasattr(value, "dtype") and not isinstance(value, float | int):
        raise UserError(f"the loss returns a {type(value).__name__}; give {_EXPECTED}")
    if jnp.shape(value) or not jnp.issubdtype(jnp.result_type(value), jnp.floating):
        raise UserError(f"the loss returns {jnp.result_type(value)}{list(jnp.shape(value))}; give {_EXPECTED}")
    return value


def _metrics(metrics: Any) -> dict[str, Any]:
    if not isinstance(metrics, Mapping | None):
        raise UserError(f'the loss returns "metrics" as a {type(metrics).__name__}; give {{name: scalar}}')
    for name, value in (metrics or {}).items():
        number = isinstance(value, float | int) or getattr(value, "shape", None) == ()
        if not (isinstance(name, str) and number):
            raise UserError(f"the loss returns the metric {shown(name)}: {shown(value)}; give {{name: scalar}}")
    return dict(metrics or {})


def joined(metrics: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics that a loss returned and those of the step.

    Raises:
      UserError: one name is in both, where one would hide the other.
    """
    both = sorted(metrics.keys() & own.keys())
    if both:
        raise UserError(f"the loss returns a metric {both[0]!r}; the step has one of that name: give it another")
    return {**metrics, **own}


def each_its_own(collection: Any, step: jax.Array) -> Any:
    """Masks that XLA takes for arrays of their own.

    Its CPU backend would cut a group's masks out of the flat ones within every loop that reads them, so that layers
    alike are no longer alike to it: a Llama of six layers compiles in 17 seconds instead of 11. It does not repeat a
    division, and cannot know that this one is by 1.
    """
    one = jnp.where(step < 0, 2.0, 1.0)
    return jax.tree.map(lambda mask: mask / one, collection)
