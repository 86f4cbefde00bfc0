"""Loops over layers that stack something, too: layers can go where nothing reads it, or where it is their state."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import dms_jax
from dms_jax.errors import TracingError

LAYERS, WIDTH, HIDDEN = 3, 6, 8
DRAW = np.random.default_rng(0)
PARAMS = {
    "in": jnp.asarray(DRAW.normal(size=(4, WIDTH)), jnp.float32),
    "up": jnp.asarray(DRAW.normal(size=(LAYERS, WIDTH, HIDDEN)), jnp.float32),
    "down": jnp.asarray(DRAW.normal(size=(LAYERS, HIDDEN, WIDTH)), jnp.float32),
    "mean": jnp.asarray(DRAW.normal(size=(LAYERS, HIDDEN)), jnp.float32),
    "count": jnp.arange(LAYERS),
    "out": jnp.asarray(DRAW.normal(size=(WIDTH, 2)), jnp.float32),
}
X = jnp.asarray(DRAW.normal(size=(5, 4)), jnp.float32)


def run(params, x):
    """The output, and what the loop stacks: means of hidden features, and counts."""

    def layer(x, row):
        hidden = jnp.tanh(x @ row["up"]) - row["mean"][None]
        return x + hidden @ row["down"], (row["mean"] * 0.9 + hidden.mean(0) * 0.1, row["count"] + 1)

    rows = {name: params[name] for name in ("up", "down", "mean", "count")}
    x, stacked = jax.lax.scan(layer, x @ params["in"], rows)
    return x @ params["out"], stacked


def unread(params, x, key=None):
    return jnp.mean(run(params, x)[0] ** 2)


def state(params, x, key=None):
    y, (mean, count) = run(params, x)
    return jnp.mean(y**2), {"state": {"mean": mean, "count": count}}


def read(params, x, key=None):
    y, (_, count) = run(params, x)
    return jnp.mean(y**2) + count.sum()


SPACE = dms_jax.SearchSpace.from_function(
    lambda params, x: run(params, x)[0], PARAMS, X, trainable=lambda path: path not in ("mean", "count")
)
(DEPTH,) = (name for name, group in SPACE.groups.items() if group.kind == "depth")


@hypothesis.settings(max_examples=12)
@hypothesis.given(st.sampled_from([unread, state]), st.data())
def test_what_is_not_read_has_fewer_rows(loss, data):
    assert sorted(group.size for group in SPACE.groups.values()) == [LAYERS, WIDTH, HIDDEN]
    kept = {
        name: tuple(sorted(data.draw(st.sets(st.integers(0, g.size - 1), min_size=g.least))))
        for name, g in SPACE.groups.items()
    }
    structure = SPACE.structure(kept)
    small = dms_jax.shrink(SPACE, PARAMS, structure)
    found = SPACE.shrunk(loss, structure)(small, X, None)
    expected = SPACE.masked(loss)(PARAMS, SPACE.masks(structure), X, None)
    if loss is state:
        np.testing.assert_allclose(found[0], expected[0], rtol=1e-4, atol=1e-5)
        new = dms_jax.shrink(SPACE, PARAMS | expected[1]["state"], structure)
        for name, array in found[1]["state"].items() if kept[DEPTH] else ():
            np.testing.assert_allclose(array, new[name], rtol=1e-4, atol=1e-5)
    else:
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_what_is_read_is_refused():
    with pytest.raises(TracingError, match=f"{DEPTH!r}: .*loop at scan at .*is not a residual branch in this function"):
        SPACE.masked(read)(PARAMS, SPACE.masks({}), X, None)


class Block(nnx.Module):
    def __init__(self, rngs):
        self.up, self.down = nnx.Linear(WIDTH, HIDDEN, rngs=rngs), nnx.Linear(HIDDEN, WIDTH, rngs=rngs)
        self.norm, self.drop = nnx.BatchNorm(HIDDEN, rngs=rngs), nnx.Dropout(0.1, rngs=rngs)

    def __call__(self, x):
        return x + self.drop(self.down(nnx.relu(self.norm(self.up(x)))))


class Scanned(nnx.Module):
    def __init__(self, rngs):
        make = nnx.split_rngs(splits=LAYERS)(nnx.vmap(Block, in_axes=(0,), out_axes=0))
        self.layers, self.out = make(rngs), nnx.Linear(WIDTH, 2, rngs=rngs)

    def __call__(self, x):
        step = nnx.remat(lambda x, layer: layer(x))
        return self.out(nnx.scan(step, in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)(x, self.layers))


def test_a_search_over_scanned_layers_with_dropout_and_statistics():
    """Keys are counted and statistics averaged in every layer: the loop stacks both."""
    import optax

    module, x = Scanned(nnx.Rngs(0)), jnp.asarray(DRAW.normal(size=(9, WIDTH)), jnp.float32)
    graph = nnx.graphdef(module)

    def loss(params, batch, key):
        network = nnx.merge(graph, jax.tree.map(lambda leaf: leaf, params))
        return jnp.mean(network(batch) ** 2), {"state": nnx.state(network, nnx.BatchStat)}

    space = dms_jax.SearchSpace.from_nnx(module, x)
    assert space.groups["layers/depth"].size == LAYERS
    search = dms_jax.Search(space, loss, optax.sgd(0.01), {"macs": 0.5}, steps=3)
    state, step = search.init(nnx.state(module)), jax.jit(search.step)
    for i in range(3):
        state, values = step(state, x, jax.random.key(i))
    assert all(np.isfinite(value) for value in jax.tree.leaves(values))
    kept = {"layers/depth": (0, 2), **{name: (1, 4, 5) for name in space.groups if not name.endswith("depth")}}
    assert space.verify(state.params, kept, x) < 1e-5
    small = dms_jax.shrink(space, state.params, kept)
    assert space.shrunk(loss, kept)(small, x, None)[1]["state"]["layers"]["norm"]["mean"][...].shape == (2, 3)
