"""What a search refuses, each with one line: arguments of another kind, and results that mean nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from dms_jax import budgets, checks
from dms_jax.errors import UserError, one_line, shortened
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
        if not search.strategy.learned:
            raise UserError(
                f"{search.strategy.title} has no parameters that a resource loss moves; leave `resource_weight` out"
            )
    checks.whole("accumulate", search.accumulate, 1)


def check_state(state: Any) -> None:
    """Refuse what is no state of a search.

    Raises:
      UserError: it is something else.
    """
    if not isinstance(state, SearchState):
        raise UserError(f"state {shown(state)} is not possible; give what `Search.init` or `Search.step` returned")


def check_state_of(search: Any, state: Any) -> None:
    """Refuse what is no state of this very search: of other groups, budgets or structure parameters.

    Raises:
      UserError: it is something else.
    """
    check_state(state)
    ratios = jax.eval_shape(lambda: search.strategy.init(search.layout))
    moments = jax.eval_shape(search._movement.optimizer.init, ratios)
    array = partial(jax.ShapeDtypeStruct, dtype=jnp.float32)
    expected = {
        "importance": {name: array((group.size,)) for name, group in search.space.groups.items()},
        "weights": {name: array(()) for name in search.targets},
        "ratios": ratios,
        "ratio_opt_state": moments,
    }
    for name, tree in expected.items():
        there = getattr(state, name)
        if jax.tree.structure(there) != jax.tree.structure(tree) or _shapes(there) != _shapes(tree):
            raise UserError(
                f"the state is of another search ({name}: {_words(there)} there, {_words(tree)} here); give what this "
                "search's `init` or `step` returned"
            )


def _shapes(tree: Any) -> list[tuple[int, ...]]:
    return [tuple(getattr(leaf, "shape", ())) for leaf in jax.tree.leaves(tree)]


def _words(tree: Any) -> str:
    """`up 24, down 16`, of a mapping; else the shapes of its arrays, behind its type where that is a user's."""
    if isinstance(tree, Mapping):
        shapes = {name: "x".join(map(str, _shapes(leaf)[0])) for name, leaf in tree.items()}
        return shortened(", ".join(f"{name} {shape}".rstrip() for name, shape in shapes.items()), 200)
    kind = "" if jax.tree_util.all_leaves([tree]) else f"{type(tree).__name__} of "
    return shortened(kind + ", ".join(str(list(shape)) for shape in _shapes(tree)), 200)


def explaining(run: Callable[..., Any]) -> Callable[..., Any]:
    """A function whose failure says what to do where arrays lie on a mesh of explicit axes, `jax.make_mesh`'s usual.

    What is masked is the program of arrays that are not cut; where an axis is explicit, cut arrays have other types.
    """

    def explained(*args: Any) -> Any:
        try:
            return run(*args)
        except UserError:
            raise
        except Exception as error:
            meshes = [getattr(getattr(jax.typeof(x), "sharding", None), "mesh", None) for x in jax.tree.leaves(args)]
            axes = dict.fromkeys(axis for mesh in meshes if mesh is not None for axis in mesh.explicit_axes)
            if not axes:
                raise
            raise UserError(
                f"the loss cannot be masked with arrays on a mesh of explicit axes, {', '.join(map(str, axes))} "
                f"({one_line(error, 200)}); make the mesh with axis_types=(jax.sharding.AxisType.Auto,) * {len(axes)}"
            ) from error

    return explained


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
