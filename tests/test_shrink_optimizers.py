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
from dms_jax.method import weights

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


EVALUATING = {
    "lbfgs",
    "scale_by_zoom_linesearch",
    "scale_by_backtracking_linesearch",
    "sophia",
    "hutchinson_estimator_diag_hessian",
}
"""Those that evaluate the loss at other weights than those of the step, or differentiate it again."""
PIECES = {"scale_by_schedule", "stateless", "stateless_with_tree_map", "scale_by_muon"}
"""Those that can be made with a rate in the place of something else, and then do nothing."""


@pytest.mark.parametrize("name", [*(n for n in FOUND if n.rpartition(".")[2] not in PIECES), "value"])
def test_a_step_of_each(name):
    """Each gets what it asks for beside the gradient, as far as a step knows it; more is refused in a line."""
    more = optax.chain(optax.adam(0.1), optax.contrib.reduce_on_plateau(), optax.scale_by_polyak())
    optimizer = FOUND.get(name, more)

    def step(params, loss):
        with jax.numpy_rank_promotion("allow"):  # which some of optax rely on
            return weights.moved(optimizer, params, optimizer.init(params), params, loss)

    if name.rpartition(".")[2] in EVALUATING:
        with pytest.raises(UserError, match="asks for more than gradient, weights and loss .*without: optax") as error:
            jax.eval_shape(step, PARAMS, jnp.float32(1))
        assert "\n" not in str(error.value)
        return
    moved, state = jax.eval_shape(step, PARAMS, jnp.float32(1))
    chex.assert_trees_all_equal_shapes(moved, PARAMS)
    chex.assert_trees_all_equal_shapes(state, optimizer.init(PARAMS))
