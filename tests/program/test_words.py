"""A vocabulary that inputs are compared with is searched on request alone, however the comparison is written."""

# Functions take trees of numbers: pyright: reportArgumentType=false, reportIndexIssue=false

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dms_jax import SearchSpace
from tests.helpers import FLOAT32_LOGITS
from tests.program.outsiders import numbers

WORDS = 11
SHAPES = {"table": (WORDS, 6), "hidden": (6, 8), "out": (8, 2)}

LOOKED_UP = {
    "one_hot": lambda t, table: jax.nn.one_hot(t, WORDS) @ table,
    "one_hot in bfloat16": lambda t, table: jax.nn.one_hot(t, WORDS, dtype=jnp.bfloat16).astype(table.dtype) @ table,
    "one_hot of a clipped word": lambda t, table: jax.nn.one_hot(jnp.clip(t, 0, WORDS - 1), WORDS) @ table,
    "one_hot in front": lambda t, table: jnp.einsum("vbs,vd->bsd", jax.nn.one_hot(t, WORDS, axis=0), table),
    "iota": lambda t, table: (t[..., None] == jax.lax.iota(jnp.int32, WORDS)[None, None]).astype(jnp.float32) @ table,
    "broadcasted iota": lambda t, table: (
        jnp.where(jax.lax.broadcasted_iota(jnp.int32, (*t.shape, WORDS), 2) == t[..., None], 1.0, 0.0) @ table
    ),
    "a constant": lambda t, table: (t[..., None] == np.arange(WORDS)[None, None]).astype(jnp.float32) @ table,
    "thermometer": lambda t, table: (np.arange(WORDS)[None, None] <= t[..., None]).astype(jnp.float32) @ table,
    "vmap": lambda t, table: jax.vmap(lambda one: jax.nn.one_hot(one, WORDS) @ table)(t),
    "jit": jax.jit(lambda t, table: jax.nn.one_hot(t, WORDS) @ table),
    "scan": lambda t, table: jnp.moveaxis(
        jax.lax.scan(lambda c, one: (c, jax.nn.one_hot(one, WORDS) @ table), 0.0, t.T)[1], 0, 1
    ),
    "rounded": lambda t, table: jax.nn.one_hot(jnp.round(t * 1.0).astype(jnp.int32), WORDS) @ table,
}


def space_of(looked_up, **options):
    fn = lambda p, t: jnp.tanh(looked_up(t, p["table"]) @ p["hidden"]) @ p["out"]  # noqa: E731
    params, words = numbers(SHAPES), jnp.asarray(np.random.default_rng(0).integers(0, WORDS, (3, 4)), jnp.int32)
    return SearchSpace.from_function(fn, params, words, **options), params, words


@pytest.mark.parametrize("written", LOOKED_UP)
def test_words_on_request(written):
    space, params, words = space_of(LOOKED_UP[written])
    assert {name: group.size for name, group in space.groups.items()} == {"table": 6, "hidden": 8}
    assert space.left["table/vocabulary"] == "vocabulary; searched with include='table/vocabulary'"
    space, params, words = space_of(LOOKED_UP[written], include=("table/vocabulary",))
    assert space.groups["table/vocabulary"].size == WORDS and space.groups["table/vocabulary"].kind == "width"
    kept = {"table/vocabulary": range(0, WORDS, 2), "table": [1, 4, 5], "hidden": [0, 7]}
    assert space.verify(params, kept, words) < FLOAT32_LOGITS


def test_positions_that_no_input_is_compared_with():
    """Numbers of positions alone say nothing: a fixed pattern over a width goes with its elements."""
    params, x = numbers({"in": (3, 8), "out": (8, 2)}), numbers({"x": (5, 3)})["x"]
    fn = lambda p, x: jnp.where(jnp.arange(8)[None] < 4, jnp.tanh(x @ p["in"]), x @ p["in"]) @ p["out"]  # noqa: E731
    space = SearchSpace.from_function(fn, params, x)
    assert {name: group.size for name, group in space.groups.items()} == {"in": 8}
    assert space.verify(params, {"in": [0, 3, 6]}, x) < FLOAT32_LOGITS
