"""What holds for a network that comes through its framework's door: no marks, no change, no help."""

from collections.abc import Callable
from typing import Any

import jax

from dms_jax import SearchSpace
from tests.counting import random_structure
from tests.laws.checking import Case, costs_are_counted, least, masked_training_is_shrunk
from tests.networks.network import relaxed

TOLERANCE = 2e-5
"""Of `verify`, in units of the outputs: float32 sums in another order."""


def hold(
    space: SearchSpace,
    params: Any,
    inputs: tuple[Any, ...],
    groups: dict[str, int],
    train: Callable[..., Any] | None = None,
) -> None:
    """The groups are these; masked == small in values, gradients and new state; costs are a count.

    Args:
      space: from the framework's door, of the full network.
      params: of it, random.
      inputs: arrays.
      groups: name -> elements.
      train: `(params, *inputs, key) -> (outputs, new state)`: the user's own training program, which the space was not
        told of. None: inference stands in for it.
    """
    assert {name: group.size for name, group in space.groups.items()} == groups
    case = Case(relaxed(space.fn), space, params, inputs, None if train is None else relaxed(train))
    kept = random_structure(space.groups, 1)
    costs_are_counted(case, kept, shared=True)
    masked_training_is_shrunk(case, kept)
    smallest = least(space)
    small = case.jitted(relaxed(space.shrunk(space.fn, smallest)))(case.small(smallest), *inputs)
    size = max(1.0, *(float(abs(x).max()) for x in jax.tree.leaves(small)))
    assert relaxed(space.verify)(params, smallest, *inputs) < TOLERANCE * size
