"""What a search refuses, each with one line: arguments of another kind, and results that mean nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from dms_jax import budgets, checks
from dms_jax.errors import UserError
from dms_jax.method.importance import Importance
from dms_jax.method.limits import Limits
from dms_jax.method.state import SearchState
from dms_jax.method.strategy import Strategy
from dms_jax.reading import shown
from dms_jax.space import SearchSpace
from dms_jax.structure import Structure


def check_kinds(search: Any) -> None:
    """Refuse arguments of `Search` that are of another type, and amounts that are none.

    Raises:
      UserError: one of them is.
    """
    kinds = {"space": SearchSpace, "limits": Limits, "importance": Importance, "strategy": Strategy}
    for name, kind in kinds.items():
        if not isinstance(getattr(search, name), kind):
            raise UserError(f"{name} {shown(getattr(search, name))} is not possible; give a `{kind.__name__}`")
    if not isinstance(search.optimizer, optax.GradientTransformation | optax.MultiSteps | None):
        raise UserError(f"optimizer {shown(search.optimizer)} is not possible; give one of optax, or None")
    if not isinstance(search.budget, Mapping):
        raise UserError(f'budget {shown(search.budget)} does not say of what; give {{"macs": 0.5}}, say')
    budgets.check(search.budget)


def check_arguments(search: Any) -> None:
    """Refuse arguments of `Search` that are outside their range, and budgets on what the space does not have.

    Raises:
      UserError: one of them is.
    """
    costs = search.space.costs
    if set(search.budget) - set(costs) or not search.budget:
        unknown = sorted(map(str, set(search.budget) - set(costs)))
        why = [f" ({search.space.uncounted[name]})" for name in unknown if name in search.space.uncounted]
        raise UserError(
            f"budget on {unknown or 'nothing'}{''.join(why[:1])}: give one on {' or '.join(costs)}, or on several"
        )
    if search.resource_weight is not None:
        checks.number("resource_weight", search.resource_weight, "[0, inf)")
    checks.whole("accumulate", search.accumulate, 1)


def check_state(state: Any) -> None:
    """Refuse what is no state of a search.

    Raises:
      UserError: it is something else.
    """
    if not isinstance(state, SearchState):
        raise UserError(f"state {shown(state)} is not possible; give what `Search.init` or `Search.step` returned")


def checked_key(key: Any) -> jax.Array:
    """A single key for random numbers, of `jax.random.key` or `PRNGKey`.

    Raises:
      UserError: it is something else.
    """
    dtype, shape = getattr(key, "dtype", None), getattr(key, "shape", None)
    single = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key) and shape == ()
    if not single and not (dtype == jnp.uint32 and shape is not None and len(shape) == 1):
        raise UserError(f"key {shown(key)} is not possible; give one of jax.random.key(seed)")
    return key


def check_finite(state: SearchState, weights: Any) -> None:
    """Refuse a state of a search that diverged.

    Raises:
      UserError: weights, ratios or importances are not finite.
    """
    for what, tree in {"weights": weights, "ratios": state.ratios, "importances": state.importance}.items():
        if not bool(_all_finite(tree)):
            raise UserError(f"the {what} are not finite after step {int(state.step)}: the search diverged")


@jax.jit
def _all_finite(tree: Any) -> jax.Array:
    """Whether every number of a tree is finite, wherever it lies."""
    return jnp.all(jnp.array([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)], bool))


def check_informed(structure: Structure, uninformative: Iterable[str], steps: int) -> None:
    """Refuse a structure that drops elements of which nothing is known.

    Args:
      structure: what a search found.
      uninformative: groups whose importances are all equal.
      steps: of the search, for the message.

    Raises:
      UserError: one of these groups loses some of its elements, and not with a block that goes.
    """
    for name in uninformative:
        if 0 < len(structure.kept[name]) < structure.sizes[name] and name not in structure.removed:
            raise UserError(
                f"nothing was learned of which elements of group {name!r} matter: their importances are all equal "
                f"after {steps} steps; does the loss depend on them? Or freeze the group: Limits(freeze=({name!r},))"
            )
