"""A group that fails the check of a space is left alone, with the reason; the space has the others, checked again."""

# Functions take trees of numbers: pyright: reportArgumentType=false, reportIndexIssue=false

from pathlib import Path

import chex
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import pytest
from hypothesis import given, settings
from jax.experimental.ode import odeint

import dms_jax
from dms_jax import SearchSpace, TracingError, UserError
from dms_jax.program.operations import OPERATIONS, Operation
from tests.helpers import FLOAT32_GRADIENTS, FLOAT32_LOGITS
from tests.program.outsiders import numbers

HERE = Path(__file__).name
NAMES = ("a", "b", "c")


def refusing(sizes, step, arrays):
    raise NotImplementedError("this one\nruns at no other size")


def as_large_as_ever(sizes, step, arrays):
    (x,), shape = arrays, step.eqn.outvars[0].aval.shape
    return [jnp.zeros(shape, x.dtype).at[tuple(slice(n) for n in x.shape)].set(x)]


def second_thoughts():
    """Axes that are free when they are read first, and no more when they are read again."""
    seen = set()

    def axes(t, eqn, ins):
        if eqn in seen:
            t.freeze(*ins[0])
        seen.add(eqn)
        return [ins[0]]

    return axes


def free(t, eqn, ins):
    return [ins[0]]


FAULTS = {
    "refused": lambda: Operation(free, apply=refusing),
    "too large": lambda: Operation(free, apply=as_large_as_ever),
    "read otherwise": lambda: Operation(second_thoughts()),
}


def network(doubtful, p, x):
    """A chain of layers, some of which have an operation that the engine is told wrong of; and a residual branch."""
    for name in NAMES:
        x = x @ p[name]
        x = jnp.tan(x) if name in doubtful else jnp.tanh(x)
        x = x @ p[f"after {name}"]
        x = x + jnp.tanh(x @ p["up"]) @ p["down"]
    return x @ p["head"]


def shapes():
    around = {name: (4, 5 + i) for i, name in enumerate(NAMES)} | {"up": (4, 3), "down": (3, 4), "head": (4, 2)}
    return around | {f"after {name}": (5 + i, 4) for i, name in enumerate(NAMES)}


@pytest.mark.parametrize("fault", FAULTS)
@settings(max_examples=4)
@given(st.sets(st.sampled_from(NAMES), min_size=1))
def test_others_are_searched(fault, doubtful):
    params, x = numbers(shapes()), numbers({"x": (3, 4)})["x"]
    fn = lambda p, x: network(doubtful, p, x)  # noqa: E731
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(OPERATIONS, "tan", FAULTS[fault]())
        space = SearchSpace.from_function(fn, params, x)
        assert set(space.left) >= doubtful and not doubtful & set(space.groups)
        assert set(NAMES) - doubtful < set(space.groups)
        for name in doubtful:
            why = space.left[name]
            assert "check of its smaller network" in why and "\n" not in why and "`also=`" not in why
            assert f"group {name!r}" not in why
            assert fault == "too large" or "tan at " in why and HERE in why
            assert why in space.summary()
        again = SearchSpace.from_function(fn, params, x, freeze=tuple(doubtful))
        assert space.groups == again.groups and space.resources() == again.resources()
        kept = {name: range(1, group.size, 2) for name, group in space.groups.items()}
        assert space.verify(params, kept, x) < FLOAT32_LOGITS


@pytest.mark.parametrize("fault", FAULTS)
def test_nothing_is_left(fault, monkeypatch):
    monkeypatch.setitem(OPERATIONS, "tan", FAULTS[fault]())
    params, x = numbers({"a": (4, 6), "head": (6, 2)}), jnp.ones((3, 4))
    with pytest.raises(UserError, match="nothing to search.* a: the check of its smaller network fails"):
        SearchSpace.from_function(lambda p, x: jnp.tan(x @ p["a"]) @ p["head"], params, x)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_group_that_is_named_is_not_left_alone(fault, monkeypatch):
    """Who names a group wants it searched."""
    monkeypatch.setitem(OPERATIONS, "tan", FAULTS[fault]())
    params, x = numbers({"a": (4, 6), "b": (6, 5), "head": (5, 2)}), jnp.ones((3, 4))

    def fn(p, x):
        x = jnp.tanh(dms_jax.name(jnp.tan(x @ p["a"]), "mine"))
        return jnp.tanh(x @ p["b"]) @ p["head"]

    with pytest.raises(TracingError, match="group 'mine'"):
        SearchSpace.from_function(fn, params, x)


def settle(w, x):
    """x <- tanh(x w + x) until it no longer changes much."""
    more = lambda state: (state[1] > 1e-3) & (state[2] < 5)  # noqa: E731

    def step(state):
        x, _, i = state
        new = jnp.tanh(x @ w + x)
        return new, jnp.abs(new - x).max(), i + 1

    return jax.lax.while_loop(more, step, (x, jnp.inf, 0))[0]


settled, settled_ahead = jax.custom_vjp(settle), jax.custom_jvp(settle)
settled.defvjp(lambda w, x: (settled(w, x), (w, x)), lambda saved, t: (saved[0] * t.sum(), t))


settled_ahead.defjvp(lambda given, t: (settled_ahead(*given), t[1] + given[0].sum() * t[0].sum()))


def integrated(w, x):
    return odeint(lambda x, t: jnp.tanh(x @ w), x, jnp.array([0.0, 0.5]))[-1]


@pytest.mark.parametrize("solve", [settled, settled_ahead, integrated])
def test_masks_that_no_gradient_reaches(solve):
    """The state of an adaptive solver is left alone as soon as the space is made; what is around it is searched."""
    params = numbers({"in": (4, 5), "state": (5, 6), "w": (6, 6), "after": (6, 7), "head": (7, 2)})
    x = jnp.ones((3, 4))

    def fn(p, x):
        x = solve(p["w"] / 4, jnp.tanh(x @ p["in"]) @ p["state"])
        return jnp.tanh(x @ p["after"]) @ p["head"]

    space = SearchSpace.from_function(fn, params, x)
    assert set(space.groups) == {"in", "after"}
    (why,) = [why for why in space.left.values() if "its own" in why and "differentiated" in why]
    assert HERE in why and why.endswith("use `jax.lax.scan` inside") and "`freeze=`" not in why
    assert "Try using lax.scan, or using fori_loop with static start/stop." in why
    masks = {name: jnp.linspace(0.3, 0.9, group.size) for name, group in space.groups.items()}

    def by_hand(p, masks):
        p = p | {"state": masks["in"][:, None] * p["state"], "head": masks["after"][:, None] * p["head"]}
        return jnp.sin(fn(p, x)).sum()

    def searched(p, masks):
        return jnp.sin(space.masked(fn)(p, masks, x)).sum()

    got, expected = (jax.jit(jax.grad(loss, argnums=(0, 1)))(params, masks) for loss in (searched, by_hand))
    chex.assert_trees_all_close(got, expected, rtol=1e-3, atol=FLOAT32_GRADIENTS)
    kept = {"in": (0, 3), "after": (1, 2, 6)}
    assert space.verify(params, kept, x) < FLOAT32_LOGITS
