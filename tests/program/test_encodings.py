"""What inputs are turned into by constants alone, a vocabulary first of all, is searched on request alone."""

# Functions take trees of numbers: pyright: reportArgumentType=false, reportIndexIssue=false, reportCallIssue=false

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dms_jax import SearchSpace
from tests.helpers import FLOAT32_LOGITS
from tests.program.outsiders import numbers

WORDS = 11
FIXED = jnp.asarray(np.random.default_rng(1).normal(size=(20, WORDS)), jnp.float32)
SHAPES = {"table": (WORDS, 6), "hidden": (6, 8), "out": (8, 2)}


def summed(t):
    """Of every position the words up to it."""
    step = lambda c, one: (c + jax.nn.one_hot(one, WORDS), c)  # noqa: E731
    return jax.lax.scan(step, jnp.zeros((3, WORDS)), t.T)[1].swapaxes(0, 1)


def recurrent(p, x):
    def step(h, row):
        h = jnp.tanh(row[None] @ p["in"] + h)
        return h, h

    return jax.lax.scan(step, jnp.zeros((1, 8)), x)[1][:, 0]


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
    "words from 1 on": lambda t, table: (t[..., None] == jnp.arange(WORDS)[None, None] + 1).astype(jnp.float32) @ table,
    "a bag of words": lambda t, table: jnp.broadcast_to(jax.nn.one_hot(t, WORDS).sum(1) @ table, (4, 3, 6)).swapaxes(
        0, 1
    ),
    "no difference": lambda t, table: ((t[..., None] - jnp.arange(WORDS)[None, None]) == 0).astype(jnp.float32) @ table,
    "rows of the identity": lambda t, table: jnp.eye(WORDS)[t] @ table,
    "rows of a constant identity": lambda t, table: jnp.asarray(np.eye(WORDS, dtype=np.float32))[t] @ table,
    "rows of a fixed table": lambda t, table: FIXED[t] @ table,
    "smoothed": lambda t, table: (0.9 * jax.nn.one_hot(t, WORDS) + 0.1 / WORDS) @ table,
    "near ones": lambda t, table: jnp.exp(-((t[..., None] - jnp.arange(WORDS)[None, None]) ** 2.0)) @ table,
    "one of two": lambda t, table: (
        jax.lax.cond(t.sum() > 0, lambda: jax.nn.one_hot(t, WORDS), lambda: jax.nn.one_hot(0 * t, WORDS)) @ table
    ),
    "summed up in a loop": lambda t, table: (
        jax.lax.fori_loop(0, 2, lambda i, c: c + jax.nn.one_hot(t + i, WORDS), jnp.zeros((3, 4, WORDS))) @ table
    ),
    "carried by a scan": lambda t, table: summed(t) @ table,
    "beside what is learned": lambda t, table: (
        jnp.concatenate([jnp.tanh(jax.nn.one_hot(t, WORDS) @ table), jax.nn.one_hot(t, WORDS)], -1)
        @ jnp.concatenate([jnp.eye(6), table], 0)
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
    assert space.left["table/encoding"] == "encoding; searched with include='table/encoding'"
    space, params, words = space_of(LOOKED_UP[written], include=("table/encoding",))
    assert space.groups["table/encoding"].size == WORDS and space.groups["table/encoding"].kind == "width"
    kept = {"table/encoding": range(0, WORDS, 2), "table": [1, 4, 5], "hidden": [0, 7]}
    assert space.verify(params, kept, words) < FLOAT32_LOGITS


NONE = {
    "numbers of positions": lambda p, x: jnp.where(jnp.arange(8)[None] < 4, jnp.tanh(x @ p["in"]), x @ p["in"]),
    "a mask of the inputs": lambda p, x: jnp.tanh(x @ p["in"]) * (x.sum(-1, keepdims=True) > 0),
    "a fixed table added": lambda p, x: jnp.tanh(x @ p["in"]) + FIXED[:, :8][jnp.argmax(x, -1)],
    "noise": lambda p, x: jnp.tanh(x @ p["in"]) + jax.random.normal(jax.random.key(x[0, 0].astype(jnp.int32)), (5, 8)),
    "one of two that are learned": lambda p, x: jax.lax.cond(
        x.sum() > 0, lambda h: h, lambda h: jnp.tanh(h), x @ p["in"]
    ),
    "as often as inputs say": lambda p, x: jax.lax.while_loop(
        lambda c: jnp.sum(c[0]) < jnp.sum(x) - 9, lambda c: (c[0] + 1.0, jnp.tanh(c[1])), (jnp.zeros(()), x @ p["in"])
    )[1],
    "a recurrence": lambda p, x: recurrent(p, x),
    "a layer of constants": lambda p, x: jnp.tanh(x @ FIXED[:3, :8]) * jnp.ones(8)[None],
}


@pytest.mark.parametrize("written", NONE)
def test_what_is_no_encoding(written):
    """What only meets something learned, or comes out of a layer, is searched by itself."""
    params, x = numbers({"in": (3, 8), "out": (8, 2)}), numbers({"x": (5, 3)})["x"]
    fn = lambda p, x: NONE[written](p, x) @ p["out"]  # noqa: E731
    space = SearchSpace.from_function(fn, params, x)
    ((name, group),) = space.groups.items()
    assert group.size == 8
    assert space.verify(params, {name: [0, 3, 6]}, x) < FLOAT32_LOGITS


def test_inputs_in_several_frequencies():
    """A coordinate as the sines of its multiples: all of them stay, unless asked."""
    params, x = numbers({"in": (6, 8), "out": (8, 2)}), numbers({"x": (5, 3)})["x"]
    fn = lambda p, x: jnp.tanh(jnp.sin(x[..., None] * 2.0 ** jnp.arange(6)[None, None]) @ p["in"]) @ p["out"]  # noqa: E731
    space = SearchSpace.from_function(fn, params, x)
    assert {name: group.size for name, group in space.groups.items()} == {"in": 8}
    assert space.left["in/encoding"].startswith("encoding; searched with include=")
    space = SearchSpace.from_function(fn, params, x, include=("in/encoding",))
    assert space.verify(params, {"in": [1, 2], "in/encoding": [0, 5]}, x) < FLOAT32_LOGITS
