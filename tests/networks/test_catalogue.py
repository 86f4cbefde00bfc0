"""Every network of the catalogue runs, for inference and in training, and says what its parameters are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dms_jax.adapters.source import leaf_paths
from tests.networks.catalogue import NETWORKS
from tests.networks.network import fill


def arrays_of(params):
    """Return the arrays of `params`, and a function that puts others into their places."""
    leaves, treedef = jax.tree.flatten(params)
    places = [place for place, leaf in enumerate(leaves) if hasattr(leaf, "dtype")]

    def rebuild(arrays):
        return treedef.unflatten([arrays.get(place, leaf) for place, leaf in enumerate(leaves)])

    return {place: leaves[place] for place in places}, rebuild


@pytest.mark.parametrize("name", NETWORKS)
def test_network(name):
    network = NETWORKS[name]()
    assert network.name == name and name.startswith("plain" if network.framework == "jax" else network.framework)
    assert jax.tree.structure(network.trainable) == jax.tree.structure(network.params)
    trained = jax.tree.leaves(network.trainable)
    assert all(type(leaf) is bool for leaf in trained) and any(trained)
    paths = leaf_paths(network.params) if network.paths is None else network.paths
    assert len(set(paths)) == len(trained)

    arrays, rebuild = arrays_of(network.params)
    for place, leaf in arrays.items():
        if trained[place]:
            assert np.all(np.asarray(leaf) != 0), paths[place]

    outputs = jax.jit(lambda arrays, *inputs: network.fn(rebuild(arrays), *inputs))(arrays, *network.inputs)
    for leaf in jax.tree.leaves(outputs):
        assert np.all(np.isfinite(leaf)) and 1e-2 < np.std(leaf) < 1e2

    if network.train is None:
        return
    train = network.train
    key = jax.random.key(0)
    _, state = jax.eval_shape(lambda arrays, *inputs: train(rebuild(arrays), *inputs, key=key), arrays, *network.inputs)
    # new values lie where the old ones do, with their shapes, and nothing that is trained is among them
    keys = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(network.params)]
    places = {path: place for place, path in enumerate(keys)}
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        place = places[jax.tree_util.keystr(path)]
        assert not trained[place] and leaf.shape == arrays[place].shape


def test_fill_leaves_no_zeros_and_keeps_variances_positive():
    shape = jax.ShapeDtypeStruct
    tree = {
        "kernel": shape((30, 20), jnp.float32),
        "depthwise": {"kernel": shape((3, 3, 8, 1), jnp.float32)},
        "bias": shape((50,), jnp.bfloat16),
        "norm": {"scale": shape((50,), jnp.float32), "moving_variance": shape((50,), jnp.float32)},
        "count": shape((), jnp.int32),
        "key": jax.eval_shape(lambda: jax.random.key(3)),
        "rate": 0.5,
        "steps": jnp.int32(4),
    }
    full = fill(tree)
    assert np.std(full["kernel"]) == pytest.approx(1 / np.sqrt(30), rel=0.1)
    assert np.std(fill(tree, out_axis=0)["kernel"]) == pytest.approx(1 / np.sqrt(20), rel=0.1)
    assert np.std(full["depthwise"]["kernel"]) == pytest.approx(1 / 3, rel=0.3)
    assert full["bias"].dtype == jnp.bfloat16
    size = np.abs(np.asarray(full["bias"], np.float32))
    assert size.min() >= 0.09 and size.max() <= 0.51
    for leaf in full["norm"].values():
        assert np.min(leaf) >= 0.5 and np.max(leaf) <= 1.5
    assert full["count"] == 0 and full["steps"] == 4 and full["rate"] == 0.5
    assert jnp.issubdtype(full["key"].dtype, jax.dtypes.prng_key)
    assert not np.array_equal(full["kernel"], fill(tree, seed=1)["kernel"])
    np.testing.assert_array_equal(full["kernel"], fill(tree)["kernel"])
