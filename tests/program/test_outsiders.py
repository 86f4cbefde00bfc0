"""Programs as outside users write them: masked == shrunk in values and gradients, costs == a count, refusals that help."""

import re
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import jax
import jax.lax as lax
import jax.numpy as jnp
import numpy as np
import pytest

import dms_jax
from dms_jax import SearchSpace, TracingError, UserError
from tests.counting import multiply_adds, random_structure
from tests.helpers import FLOAT32_GRADIENTS, FLOAT32_LOGITS
from tests.laws.checking import (
    Case,
    case_program,
    close,
    costs_are_counted,
    folded_is_inserted,
    joined,
    least,
    parted,
    smooth,
)
from tests.program.outsiders import numbers, places, program, promoting, reading, running

PROGRAMS = {**reading.TABLE, **places.TABLE, **running.TABLE}
HERE = Path(__file__).name


def values_and_gradients(case, function, *more):
    """What a function `(params, *more, *inputs)` gives, and its gradients by all trained arrays."""

    def loss(trained, rest, *args):
        found = function(case.space.parameters.tree(joined(trained, rest)), *args)
        return smooth(found), found

    run = jax.jit(jax.grad(loss, has_aux=True))
    return lambda arrays, *args: run(*parted(case.space, arrays), *args, *case.inputs)


def check(case, plain, backward=True, inserted=True):
    """The laws, for a random structure and the least one."""
    space = case.space
    structures = [random_structure(space.groups, 0), least(space)]
    for kept in structures:
        costs_are_counted(case, kept, shared=True)
        if plain and "macs" in space.costs and not space.gone(space.kept(kept)):
            assert space.resources(kept)["macs"] == multiply_adds(
                case_program(space, case.fn), case.small(kept), *case.inputs
            )
    if not backward:
        masked = case.jitted(space.masked(case.fn))
        close(masked(case.arrays, space.masks(), *case.inputs), case.jitted(case.fn)(case.arrays, *case.inputs), 1e-6)
        for kept in structures:
            small = case.jitted(space.shrunk(case.fn, kept))(case.small(kept), *case.inputs)
            close(small, masked(case.arrays, space.masks(kept), *case.inputs), FLOAT32_LOGITS)
        return
    masked = values_and_gradients(case, space.masked(case.fn))
    gradients, found = masked(case.arrays, space.masks())
    gradients_fn, found_fn = values_and_gradients(case, case.fn)(case.arrays)
    close(found, found_fn, FLOAT32_LOGITS)
    close(gradients, gradients_fn, FLOAT32_GRADIENTS)
    for kept in structures:
        gradients, found = masked(case.arrays, space.masks(kept))
        gradients_small, small = values_and_gradients(case, space.shrunk(case.fn, kept))(case.small(kept))
        close(small, found, FLOAT32_LOGITS)
        sliced = dms_jax.shrink(space, space.parameters.tree(gradients), kept)
        close(gradients_small, space.parameters.arrays(sliced), 10 * FLOAT32_GRADIENTS)
        if plain and not space.gone(space.kept(kept)):
            close(case.jitted(case.fn)(case.small(kept), *case.inputs), small, FLOAT32_LOGITS)
    if inserted:
        folded_is_inserted(case)


@pytest.mark.parametrize("name", PROGRAMS)
def test_laws(name):
    outsider = PROGRAMS[name]
    case = outsider.case()
    assert dict(outsider.groups) == {name: group.size for name, group in case.space.groups.items()}
    check(case, outsider.plain, outsider.backward, outsider.inserted)
