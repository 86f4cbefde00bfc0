"""Options of a space: layers of a scan with widths of their own (`unroll=`), branches that go together (`blocks=`)."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dms_jax
from dms_jax import SearchSpace, UserError
from tests.helpers import FLOAT32_LOGITS
from tests.laws.checking import Case, case_of, hold, masked_training_is_shrunk, slices_of_slices, some
from tests.networks.catalogue import NETWORKS
from tests.program.outsiders import normal, numbers, promoting

SHAPES = {"stem": (5, 8), "layers": {"up": (3, 8, 6), "bias": (3, 6), "down": (3, 6, 8)}, "head": (8, 3)}
X = normal((4, 5), 7)


def layer(stream, p):
    return stream + jax.nn.relu(stream @ p["up"] + p["bias"]) @ p["down"], None


SCANS = {
    "forward": lambda stream, p: jax.lax.scan(layer, stream, p),
    "backward": lambda stream, p: jax.lax.scan(layer, stream, p, reverse=True),
    "recomputed": lambda stream, p: jax.lax.scan(jax.checkpoint(layer), stream, p),
    "negated": lambda stream, p: jax.lax.scan(layer, stream, jax.tree.map(jnp.negative, p)),
}


def network(scan):
    @promoting
    def fn(params, x):
        return scan(x @ params["stem"], params["layers"])[0] @ params["head"]

    return fn


@pytest.mark.parametrize("scan", SCANS.values(), ids=SCANS)
def test_every_layer_has_a_width_of_its_own(scan):
    fn, params = network(scan), numbers(SHAPES)
    space = SearchSpace.from_function(fn, params, X, unroll="layers/*")
    widths = {name: group.size for name, group in space.groups.items() if group.kind == "width"}
    assert widths == {"stem": 8, "layers/0": 6, "layers/1": 6, "layers/2": 6}
    assert space.groups["layers/depth"].size == 3
    case = Case(fn, space, params, (X,))
    hold(case)
    slices_of_slices(case)


def test_layers_of_linens_scan():
    network = NETWORKS["linen_scan_remat"]()
    stacked = [path for path in case_of(network).space.leaves if "layers" in path]
    case = case_of(network, unroll=stacked)
    assert len(case.space.leaves) > len(case_of(network).space.leaves)
    hold(case)
    masked_training_is_shrunk(case, some(case.space)[0])


def test_a_search_over_rows_is_shrunk_trained_saved_and_loaded(tmp_path):
    fn, params = network(SCANS["forward"]), numbers(SHAPES)

    def loss(params, batch, key):
        return jnp.mean((fn(params, batch["x"]) - batch["y"]) ** 2)

    space = SearchSpace.from_function(fn, params, X, unroll=["layers/*"])
    batch, key = {"x": normal((8, 5), 1), "y": normal((8, 3), 2)}, jax.random.key(0)
    search = dms_jax.Search(space, loss, optax.adam(1e-2), {"macs": 0.5}, steps=10)
    state, step = search.init(params), jax.jit(search.step)
    for _ in range(10):
        state, _ = step(state, batch, key)
    structure = search.structure(state)
    small = dms_jax.shrink(space, state.params, structure)
    moments = dms_jax.shrink(space, state.opt_state, structure)
    assert jax.tree.map(jnp.shape, moments) == jax.tree.map(jnp.shape, optax.adam(1e-2).init(small))
    assert jax.tree.map(jnp.shape, jax.grad(space.shrunk(loss, structure))(small, batch, key)) == jax.tree.map(
        jnp.shape, small
    )
    expected = space.shrunk(fn, structure)(small, X)
    space.save(tmp_path, fn, small, structure, loss=loss, batch=batch)
    for run, own in (dms_jax.load(tmp_path), dms_jax.load(tmp_path, fn=space)):
        np.testing.assert_allclose(run(own, X), expected, atol=FLOAT32_LOGITS)
    with pytest.raises(UserError, match="laid out in rows .*: give fn=SearchSpace.from_"):
        dms_jax.load(tmp_path, fn=fn)


def test_branches_of_one_module_go_together():
    shapes = {f"layers/{i}": {name: (8, 8) for name in ("one", "two")} for i in range(3)}

    @promoting
    def fn(params, x):
        stream = x @ params["stem"]
        for i in range(3):
            for name in ("one", "two"):
                stream = stream + jnp.tanh(stream @ params[f"layers/{i}"][name])
        return stream @ params["head"]

    params = numbers({"stem": (5, 8), "head": (8, 3), **shapes})
    apart, together = (SearchSpace.from_function(fn, params, X, blocks=blocks) for blocks in ((), "layers/*"))
    sizes = [[g.size for g in space.groups.values() if g.kind == "depth"] for space in (apart, together)]
    assert sizes == [[6], [3]]
    for i in range(3):
        assert len({together.leaves[f"layers/{i}/{name}"].gates for name in ("one", "two")}) == 1
    hold(Case(fn, together, params, (X,)))
