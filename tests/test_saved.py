"""A saved loss trains on with batches of any size, from every kind of network."""

import json

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import dms_jax
from dms_jax import SearchSpace
from tests.helpers import FLOAT32_GRADIENTS

DRAW = np.random.default_rng(0)


def batch_of(count, *shape):
    return {
        "x": jnp.asarray(DRAW.normal(size=(count, *shape)), jnp.float32),
        "y": jnp.asarray(DRAW.integers(0, 3, count)),
    }


def entropy(logits, batch):
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]).mean()


def plain():
    """Dropout draws as many numbers as the batch has."""
    params = {"up": jnp.asarray(DRAW.normal(size=(5, 12)), jnp.float32), "down": jnp.ones((12, 3))}

    def fn(params, x):
        return jax.nn.relu(x @ params["up"]) @ params["down"]

    def loss(params, batch, key):
        hidden = jax.nn.relu(batch["x"] @ params["up"])
        hidden = jnp.where(jax.random.bernoulli(key, 0.8, hidden.shape), hidden / 0.8, 0)
        return entropy(hidden @ params["down"], batch)

    return SearchSpace.from_function(fn, params, jax.ShapeDtypeStruct((1, 5), jnp.float32)), params, loss, (5,)


class Normalized(nnx.Module):
    def __init__(self, rngs):
        self.conv, self.norm = nnx.Conv(3, 8, (3, 3), rngs=rngs), nnx.BatchNorm(8, rngs=rngs)
        self.head = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x):
        return self.head(nnx.relu(self.norm(self.conv(x))).mean((1, 2)))


def normalized():
    """BatchNorm's means are over the batch, and its state goes out."""
    model = Normalized(nnx.Rngs(0))
    training = nnx.graphdef(model)
    model.eval()

    def loss(params, batch, key):
        module = nnx.merge(training, params)
        return entropy(module(batch["x"]), batch), {"state": nnx.state(module, nnx.BatchStat)}

    space = SearchSpace.from_nnx(model, jax.ShapeDtypeStruct((1, 6, 6, 3), jnp.float32))
    return space, nnx.state(model), loss, (6, 6, 3)


def one_example():
    """A module of one example, over the batch by vmap."""
    model = eqx.nn.MLP(5, 3, 16, 2, key=jax.random.key(0))
    space = SearchSpace.from_equinox(model, jax.ShapeDtypeStruct((1, 5), jnp.float32))
    return space, model, lambda params, batch, key: entropy(jax.vmap(params)(batch["x"]), batch), (5,)


def saved(directory, make, loss=None):
    space, params, own, shape = make()
    structure = space.structure({name: range(group.size - 2) for name, group in space.groups.items()})
    small = dms_jax.shrink(space, params, structure)
    loss = own if loss is None else loss
    space.save(directory, space.fn, small, structure, loss=loss, batch=batch_of(8, *shape))
    described = json.loads((directory / "program" / "program.json").read_text())
    return space, small, space.shrunk(loss, structure), shape, described["loss_any_batch"]


@pytest.mark.parametrize("make", [plain, normalized, one_example])
def test_a_saved_loss_trains_on_with_other_batch_sizes(make, tmp_path):
    pytest.importorskip("flatbuffers")
    space, small, loss, shape, any_batch = saved(tmp_path, make)
    assert any_batch
    program, flat = dms_jax.load(tmp_path)
    key, trained = jax.random.key(0), {path for path, train in program.trained.items() if train}
    moved = {path: array for path, array in flat.items() if path in trained}
    for count in (8, 3):
        batch = batch_of(count, *shape)

        def whole(params, batch=batch):
            arrays = [{**flat, **params}.get(path) for path in space.parameters.paths]
            found = loss(space.whole(space.parameters.tree(arrays)), batch, key)
            return found[0] if isinstance(found, tuple) else found

        def exported(params, batch=batch):
            return program.loss({**flat, **params}, batch, key)[0]

        value, slope = jax.value_and_grad(exported)(moved)
        expected, by = jax.value_and_grad(whole)(moved)
        np.testing.assert_allclose(value, expected, rtol=0, atol=FLOAT32_GRADIENTS)
        for path in moved:
            np.testing.assert_allclose(slope[path], by[path], rtol=0, atol=FLOAT32_GRADIENTS)


def test_a_loss_with_another_number_of_the_batch_keeps_its_size(tmp_path):
    """sum / (B - 1) is no mean: what it would be at another size is not in the program."""
    pytest.importorskip("flatbuffers")

    def loss(params, batch, key):
        return jnp.sum((batch["x"] @ params["up"]) ** 2) / (len(batch["x"]) - 1)

    assert not saved(tmp_path, plain, loss)[-1]
