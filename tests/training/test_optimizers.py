"""The recipes against their formulas written out, and schedules at every step that matters."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dms_jax.errors import UserError
from dms_jax.training import optimizers, schedules
from tests.helpers import FLOAT32_ROUNDING
from tests.models.small import NETWORKS, images

PARAMS = {"conv": {"kernel": np.array([[1.0, -2.0]]), "bias": np.array([3.0])}}
GRADIENTS = [
    {"conv": {"kernel": np.array([[0.5, 1.0]]), "bias": np.array([-1.0])}},
    {"conv": {"kernel": np.array([[-0.25, 0.5]]), "bias": np.array([2.0])}},
]
DECAY = {"conv": {"kernel": 0.1, "bias": 0.0}}


def run(optimizer):
    params = jax.tree.map(jnp.float32, PARAMS)
    state = optimizer.init(params)
    for gradient in GRADIENTS:
        updates, state = jax.jit(optimizer.update)(jax.tree.map(jnp.float32, gradient), state, params)
        params = jax.tree.map(jnp.add, params, updates)
    return params


def by_hand(move):
    """Every leaf by itself in NumPy: `move(weight, gradients, decay)`."""
    return jax.tree.map(lambda w, d, *g: move(w, g, d), PARAMS, DECAY, *GRADIENTS)


def test_rmsprop_is_tensorflows():
    def move(w, gradients, decay):
        n, v = np.ones_like(w), np.zeros_like(w)
        for rate, g in zip((0.1, 0.05), gradients, strict=True):
            g = g + decay * w
            n = 0.9 * n + 0.1 * g**2
            v = 0.8 * v + rate * g / np.sqrt(n + 1e-3)
            w = w - v
        return w

    found = run(optimizers.rmsprop(lambda s: jnp.where(s == 0, 0.1, 0.05), momentum=0.8, weight_decay=0.1))
    chex.assert_trees_all_close(found, by_hand(move), rtol=10 * FLOAT32_ROUNDING)


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd(nesterov):
    def move(w, gradients, decay):
        v = np.zeros_like(w)
        for g in gradients:
            g = g + decay * w
            v = 0.9 * v + g
            w = w - 0.1 * (0.9 * v + g if nesterov else v)
        return w

    found = run(optimizers.sgd(0.1, nesterov=nesterov, weight_decay=0.1))
    chex.assert_trees_all_close(found, by_hand(move), rtol=10 * FLOAT32_ROUNDING)


def test_adamw():
    def move(w, gradients, decay):
        m, n = np.zeros_like(w), np.zeros_like(w)
        for t, g in enumerate(gradients, start=1):
            m, n = 0.9 * m + 0.1 * g, 0.999 * n + 0.001 * g**2
            w = w - 0.1 * (m / (1 - 0.9**t) / (np.sqrt(n / (1 - 0.999**t)) + 1e-8) + decay * w)
        return w

    chex.assert_trees_all_close(run(optimizers.adamw(0.1, weight_decay=0.1)), by_hand(move), rtol=1e-5)


@pytest.mark.parametrize("make", [optimizers.sgd, optimizers.rmsprop, optimizers.adamw])
def test_clipping_is_of_the_whole_norm(make):
    optimizer, free = make(0.1, weight_decay=0.0, clip=1.0), make(0.1, weight_decay=0.0)
    norm = np.sqrt(0.5**2 + 1 + 1)
    clipped = jax.tree.map(lambda g: jnp.float32(g / norm), GRADIENTS[0])
    given = jax.tree.map(jnp.float32, GRADIENTS[0])
    params = jax.tree.map(jnp.float32, PARAMS)
    found, _ = optimizer.update(given, optimizer.init(params), params)
    expected, _ = free.update(clipped, free.init(params), params)
    chex.assert_trees_all_close(found, expected, rtol=10 * FLOAT32_ROUNDING)


@pytest.mark.parametrize("name", NETWORKS)
def test_kernels_of_every_family(name):
    params = jax.eval_shape(NETWORKS[name].init, jax.random.key(0), images())["params"]
    for path, decayed in jax.tree_util.tree_leaves_with_path(optimizers.kernels(params)):
        assert decayed == (path[-1].key == "kernel"), path


def test_epochs_are_steps():
    assert schedules.steps_of(1, 100, 32) == 4
    assert schedules.steps_of(2.4, 1000, 24) == 100
    assert schedules.steps_of(450, 1_281_167, 768) == 750_684
    assert schedules.steps_of(0, 10, 3) == 0
    with pytest.raises(UserError, match="-1 epochs"):
        schedules.steps_of(-1, 10, 3)


def values(schedule, steps):
    return jnp.stack([jnp.asarray(schedule(s)) for s in steps])


def test_schedules_at_their_turns():
    cosine = schedules.cosine(2.0, 12, warmup=4, end=0.5)
    expected = [0, 0.5, 1, 1.5, 2.0, *(0.5 + 1.5 * (1 + np.cos(np.pi * s / 8)) / 2 for s in range(1, 9)), 0.5]
    np.testing.assert_allclose(values(cosine, range(14)), expected, rtol=1e-5)
    assert schedules.cosine(2.0, 4)(0) == 2.0

    linear = schedules.linear(2.0, 6, warmup=2, end=0.4)
    np.testing.assert_allclose(values(linear, range(8)), [0, 1, 2, 1.6, 1.2, 0.8, 0.4, 0.4], rtol=1e-5)

    step = schedules.step(1.0, (3, 5), warmup=2)
    np.testing.assert_allclose(values(step, range(7)), [0, 0.5, 1, 0.1, 0.1, 0.01, 0.01], rtol=1e-5)

    exponential = schedules.exponential(1.0, 2.5, 0.5, warmup=2)
    expected = [0, 0.5, 1, 0.5, 0.5, 0.25, 0.25, 0.25, 0.125]
    np.testing.assert_allclose(values(exponential, range(9)), expected, rtol=1e-5)
    assert jax.jit(exponential)(jnp.int32(4)) == pytest.approx(0.5)

    decay = schedules.average_decay(0.9)
    np.testing.assert_allclose(values(decay, (0, 8, 71, 1000)), [0.1, 0.5, 72 / 81, 0.9], rtol=1e-6)


def test_schedules_that_cannot_be():
    with pytest.raises(UserError, match="5 steps with 5 of warm-up"):
        schedules.cosine(1.0, 5, 5)
    with pytest.raises(UserError, match="5 steps with 5 of warm-up"):
        schedules.linear(1.0, 5, 5)
    for drops in ((2, 2), (5, 3), (1, 4)):
        with pytest.raises(UserError, match="must ascend and come after the 1 steps"):
            schedules.step(1.0, drops, warmup=1)
    with pytest.raises(UserError, match="every 0 steps"):
        schedules.exponential(1.0, 0)
