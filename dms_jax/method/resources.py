"""Resource loss, its target over time, and budgets (METHOD, "Resource loss"; Eq. 5-7 and 10 of the paper).

Everything is in fractions of the full network's resources, so 0.04 is 4 % of its MACs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from dms_jax.budgets.amounts import Given, amount, words
from dms_jax.budgets.resource import Cost
from dms_jax.errors import UserError
from dms_jax.explanation import exactly
from dms_jax.space import SearchSpace


def progress(step: jax.Array, decay_steps: float) -> jax.Array:
    """How much of its way the target has gone, min(1, s / S_decay): float32 in [0, 1]; arguments as of `target`."""
    return jnp.clip(jnp.asarray(step, jnp.float32) / decay_steps, 0.0, 1.0)


def target(step: jax.Array, final: float, decay_steps: float) -> jax.Array:
    """The target after `step` steps: r_t(s) / r_full = final^min(1, s / S_decay).

    Args:
      step: steps since the end of warm-up, any shape; negative counts as 0.
      final: the fraction asked for, in (0, 1].
      decay_steps: S_decay, the steps until the target stands at `final`; > 0.

    Returns:
      float32 of `step`'s shape.
    """
    return jnp.power(jnp.float32(final), progress(step, decay_steps))


def total(space: SearchSpace, names: Iterable[str], masks: jax.Array) -> jax.Array:
    """The sum of some resources of what `[elements]` keep, each a fraction of the full network's; float32."""
    fractions = space.fractions(masks)
    return jnp.sum(jnp.stack([fractions[name] for name in names]))


def excess(fraction: jax.Array, target: jax.Array) -> jax.Array:
    """log(r / r_t) where r > r_t, else 0: the resource loss before its weight w."""
    return jnp.log(jnp.maximum(fraction / target, 1.0))


def next_weight(weight: jax.Array, fraction: jax.Array, target: jax.Array) -> jax.Array:
    """The multiplier follows the miss: w <- clip(w + log(r / r_t), 1, 50)."""
    return jnp.clip(weight + jnp.log(jnp.maximum(fraction, 1e-12) / target), 1.0, 50.0)


def straight_through(mask: jax.Array, hard: jax.Array) -> jax.Array:
    """Forward the hard mask, backward that of the soft one: r counts the network exported now."""
    return mask + jax.lax.stop_gradient(hard - mask)


class Balance(NamedTuple):
    """What balancing carries from step to step.

    Attributes:
      task_norm: n, float32, moving average of the norm of the task gradient; 0 before the first.
      weights: {resource: float32} multipliers w.
    """

    task_norm: jax.Array
    weights: dict[str, jax.Array]


def balance(
    task: Any,
    slopes: Mapping[str, Any],
    misses: Mapping[str, tuple[jax.Array, jax.Array]],
    before: Balance,
    active: jax.Array,
    *,
    plain: bool,
) -> tuple[Any, Balance]:
    """Add the resource gradients on the ratios to the task's, and let norm and multipliers follow.

        g = g_task + sum_r w_r s_r g_r,     s_r = n / |g_r|,     n <- 0.9 n + 0.1 |g_task|

    and w_r by `next_weight`. The paper's plain loss has s_r = 1, and w_r stays.

    Args:
      task: g_task, a pytree.
      slopes: {resource: g_r}, of `excess` before its weight, like `task`.
      misses: {resource: (r, r_t)}, fractions of the full network.
      before: norm and multipliers so far.
      active: bool; nothing follows in the warm-up.
      plain: the paper's.
    """
    norm = _norm(task)
    average = jnp.where(before.task_norm == 0, norm, 0.9 * before.task_norm + 0.1 * norm)
    task_norm = jnp.where(active & jnp.isfinite(norm), average, before.task_norm)
    total, weights = task, {}
    for name, slope in slopes.items():
        w = before.weights[name]
        by = w * (1.0 if plain else task_norm / jnp.maximum(_norm(slope), 1e-20))
        total = jax.tree.map(lambda t, x, by=by: t + by * x, total, slope)
        weights[name] = w if plain else jnp.where(active, next_weight(w, *misses[name]), w)
    return total, Balance(task_norm, weights)


def _norm(gradient: Any) -> jax.Array:
    """The Euclidean norm over all leaves."""
    return jnp.linalg.norm(ravel_pytree(gradient)[0])


Hint: TypeAlias = Callable[[], str]


def targets(
    space: SearchSpace,
    budgets: Mapping[str, Given],
    least: Mapping[str, float],
    hints: Mapping[str, Hint] = MappingProxyType({}),
) -> dict[str, Any]:
    """The budgets of a space in absolute numbers; `least` is the smallest reachable. Raises as `budget` does."""
    return {
        name: budget(space.costs[name], asked, least[name], space.title, hints.get(name, str))
        for name, asked in budgets.items()
    }


def budget(cost: Cost, asked: Given, smallest: float, network: str, hint: Hint = str) -> Any:
    """What a budget means in absolute numbers, checked.

    Args:
      cost: what is bounded.
      asked: a fraction of the full network in (0, 1], an absolute number above 1, or a text with a unit: "2MB".
      smallest: the smallest value reachable; the full network's is the largest.
      network: what to call the network in errors.
      hint: what else to say of the smallest network where it is above the budget; asked for then alone.

    Returns:
      The largest number allowed; whole where the resource counts something.

    Raises:
      UserError: not a positive number or of an unknown unit, above the full network's, or below `smallest`.
    """
    full = cost.full
    possible = f"{exactly(smallest)} to {exactly(full)} can be reached ({network})"
    given = amount(cost.name, asked, cost.unit, possible)
    exact = given.value * full if given.relative and isinstance(full, int) else given.value
    wanted = math.floor(exact) if isinstance(full, int) else float(exact) * (full if given.relative else 1)
    number = f"{exactly(wanted)} {words(cost.name, cost.unit)}"
    shown = number if not given.relative else f"{float(given.value):g} ({number})"
    if wanted > full:
        raise UserError(
            f"budget {shown} is above the full network's {exactly(full)} ({network}); nothing needs to be searched"
        )
    if wanted < smallest:
        said = filter(None, [hint()])
        raise UserError(
            f"budget {shown} is below {exactly(smallest)}, the smallest reachable ({network}; full: "
            f"{exactly(full)}); ask for more, or let more groups be searched" + "".join(f"; {text}" for text in said)
        )
    return wanted
