"""How weights move: by whatever optimizer a user chose, in a search as in any other training."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import jax
import optax
import optax.contrib

from dms_jax import checks
from dms_jax.errors import UserError, one_line
from dms_jax.partition import combine
from dms_jax.reading import shown


def optimizer_of(given: Any) -> optax.GradientTransformation:
    """What was given as an optimizer, as optax's transformations are; `optax.MultiSteps` is none until it is asked.

    Raises:
      UserError: it is something else.
    """
    if isinstance(given, optax.MultiSteps):
        return given.gradient_transformation()
    if not isinstance(given, optax.GradientTransformation):
        raise UserError(f"optimizer {shown(given)} is not possible; give one of optax, such as optax.adamw(1e-3)")
    return given


def of_steps(make: Any) -> Callable[[int], Any]:
    """A function from a number of steps to an optimizer; one from a learning rate, `optax.adam`, is none.

    Raises:
      UserError: it takes something else, such as a rate: that would be the number of steps.
    """
    checks.called("optimizer", make, "steps")
    try:
        first = next(iter(inspect.signature(make).parameters), "")
    except (TypeError, ValueError):  # a function without a signature to look at
        return make
    if first in ("learning_rate", "lr", "rate"):
        name = getattr(make, "__name__", "it")
        raise UserError(
            f"optimizer {name} takes a {first}, and would be called with a number of steps; give {name}(1e-3), say, or "
            f"lambda steps: {name}(a schedule of so many)"
        )
    return make


def begun(optimizer: optax.GradientTransformation | None, weights: Any) -> Any:
    """The state of an optimizer before its first step.

    Args:
      optimizer: any; None: weights stay, and there is none.
      weights: what is trained, in the whole tree: None elsewhere.

    Raises:
      UserError: it is made for another tree, such as one collection alone.
    """
    if optimizer is None:
        return ()
    try:
        return optimizer.init(weights)
    except Exception as error:  # whatever an optimizer raises that is told of another tree
        raise UserError(
            f"the optimizer cannot begin with what is trained ({one_line(error, 300)}); it is given the whole tree of "
            "parameters, None where nothing is trained: labels and masks are of that tree, or functions of it"
        ) from error


def evaluated(state: Any, params: Any) -> Any:
    """Parameters as their optimizer means them to be used, which need not be where it takes its gradients.

    A schedule-free one trains y = (1 - b) z + b x, and x is the result (Defazio et al. 2024, arXiv 2405.15682).

    Args:
      state: of the optimizer.
      params: y, the whole tree.
    """
    free = optax.contrib.ScheduleFreeState
    found = [s for s in jax.tree.leaves(state, is_leaf=lambda s: isinstance(s, free)) if isinstance(s, free)]
    none = {"is_leaf": lambda x: x is None}
    if len(found) != 1 or jax.tree.structure(found[0].z, **none) != jax.tree.structure(params, **none):
        return params
    trained = jax.tree.map(lambda z, y: None if z is None else y, found[0].z, params, **none)
    return combine(optax.contrib.schedule_free_eval_params(found[0], trained), params)


def moved(
    optimizer: optax.GradientTransformation, gradient: Any, state: Any, weights: Any, loss: jax.Array
) -> tuple[Any, Any]:
    """One step of an optimizer: the new weights, and its new state.

    Args:
      optimizer: it may ask for the value of the loss, as `optax.contrib.reduce_on_plateau` and `optax.polyak_sgd` do.
      gradient, weights: of what is trained.
      state: its own.
      loss: of the step, a scalar.

    Raises:
      UserError: it asks for more, such as a function to search along a line.
    """
    try:
        updates, state = optax.with_extra_args_support(optimizer).update(gradient, state, weights, value=loss)
    except (TypeError, ValueError) as error:
        if not any(said in str(error) for said in ("required keyword-only argument", "must be provided")):
            raise
        raise UserError(
            f"the optimizer asks for more than gradient, weights and loss ({one_line(error)}); give one that does "
            "without: optax.lbfgs(1e-2, linesearch=None), say"
        ) from error
    return optax.apply_updates(weights, updates), state
