"""Trees taken apart and put together, and partial trees merged into them."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dms_jax import UserError
from dms_jax.partition import combine, merged, owned, partition


class Pair(NamedTuple):
    left: object
    right: object


TREE = {"params": {"w": 1.0, "deep": [2.0, 3.0]}, "stats": {"mean": 4.0, "more": Pair(5.0, {"x": 6.0})}, "empty": {}}


def test_apart_and_together():
    trained, rest = partition(TREE)
    assert trained == {
        "params": TREE["params"],
        "stats": {"mean": None, "more": Pair(None, {"x": None})},
        "empty": {},
    }
    assert jax.tree.leaves(rest) == [4.0, 5.0, 6.0] and rest["params"] == {"w": None, "deep": [None, None]}
    assert combine(trained, rest) == TREE
    odd, even = partition(TREE, lambda path: "w" in str(path[-1]))
    assert jax.tree.leaves(odd) == [1.0] and combine(odd, even) == TREE


def test_partial_trees_are_merged():
    rest = jax.tree.map(jnp.float32, partition(TREE)[1])
    assert merged(rest, None) is rest and merged(rest, {"unknown": {}}) is rest
    new = merged(rest, {"stats": {"more": Pair(None, {"x": 7.0})}})
    assert new["stats"]["more"].right["x"] == 7.0 and new["stats"]["more"].right["x"].dtype == jnp.float32
    assert new["stats"]["more"].left is rest["stats"]["more"].left and new["stats"]["mean"] is rest["stats"]["mean"]
    assert jax.tree.structure(new) == jax.tree.structure(rest)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stats": {"var": 1.0}}, "for stats/var, which is not among the variables"),
        ({"params": {"w": 1.0}}, "for params/w, which is trained"),
        ({"stats": {"mean": np.ones(2)}}, r"for stats/mean of shape \(2,\); the variable has \(\)"),
        ({"stats": {"more": [1.0, 2.0]}}, "for stats/more, which is a Pair, as a list"),
    ],
)
def test_what_cannot_be_merged(changes, message):
    with pytest.raises(UserError, match=message):
        merged(jax.tree.map(jnp.float32, partition(TREE)[1]), changes)


def test_owned_arrays_are_copies():
    x = {"a": jnp.ones(3), "b": np.ones(2)}
    copied = owned(x)
    assert copied["a"] is not x["a"] and isinstance(copied["b"], jax.Array)
    mixed = owned({"a": x["a"], "c": (other := jnp.zeros(1))}, x)
    assert mixed["a"] is not x["a"] and mixed["c"] is other
