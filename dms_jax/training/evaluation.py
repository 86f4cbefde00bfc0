"""How well networks of any kind do: what a user measures them by, made a `Quality`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dms_jax.errors import UserError
from dms_jax.method.loss import Loss
from dms_jax.reading import shown
from dms_jax.space import SearchSpace
from dms_jax.training.results import Quality

TRIED = 8
"""Batches whose mean loss is the quality where there is no `evaluate`."""


def quality_of(evaluate: Any, space: SearchSpace, loss: Loss, draw: Callable[[int], Any], key: jax.Array) -> Quality:
    """How well a network does, by what a user gave.

    Args:
      evaluate: a `Quality`; `(fn, params)` -> a number, or (number, standard error); None: the mean loss of a few
        batches.
      space: of the networks.
      loss, draw: of the full network, and its batches.
      key: of the loss.

    Raises:
      UserError: from the quality's measure: what it returns is no number.
    """
    if evaluate is None:
        return Quality("training loss", "", lambda fn, params: _mean_loss(space, fn, loss, params, draw, key))
    name = getattr(evaluate, "__name__", "quality").strip("_<>").replace("_", " ")
    quality = evaluate if isinstance(evaluate, Quality) else Quality(name, "%" if "accuracy" in name else "", evaluate)

    def measured(fn: Callable[..., Any], params: Any) -> Sequence[Any]:
        found: Any = quality.measure(runnable(space, fn), space.whole(params))
        several = isinstance(found, Sequence) and not isinstance(found, str) and len(found) > 0
        parts: list[Any] = list(found) if several else [found]
        value, *more = parts
        try:
            return float(value), float(more[0]) if more and more[0] is not None else None, *more[1:]
        except (TypeError, ValueError):
            raise UserError(
                f"evaluate ({quality.name}) returns {shown(found)}; give a number, or (number, standard error)"
            ) from None

    return replace(quality, measure=measured)


def _mean_loss(
    space: SearchSpace, fn: Any, loss: Loss, params: Any, draw: Callable[[int], Any], key: jax.Array
) -> tuple[float, float]:
    same: Any = fn.of(loss) if hasattr(fn, "of") else lambda params, *args: loss(space.whole(params), *args)

    def value(params: Any, batch: Any) -> Any:
        found = same(params, batch, key)
        return found[0] if isinstance(found, tuple) else found

    run = jax.jit(value)
    values = [float(run(params, draw(i))) for i in range(TRIED)]
    return float(np.mean(values)), float(np.std(values, ddof=1) / np.sqrt(TRIED))


def runnable(space: SearchSpace, fn: Callable[..., Any]) -> Callable[..., Any]:
    """A function, jitted, of parameters with leaves that are no arrays."""
    jitted = jax.jit(fn)
    return lambda params, *inputs: jitted(space.arrays(params), *inputs)


def possible_batches(space: SearchSpace, batches: Sequence[int]) -> tuple[int, ...]:
    """Batch sizes that the network takes; that of the example where it takes no other."""
    first = next((x.shape[0] for x in jax.tree.leaves(space.example) if x.shape), 1)

    def takes(batch: int) -> bool:
        sized = lambda x: jax.ShapeDtypeStruct((batch, *x.shape[1:]), x.dtype) if x.shape[:1] == (first,) else x  # noqa: E731
        try:
            shapes = space.arrays(space.parameters.template)
            jax.eval_shape(lambda p, *x: space.fn(space.whole(p), *x), shapes, *jax.tree.map(sized, space.example))
        except Exception:  # whatever a network raises that is made for one size
            return False
        return True

    return tuple(batch for batch in batches if takes(batch)) or (first,)


def drawn(x: Any) -> Any:
    """An input of some shape; one that was given stays."""
    if not isinstance(x, jax.ShapeDtypeStruct):
        return x
    draw = np.random.default_rng(0)
    if jnp.issubdtype(x.dtype, jnp.inexact):
        return jnp.asarray(draw.normal(size=x.shape), x.dtype)
    return jnp.asarray(draw.integers(0, 2, x.shape), x.dtype)
