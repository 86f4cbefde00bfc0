"""States of every optimizer of optax that can be made with a rate alone: sliced, or refused with what to do."""

import inspect

import chex
import jax
import jax.numpy as jnp
import optax
import optax.contrib
import pytest

import dms_jax
from dms_jax import SearchSpace, UserError

PARAMS = {"up": jnp.ones((5, 12)), "bias": jnp.ones(12), "down": jnp.ones((12, 3))}
KEPT = (0, 2, 5, 6, 7, 9, 11)
PROJECTED = {"galore", "scale_by_galore"}
"""Those that keep moments in a subspace of a kernel's, which no axis of the kernel says how to slice."""


def _made(function):
    """An optimizer by default; None where it needs more than a rate, or is none."""
    for arguments in ((), (1e-2,)):
        try:
            optimizer = function(*arguments)
            optimizer.init(PARAMS)
        except Exception:  # functions of all kinds, called without what they need
            continue
        return optimizer
    return None


FOUND = {
    f"{module.__name__}.{name}": made
    for module in (optax, optax.contrib)
    for name, function in inspect.getmembers(module, inspect.isfunction)
    if not name.startswith("_") and (made := _made(function)) is not None
}


def test_they_are_found():
    assert len(FOUND) > 80 and {"optax.adamw", "optax.lbfgs", "optax.contrib.galore"} <= set(FOUND)


@pytest.fixture(scope="module")
def space():
    def net(params, x):
        return jnp.tanh(x @ params["up"] + params["bias"][None]) @ params["down"]

    return SearchSpace.from_function(net, PARAMS, jax.ShapeDtypeStruct((2, 5), jnp.float32))


@pytest.mark.parametrize("name", FOUND)
def test_state(name, space):
    structure = space.structure({"up": KEPT})
    small, state = dms_jax.shrink(space, PARAMS, structure), FOUND[name].init(PARAMS)
    if name.rpartition(".")[2] in PROJECTED:
        with pytest.raises(UserError, match=r"start an optimizer of such states anew, optimizer.init\(small"):
            dms_jax.shrink(space, state, structure)
        return
    chex.assert_trees_all_equal_shapes_and_dtypes(dms_jax.shrink(space, state, structure), FOUND[name].init(small))
