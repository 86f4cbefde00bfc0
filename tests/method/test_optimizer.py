"""Ratios that move together, against Adam on each part alone."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dms_jax.method.optimizer import adam_together
from tests.helpers import FLOAT32_GRADIENTS

RATE = 0.1
MEMBERS = np.array([True, False, True, True])


def _updates(optimizer, gradients):
    state, update, found = optimizer.init(jnp.zeros(gradients.shape[1:])), jax.jit(optimizer.update), []
    for g in gradients:
        moved, state = update(g, state)
        found.append(np.asarray(moved))
    return np.stack(found)


@pytest.fixture
def gradients():
    return jax.random.normal(jax.random.key(0), (8, 4))


def test_the_first_step_is_the_signs_own_and_common(gradients):
    g = np.asarray(gradients[0])
    expected = -RATE * np.where(MEMBERS, 0.25 * np.sign(g) + 0.75 * np.sign(g[MEMBERS].sum()), np.sign(g))
    np.testing.assert_allclose(_updates(adam_together(RATE, 0.75, MEMBERS), gradients)[0], expected, rtol=1e-5)


def test_members_have_adam_of_each_and_of_the_sum_others_have_adam(gradients):
    together = _updates(adam_together(RATE, 0.75, MEMBERS), gradients)
    own = _updates(optax.adam(RATE), gradients)
    common = _updates(optax.adam(RATE), gradients[:, MEMBERS].sum(axis=1))
    expected = np.where(MEMBERS, 0.25 * own + 0.75 * common[:, None], own)
    np.testing.assert_allclose(together, expected, rtol=FLOAT32_GRADIENTS, atol=1e-7)


def test_a_share_of_nothing_is_adam(gradients):
    np.testing.assert_array_equal(
        _updates(adam_together(RATE, 0.0, MEMBERS), gradients), _updates(optax.adam(RATE), gradients)
    )


def test_the_rate_may_be_a_schedule(gradients):
    falling = _updates(adam_together(optax.linear_schedule(RATE, 0.0, 8), 0.5, MEMBERS), gradients)
    constant = _updates(adam_together(RATE, 0.5, MEMBERS), gradients)
    np.testing.assert_allclose(falling, constant * (1 - np.arange(8) / 8)[:, None], rtol=FLOAT32_GRADIENTS, atol=1e-7)


def test_without_the_common_movement_members_have_their_own_share_of_adam(gradients):
    own = _updates(optax.adam(RATE), gradients)
    found = _updates(adam_together(RATE, 0.75, MEMBERS, common=False), gradients)
    np.testing.assert_allclose(found, np.where(MEMBERS, 0.25 * own, own), rtol=FLOAT32_GRADIENTS, atol=1e-7)
