"""Losses that see more of the parameters than the network does: read before anything is trained."""

import warnings
from typing import Any

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dms_jax
from dms_jax import Search, SearchSpace, TracingError, UserError
from dms_jax.budgets.weights import Weights
from tests.counting import random_structure
from tests.helpers import FLOAT32_LOGITS
from tests.networks.network import fill, vectors

X = vectors(6, 5)
BATCH = {"x": jnp.asarray(X), "y": jnp.arange(6) % 3}
SHAPES = {"a": (5, 8), "mean": (8,), "b": (8, 7), "c": (7, 3)}


def hidden(params, x):
    one = jax.nn.relu(x @ params["a"] - params["mean"][None])
    return one, jnp.tanh(one @ params["b"])


def network(params, x):
    return hidden(params, x)[1] @ params["c"]


def cross_entropy(logits, batch):
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]).mean()


def centers(p, one, two, batch):
    return jnp.mean(jnp.sum((two - p["centers"][batch["y"]]) ** 2, -1))


def contrast(p, one, two, batch):
    unit = two @ p["projection"]
    unit = unit / jnp.linalg.norm(unit, axis=-1, keepdims=True)
    return -jnp.mean(jax.nn.log_softmax(unit @ unit.T))


def tower(p, one, two, batch):
    return cross_entropy(jax.nn.gelu(one @ p["up"] + p["bias"][None]) @ p["down"], batch)


MORE = {
    "head": ({"head": (8, 3)}, lambda p, one, two, batch: cross_entropy(one @ p["head"], batch)),
    "tower": ({"up": (8, 4), "bias": (4,), "down": (4, 3)}, tower),
    "scale": ({"scale": (7,)}, lambda p, one, two, batch: jnp.mean((p["scale"][None] * two) ** 2)),
    "centers": ({"centers": (3, 7)}, centers),
    "contrast": ({"projection": (7, 6)}, contrast),
    "decay": ({}, lambda p, one, two, batch: 0.0),
}
TAKES = {
    "flipped": ("a", lambda one, two: jnp.mean(one * one[:, ::-1]), "rev at "),
    "in pairs": ("b", lambda one, two: jnp.mean(jax.lax.top_k(two, 2)[0]), "top_k at "),
}


def made(names, state, takes=()):
    """(params, loss) of several terms."""
    shapes = {**SHAPES, "more": {name: MORE[name][0] for name in names}}
    params = fill(
        jax.tree.map(lambda s: jax.ShapeDtypeStruct(s, jnp.float32), shapes, is_leaf=lambda s: isinstance(s, tuple))
    )

    def loss(params, batch, key):
        one, two = hidden(params, batch["x"])
        total = cross_entropy(two @ params["c"], batch)
        for name in names:
            total += MORE[name][1](params["more"][name], one, two, batch)
        for name in takes:
            total += TAKES[name][1](one, two)
        if "decay" in names:
            total += 1e-3 * sum(jnp.sum(w**2) for w in jax.tree.leaves(params))
        return total, {"state": {"mean": 0.9 * params["mean"] + 0.1 * one.mean(0)} if state else {}}

    return params, loss


def space_of(params):
    return SearchSpace.from_function(network, params, X[:1], trainable=lambda path: path != "mean")


def search_of(space, loss, **options):
    return Search(space, loss, optax.sgd(0.1), {"params": 0.6}, steps=4, **options)


@hypothesis.settings(max_examples=3, phases=[hypothesis.Phase.generate])
@hypothesis.given(
    st.lists(st.sampled_from(list(MORE)), min_size=1, max_size=3, unique=True), st.booleans(), st.integers(1, 2)
)
def test_what_only_the_loss_sees_is_sliced_and_counted(names, state, accumulate):
    params, loss = made(names, state)
    search = search_of(space_of(params), loss, batch=BATCH, accumulate=accumulate)
    step: Any = jax.jit(search.step)
    space, key = search.space, jax.random.key(0)
    kept = random_structure(space.groups, 0)
    small = dms_jax.shrink(space, params, kept)
    trained = sum(x.size for path, x in _by_path(small).items() if path != "mean")
    assert space.resources(kept)["params"] == trained
    masked = jax.jit(space.masked(loss))(params, space.masks(kept), BATCH, key)[0]
    np.testing.assert_allclose(jax.jit(space.shrunk(loss, kept))(small, BATCH, key)[0], masked, rtol=FLOAT32_LOGITS)
    current = search.init(params)
    for _ in range(2):
        current, _ = step(current, BATCH, key)
    assert step._cache_size() == 1


def _by_path(tree):
    return {keys[-1].key: leaf for keys, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def test_a_loss_that_tells_nothing_new_leaves_the_space_as_it_is():
    params, loss = made(["decay"], True)
    space = space_of(params)
    assert search_of(space, loss, batch=BATCH).space is space


def test_without_a_batch_it_is_refused_at_the_first_step_and_says_how_it_is_read():
    params, loss = made(["head"], False)
    search = search_of(space_of(params), loss)
    with pytest.raises(TracingError, match=r"^axis 0 of more/head/head has .*Search\(\.\.\., batch=batch\)"):
        search.step(search.init(params), BATCH, jax.random.key(0))


@pytest.mark.parametrize("name", TAKES)
def test_a_loss_that_needs_all_of_a_group_says_so_before_anything_is_trained(name):
    group, _, where = TAKES[name]
    params, loss = made([], False, [name])
    with pytest.warns(
        UserWarning, match=rf"^the loss leaves group '{group}' out of the search: .*{where}.*test_reading.py"
    ):
        search = search_of(space_of(params), loss, batch=BATCH)
    assert group not in search.space.groups and group in search.space.left
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        search_of(search.space, loss, batch=BATCH)  # said once
    both = made([], False, list(TAKES))[1]
    with pytest.raises(UserError, match="there is nothing to search in network: .*rev at .*top_k at "):
        search_of(space_of(params), both, batch=BATCH)


def test_resources_that_were_added_stay():
    params, loss = made(["head"], False)
    space = space_of(params).with_resources(Weights("bfloat16"))
    search = Search(space, loss, optax.sgd(0.1), {"weights": 0.5}, steps=4, batch=BATCH)
    assert search.space.resources()["weights"] == space.resources()["weights"]
    with pytest.raises(UserError, match="a batch of .6, 5. cannot be cut into 4 parts"):
        search_of(space, loss, batch=BATCH, accumulate=4)
    with pytest.raises(UserError, match="the batch holds 'cat', which is no array; give arrays, shapes or numbers"):
        search_of(space, loss, batch={**BATCH, "name": "cat"})
