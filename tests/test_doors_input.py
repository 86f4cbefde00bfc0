"""Whatever stands in the place of an argument of a public door: it is taken, or refused in one line."""

# arguments are wrong on purpose:
# pyright: reportArgumentType=false

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dms_jax
from dms_jax import Importance, Limits, Schedule, Search, SearchSpace, Structure, UserError, models, shrink
from dms_jax.baselines import strategies

PARAMS = {"a": jnp.ones((4, 8)), "b": jnp.ones((8, 2))}
X = jnp.ones((3, 4))


def network(params, x):
    return jax.nn.relu(x @ params["a"]) @ params["b"]


SPACE = SearchSpace.from_function(network, PARAMS, X)
(GROUP,) = SPACE.groups
HALF = SPACE.structure({GROUP: range(4)})
SEARCH = {
    "space": SPACE,
    "loss": lambda params, batch, key: jnp.mean(network(params, batch)),
    "optimizer": optax.sgd(0.1),
    "budget": {"macs": 0.5},
    "steps": 20,
}
READY = Search(**SEARCH)


class Odd:
    """Nothing that anything knows."""


SIMPLE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 40),
    st.integers(),
    st.floats(),
    st.complex_numbers(),
    st.text(max_size=8),
    st.binary(max_size=4),
    st.just(Odd()),
    st.sampled_from([np.float32(math.nan), np.int64(3), np.array([1, 2]), np.zeros(8), 10**30]),
    st.sampled_from(["macs", "params", GROUP, "a", "*"]),
)
VALUES = st.one_of(
    SIMPLE,
    st.lists(SIMPLE, max_size=3),
    st.lists(SIMPLE, max_size=3).map(tuple),
    st.dictionaries(st.one_of(st.text(max_size=4), st.sampled_from([GROUP, "macs", "a", "b"])), SIMPLE, max_size=3),
    st.dictionaries(st.integers(0, 3), SIMPLE, max_size=2),
    st.lists(SIMPLE, max_size=3).map(lambda kept: {GROUP: kept}),
)

DOORS = {
    "space.structure": SPACE.structure,
    "space.masks": SPACE.masks,
    "space.resources": SPACE.resources,
    "space.explain": SPACE.explain,
    "space.masked": SPACE.masked,
    "masks of masked": lambda v: SPACE.masked(network)(PARAMS, v, X),
    "parameters of masked": lambda v: SPACE.masked(network)(v, SPACE.masks(HALF), X),
    "masks of fold": lambda v: SPACE.fold(PARAMS, v),
    "function of shrunk": lambda v: SPACE.shrunk(v, HALF),
    "structure of shrunk": lambda v: SPACE.shrunk(network, v),
    "structure of shrink": lambda v: shrink(SPACE, PARAMS, v),
    "structure of verify": lambda v: SPACE.verify(PARAMS, v, X),
    "parameters of verify": lambda v: SPACE.verify(v, HALF, X),
    "function": lambda v: v if callable(v) else SearchSpace.from_function(v, PARAMS, X),
    "also": lambda v: SearchSpace.from_function(network, PARAMS, X, also=v),
    "tie": lambda v: SearchSpace.from_function(network, PARAMS, X, tie=v),
    "unroll": lambda v: SearchSpace.from_function(network, PARAMS, X, unroll=v),
    "include": lambda v: SearchSpace.from_function(network, PARAMS, X, include=v),
    "freeze": lambda v: SearchSpace.from_function(network, PARAMS, X, freeze=v),
    "blocks": lambda v: SearchSpace.from_function(network, PARAMS, X, blocks=v),
    "trainable": lambda v: SearchSpace.from_function(network, PARAMS, X, trainable=v),
    "Search.init": READY.init,
    "Search.masks": READY.masks,
    "Search.reached": READY.reached,
    "Search.structure": READY.structure,
    "Structure": Structure,
    "load": lambda v: dms_jax.load(v) if not isinstance(v, str) else None,
    "models.create": models.create,
}
DOORS |= {f"Search({name})": lambda v, name=name: Search(**{**SEARCH, name: v}) for name in SEARCH}
DOORS |= {
    f"Search({name})": lambda v, name=name: Search(**SEARCH, **{name: v})
    for name in ("limits", "importance", "strategy", "resource_weight", "accumulate")
}
DOORS |= {
    f"{kind.__name__}({f.name})": lambda v, kind=kind, f=f: kind(
        **{**({"steps": 20} if kind is Schedule else {}), f.name: v}
    )
    for kind in (*strategies().values(), Importance, Limits, Schedule)
    for f in dataclasses.fields(kind)
    if f.init
}


@pytest.mark.parametrize("door", DOORS.values(), ids=DOORS)
@settings(max_examples=25)
@given(value=VALUES)
def test_anything_is_taken_or_refused_in_one_line(door, value):
    try:
        door(value)
    except UserError as error:
        assert str(error) and "\n" not in str(error) and len(str(error)) < 600


@pytest.mark.parametrize("name", ["tie", "include", "freeze", "blocks", "unroll"])
def test_one_text_is_one_pattern_not_its_letters(name):
    with pytest.raises(UserError, match=r"'\*zz'|nothing|no residual"):
        SearchSpace.from_function(network, PARAMS, X, **{name: "*zz"})


def test_parameters_of_other_shapes_are_refused():
    wide = {"a": jnp.ones((4, 16)), "b": jnp.ones((16, 2))}
    for door in (
        READY.init,
        lambda p: SPACE.masked(network)(p, SPACE.masks(HALF), X),
        lambda p: SPACE.verify(p, HALF, X),
        lambda p: SPACE.fold(p, SPACE.masks(HALF)),
    ):
        with pytest.raises(UserError, match=r"a has shape \(4, 16\), the full network's \(4, 8\)"):
            door(wide)
        with pytest.raises(UserError, match="b is missing"):
            door({"a": PARAMS["a"]})


def test_masks_of_other_groups_or_sizes_are_refused():
    with pytest.raises(UserError, match="no group of"):
        SPACE.masked(network)(PARAMS, {"strange": jnp.ones(8)}, X)
    for wrong in (jnp.ones(1), jnp.ones(()), jnp.ones(9), jnp.ones((8, 1))):
        with pytest.raises(UserError, match="one number an element"):
            SPACE.masked(network)(PARAMS, {GROUP: wrong}, X)
