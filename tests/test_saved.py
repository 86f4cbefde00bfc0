"""A saved loss trains on with batches of any size, from every kind of network; where it cannot, that is said."""

# Linen's `apply` and `init` are typed as values or tuples:
# pyright: reportArgumentType=false, reportCallIssue=false, reportIndexIssue=false

import json
import os
import subprocess
import sys

os.environ.setdefault("KERAS_BACKEND", "jax")  # read when Keras is first imported

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import keras
import numpy as np
import optax
import pytest
from flax import nnx

import dms_jax
from dms_jax import SearchSpace
from dms_jax.errors import UserError
from dms_jax.fitted import _save
from tests.helpers import FLOAT32_GRADIENTS, FLOAT32_LOGITS
from tests.networks.network import relaxed

pytest.importorskip("flatbuffers")

KEY = jax.random.key(0)
IMAGE = (6, 6, 3)


def example(*shape):
    return jax.ShapeDtypeStruct((1, *shape), jnp.float32)


def batch_of(count, *shape):
    draw = np.random.default_rng(count)
    return {
        "x": jnp.asarray(draw.normal(size=(count, *shape)), jnp.float32),
        "y": jnp.asarray(draw.integers(0, 3, count)),
    }


def entropy(logits, batch):
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]).mean()


def plain():
    """Dropout draws as many numbers as the batch has."""
    draw = np.random.default_rng(0)
    params = {"up": jnp.asarray(draw.normal(size=(5, 12)), jnp.float32), "down": jnp.ones((12, 3))}

    def fn(params, x):
        return jax.nn.relu(x @ params["up"]) @ params["down"]

    def loss(params, batch, key):
        hidden = jax.nn.relu(batch["x"] @ params["up"])
        hidden = jnp.where(jax.random.bernoulli(key, 0.8, hidden.shape), hidden / 0.8, 0)
        return entropy(hidden @ params["down"], batch)

    return SearchSpace.from_function(fn, params, example(5)), params, loss, (5,)


class Normalized(nnx.Module):
    def __init__(self, rngs):
        self.conv, self.norm = nnx.Conv(3, 8, (3, 3), rngs=rngs), nnx.BatchNorm(8, rngs=rngs)
        self.head = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x):
        return self.head(nnx.relu(self.norm(self.conv(x))).mean((1, 2)))


def of_nnx():
    """BatchNorm's means are over the batch, and its state goes out."""
    model = Normalized(nnx.Rngs(0))
    training = nnx.graphdef(model)
    model.eval()

    def loss(params, batch, key):
        module = nnx.merge(training, params)
        return entropy(module(batch["x"]), batch), {"state": nnx.state(module, nnx.BatchStat)}

    return SearchSpace.from_nnx(model, example(*IMAGE)), nnx.state(model), loss, IMAGE


def of_equinox():
    """A module of one example, over the batch by vmap."""
    model = eqx.nn.MLP(5, 3, 16, 2, key=KEY)
    space = SearchSpace.from_equinox(model, example(5))
    return space, model, lambda params, batch, key: entropy(jax.vmap(params)(batch["x"]), batch), (5,)


class Linen(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(nn.Conv(8, (3, 3))(x))).mean((1, 2))
        return nn.Dense(3)(nn.Dropout(0.5, deterministic=not train)(nn.relu(nn.Dense(12)(x))))


def of_linen():
    model = Linen()
    variables = relaxed(model.init)(KEY, jnp.ones((1, *IMAGE)), False)

    @relaxed
    def loss(params, batch, key):
        logits, state = model.apply(params, batch["x"], True, rngs={"dropout": key}, mutable=["batch_stats"])
        return entropy(logits, batch), {"state": state}

    return SearchSpace.from_linen(model, variables, example(*IMAGE)), variables, loss, IMAGE


def of_haiku():
    """Its averages before they are corrected are read in training alone."""

    def forward(x, is_training):
        x = hk.BatchNorm(True, True, 0.9)(hk.Conv2D(8, 3)(x), is_training)
        x = jax.nn.relu(hk.Linear(12)(jax.nn.relu(x).mean((1, 2))))
        return hk.Linear(3)(hk.dropout(hk.next_rng_key(), 0.5, x) if is_training else x)

    transformed = hk.transform_with_state(forward)
    params, state = relaxed(transformed.init)(KEY, jnp.ones((1, *IMAGE)), True)

    @relaxed
    def loss(params, batch, key):
        logits, state = transformed.apply(params["params"], params["state"], key, batch["x"], is_training=True)
        return entropy(logits, batch), {"state": {"state": state}}

    also = {"train": (loss, (batch_of(8, *IMAGE), KEY))}
    space = SearchSpace.from_haiku(transformed, (params, state), example(*IMAGE), is_training=False, also=also)
    return space, {"params": params, "state": state}, loss, IMAGE


def of_keras():
    """Its own loss divides by the product of a shape, where that is not 0; its variance by N - 0."""
    keras.utils.set_random_seed(0)
    layers = [
        keras.Input(IMAGE),
        keras.layers.Conv2D(8, 3, padding="same"),
        keras.layers.BatchNormalization(),
        keras.layers.ReLU(),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(12, activation="relu"),
        keras.layers.Dropout(0.5),
        keras.layers.Dense(3),
    ]
    with jax.numpy_rank_promotion("allow"):
        model = keras.Sequential(layers)
        space = SearchSpace.from_keras(model, example(*IMAGE))
    own = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    @relaxed
    def loss(params, batch, key):
        trained, others = params["trainable"], params["non_trainable"]
        found = model.stateless_call(trained, others, batch["x"], training=True)
        return own(batch["y"], found[0]), {"state": {"non_trainable": found[1]}}

    params = {name: [v.value for v in getattr(model, f"{name}_variables")] for name in ("trainable", "non_trainable")}
    return space, params, loss, IMAGE


def saved(directory, make, loss=None, fewer=2):
    space, params, own, shape = make()
    structure = space.structure({name: range(group.size - fewer) for name, group in space.groups.items()})
    small = dms_jax.shrink(space, params, structure)
    loss = own if loss is None else loss
    with jax.numpy_rank_promotion("allow"):
        space.save(directory, space.fn, small, structure, loss=loss, batch=batch_of(8, *shape))
    return space, loss, structure, shape


@pytest.mark.parametrize("make", [plain, of_nnx, of_equinox, of_linen, of_haiku, of_keras])
@pytest.mark.parametrize("fewer", [0, 2])
def test_a_saved_loss_trains_on_with_other_batch_sizes(make, fewer, tmp_path):
    """Of the whole network it is the user's own loss, of a smaller one that loss run smaller."""
    space, loss, structure, shape = saved(tmp_path, make, fewer=fewer)
    assert not json.loads((tmp_path / "program" / "program.json").read_text())["fixed"]
    program, flat = dms_jax.load(tmp_path)
    eager = space.shrunk(loss, structure) if fewer else loss
    moved = {path: array for path, array in flat.items() if program.trained[path]}
    for count in (3, 11) if fewer else (8, 5):
        batch = batch_of(count, *shape)

        def whole(params, batch=batch):
            arrays = [{**flat, **params}.get(path) for path in space.parameters.paths]
            found = eager(space.whole(space.parameters.tree(arrays)), batch, KEY)
            return found[0] if isinstance(found, tuple) else found

        def exported(params, batch=batch):
            return program.loss({**flat, **params}, batch, KEY)[0]

        with jax.numpy_rank_promotion("allow"):
            value, slope = jax.value_and_grad(exported)(moved)
            expected, by = jax.value_and_grad(whole)(moved)
        np.testing.assert_allclose(value, expected, rtol=0, atol=FLOAT32_GRADIENTS)
        for path in moved:
            np.testing.assert_allclose(slope[path], by[path], rtol=0, atol=FLOAT32_GRADIENTS)


ELSEWHERE = """
import sys
import jax, numpy as np
import dms_jax

for directory in sys.argv[1:]:
    program, params = dms_jax.load(directory)
    batch, key = dict(np.load(directory + "/batch.npz")), jax.random.key(0)
    np.save(directory + "/out.npy", program(params, batch["x"]))
    moved = {path: array for path, array in params.items() if program.trained[path]}
    others = {path: array for path, array in params.items() if not program.trained[path]}

    def loss(moved, others):
        return program.loss({**others, **moved}, batch, key)

    step = jax.jit(jax.value_and_grad(loss, has_aux=True))
    losses = []
    for _ in range(10):
        (value, more), slope = step(moved, others)
        others |= more["state"]
        moved = jax.tree.map(lambda p, g: p - 0.05 * g, moved, slope)
        losses.append(float(value))
    assert losses[-1] < losses[0], (directory, losses)
strangers = [name for name in ("equinox", "keras", "haiku", "flax", "optax", "orbax") if name in sys.modules]
assert not strangers, strangers
"""


def test_a_fresh_process_with_jax_alone_runs_every_framework_and_trains_on(tmp_path):
    expected = {}
    for make in (plain, of_nnx, of_equinox, of_linen, of_haiku, of_keras):
        directory = tmp_path / make.__name__
        space, _, structure, shape = saved(directory, make)
        batch = batch_of(7, *shape)
        np.savez(directory / "batch.npz", **batch)
        small = dms_jax.shrink(space, make()[1], structure)
        with jax.numpy_rank_promotion("allow"):
            expected[directory] = space.shrunk(space.fn, structure)(small, batch["x"])
    command = [sys.executable, "-P", "-c", ELSEWHERE, *map(str, expected)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    for directory, out in expected.items():
        np.testing.assert_allclose(np.load(directory / "out.npy"), out, rtol=0, atol=FLOAT32_LOGITS)


def unbiased(params, batch, key):
    """sum / (B - 1) is no mean: what it would be at another size is not in the program."""
    return jnp.sum((batch["x"] @ params["up"]) ** 2) / (len(batch["x"]) - 1)


LINE = r"the loss program takes batches of 8 alone, as it was saved: div at tests/test_saved.py:\d+ \(unbiased\)"


def test_a_loss_with_another_number_of_the_batch_keeps_its_size_and_says_so(tmp_path):
    with pytest.warns(UserWarning, match=LINE):
        saved(tmp_path, plain, unbiased)
    program, params = dms_jax.load(tmp_path)
    assert np.isfinite(program.loss(params, batch_of(8, 5), KEY)[0])
    with pytest.raises(UserError, match=LINE):
        program.loss(params, batch_of(3, 5), KEY)


def test_fit_says_what_its_programs_lack(tmp_path, capsys):
    space, params, _, shape = plain()
    structure = space.structure({name: range(group.size - 2) for name, group in space.groups.items()})
    small = dms_jax.shrink(space, params, structure)

    def said(loss):
        _save(tmp_path, space, small, structure, loss, lambda step: batch_of(8, *shape))
        return capsys.readouterr().err

    assert "batches of 8 alone" in said(unbiased)

    def called_back(params, batch, key):
        return jax.pure_callback(lambda x: x, jax.ShapeDtypeStruct((), jnp.float32), unbiased(params, batch, key))

    assert "the program is written without the loss" in said(called_back)
    assert dms_jax.load(tmp_path)[0].loss is None
