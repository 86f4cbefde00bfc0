"""A group of several parts under one name, of which a structure may leave some empty."""

# Functions take trees of numbers: pyright: reportArgumentType=false, reportIndexIssue=false

from pathlib import Path

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

import dms_jax
from dms_jax import SearchSpace, TracingError
from tests.helpers import FLOAT32_LOGITS
from tests.program.outsiders import numbers

HERE = Path(__file__).name
NEEDY = {
    "max": lambda y: jnp.max(y, -1, keepdims=True),
    "min": lambda y: jnp.min(y, -1, keepdims=True),
    "mean": lambda y: jnp.mean(y, -1, keepdims=True),
    "softmax": lambda y: jnp.sum(jax.nn.softmax(y) * y, -1, keepdims=True),
    "running": lambda y: jnp.sum(jax.lax.cummax(y, axis=1), -1, keepdims=True),
    "logsumexp": lambda y: jax.nn.logsumexp(y, axis=-1, keepdims=True),
    "shares": lambda y: jnp.sum(y**3 / jnp.sum(y * y, -1, keepdims=True), -1, keepdims=True),
    "direction": lambda y: jnp.sum(y / jnp.linalg.norm(y, axis=-1, keepdims=True), -1, keepdims=True),
    "inverse root": lambda y: jnp.sum(y, -1, keepdims=True) * jax.lax.rsqrt(2.0 * jnp.sum(y * y, -1, keepdims=True)),
    "logarithm": lambda y: jnp.log(jnp.einsum("bi,bi->b", y, y))[:, None],
}
FREE = {
    "divided by more": lambda y: jnp.sum(y, -1, keepdims=True) / (1.0 + jnp.sum(y * y, -1, keepdims=True)),
    "divided by no less": lambda y: jnp.sum(y, -1, keepdims=True) / jnp.maximum(jnp.sum(y * y, -1, keepdims=True), 0.1),
    "sum": lambda y: jnp.sum(y, -1, keepdims=True),
    "product": lambda y: jnp.prod(y, -1, keepdims=True),
    "norm": lambda y: jnp.sqrt(jnp.sum(y * y, -1, keepdims=True) + 1e-6),
}
SIZES = st.lists(st.integers(2, 4), min_size=2, max_size=3)


def network(sizes, reduced, read, names):
    """Layers side by side, of which some neighbours are read together once more; one name for all, or one each."""
    bounds = np.cumsum([0, *sizes])
    start, stop = bounds[reduced[0]], bounds[reduced[1]]

    def fn(p, x):
        parts = [jnp.tanh(x @ p[f"in{i}"]) for i in range(len(sizes))]
        if names == "each":
            parts = [dms_jax.name(part, f"part{i}") for i, part in enumerate(parts)]
        y = jnp.concatenate(parts, -1)
        if names == "one":
            y = dms_jax.name(y, "all")
        return y @ p["out"] + read(y[:, start:stop])

    shapes = {f"in{i}": (3, n) for i, n in enumerate(sizes)} | {"out": (int(bounds[-1]), 2)}
    return fn, numbers(shapes), numbers({"x": (5, 3)})["x"]


def some_neighbours(draw, sizes):
    first = draw.draw(st.integers(0, len(sizes) - 1))
    return first, draw.draw(st.integers(first + 1, len(sizes)))


@pytest.mark.parametrize("kind", NEEDY)
@settings(max_examples=6)
@given(sizes=SIZES, draw=st.data())
def test_what_needs_a_position_of_a_part(kind, sizes, draw):
    """Refused where the part may be emptied; under names of their own, or read as a whole, everything holds."""
    reduced = some_neighbours(draw, sizes)
    fn, params, x = network(sizes, reduced, NEEDY[kind], "one")
    if reduced[1] - reduced[0] == len(sizes):
        space = SearchSpace.from_function(fn, params, x)
        assert space.verify(params, {"all": [sum(sizes) - 1]}, x) < FLOAT32_LOGITS
    else:
        with pytest.raises(TracingError, match="group 'all'.*over a part of it.*names of their own") as caught:
            SearchSpace.from_function(fn, params, x)
        assert HERE in str(caught.value) and "\n" not in str(caught.value)
    fn, params, x = network(sizes, reduced, NEEDY[kind], "each")
    space = SearchSpace.from_function(fn, params, x)
    assert space.verify(params, {name: [0] for name in space.groups}, x) < FLOAT32_LOGITS


@pytest.mark.parametrize("kind", FREE)
@settings(max_examples=6)
@given(sizes=SIZES, draw=st.data())
def test_what_needs_none(kind, sizes, draw):
    """A sum over nothing is 0, a product 1: a part may go."""
    fn, params, x = network(sizes, some_neighbours(draw, sizes), FREE[kind], "one")
    space = SearchSpace.from_function(fn, params, x)
    part = draw.draw(st.integers(0, len(sizes) - 1))
    bounds = np.cumsum([0, *sizes])
    kept = {"all": [i for i in range(sum(sizes)) if not bounds[part] <= i < bounds[part + 1]]}
    assert space.verify(params, kept, x) < FLOAT32_LOGITS


def test_a_part_that_cannot_be_emptied():
    """A group that keeps more than its other parts hold leaves something of this one."""
    from dms_jax.program.axes import Atom, Concat
    from dms_jax.program.emptied import _emptied

    a, b, other = Atom(4), Atom(3), Atom(2)
    several = {"g": [a, b]}
    assert _emptied(a, several, {"g": 1}) == ["g"] and _emptied(a, several, {"g": 3}) == ["g"]
    assert _emptied(a, several, {"g": 4}) == [] and _emptied(b, several, {"g": 4}) == ["g"]
    assert _emptied(Concat((a, b)), several, {"g": 1}) == []
    assert _emptied(Concat((a, other)), several, {"g": 1}) == []
