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


def loss_with(more):
    search = Search(SPACE, lambda p, x, key: (jnp.mean(network(p, x)), more), optax.sgd(0.1), {"macs": 0.5}, steps=20)
    return search.step(search.init(PARAMS), X, jax.random.key(0))


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
    "state of Search.step": lambda v: READY.step(v, X, jax.random.key(0)),
    "key of Search.step": lambda v: READY.step(READY.init(PARAMS), X, v),
    "axes of register_operation": lambda v: dms_jax.register_operation("tests_door", v),
    "metrics of a loss": lambda v: loss_with({"metrics": v}),
    "state of a loss": lambda v: loss_with({"state": v}),
    "more of a loss": loss_with,
    "space of shrink": lambda v: shrink(v, PARAMS, HALF),
    "paths of from_function": lambda v: SearchSpace.from_function(network, PARAMS, X, paths=v),
    "tree of shrink": lambda v: shrink(SPACE, v, HALF),
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


def test_marks_of_another_tree_are_refused():
    """Two leaves each: by their order they would be taken for what they are not."""
    for wrong in ({"b": True, "c": False}, [True, False], {"a": 1, "b": 0}, {"a": "yes", "b": None}):
        with pytest.raises(UserError, match="give a tree like them|give True or False"):
            SearchSpace.from_function(network, PARAMS, X, trainable=wrong)
    space = SearchSpace.from_function(network, PARAMS, X, trainable={"a": None, "b": True})
    assert space.parameters.trained == (False, True)


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


@pytest.mark.parametrize("name", ["loss", "macs", "macs_target", "weight_macs", "importance_skipped"])
def test_a_metric_does_not_hide_another(name):
    with pytest.raises(UserError, match=f"a metric {name!r}; the step has one of that name"):
        loss_with({"metrics": {name: 1.0}})


@pytest.mark.parametrize("primitive", [3, "", None, b"x"])
def test_what_is_no_primitive_is_not_registered(primitive):
    with pytest.raises(UserError, match="give a JAX primitive, or its name"):
        dms_jax.register_operation(primitive, lambda *a: [])


def test_a_tree_that_looks_like_parameters_is_not_passed_through():
    """Unsliced, it would be taken for the smaller network's."""
    for wrong in ({"a": PARAMS["a"]}, {"c": PARAMS["a"], "d": PARAMS["b"]}, {**PARAMS, "c": jnp.ones(8)}):
        with pytest.raises(UserError, match="nothing in this tree has the structure of the network's parameters"):
            shrink(SPACE, wrong, HALF)
    beside = {"params": PARAMS, "teacher": {"a": jnp.ones((4, 9))}, "weights of classes": jnp.ones(8), "step": 3}
    assert shrink(SPACE, beside, HALF)["params"]["a"].shape == (4, 4)
    for wrong in ({"a": PARAMS["a"]}, [jnp.int32(3), *PARAMS.values(), *PARAMS.values()], {"b": PARAMS["b"], "z": 1}):
        with pytest.raises(UserError, match=r"^moments/\w+ has the shape of [ab], .*shrink what belongs to this"):
            shrink(SPACE, {"params": PARAMS, "moments": wrong}, HALF)
    assert shrink(SPACE, {"a": PARAMS["a"]}, {})["a"].shape == (4, 8)  # nothing is sliced
    assert jax.tree.leaves(shrink(SPACE, optax.sgd(0.1).init(PARAMS), HALF)) == []


def test_forward_is_of_a_marked_model():
    with pytest.raises(UserError, match=r"^network is no marked Linen model, .*; take `space.fn`$"):
        SPACE.forward()
