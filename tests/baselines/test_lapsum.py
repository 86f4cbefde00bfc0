"""LapSum by a slow reference, its derivatives by closed form and finite differences, and its edges."""

# Linen's `apply` gives a value or a tuple, options come as dictionaries, and some arguments are wrong on purpose:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportIndexIssue=false, reportOptionalSubscript=false

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
from jax.test_util import check_grads
from scipy.stats import laplace

from dms_jax.baselines.lapsum import LapSum, lapsum
from tests.baselines.small import at_drawn_scores
from tests.helpers import FINITE_DIFFERENCES, FLOAT32_ROUNDING


def slow(scores, k, width):
    """The masks by bisection on the threshold, in float64."""
    scores = np.asarray(scores, np.float64) / width
    low, high = scores.min() - 100, scores.max() + 100
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if laplace.cdf(scores - middle).sum() > k else (low, middle)
    return laplace.cdf(scores - low)


soft = jax.jit(lapsum, static_argnums=2)
pulled = jax.jit(jax.grad(lambda s, k, w, width: jnp.sum(w * lapsum(s, k, width)), (0, 1)), static_argnums=3)


@hypothesis.settings(max_examples=80, deadline=None)
@hypothesis.given(
    scores=st.lists(st.floats(-3, 3, width=32), min_size=7, max_size=7), share=st.floats(0, 1, width=32),
    width=st.sampled_from([0.01, 0.25, 4.0]),
)  # fmt: skip
def test_lapsum_is_the_slow_one_and_its_gradients_are_finite(scores, share, width):
    s, k = np.array(scores, np.float32), np.float32(7 * share)
    m = np.asarray(soft(s, k, width))
    rounding = 50 * FLOAT32_ROUNDING * max(1.0, 1 / width)
    np.testing.assert_allclose(m, slow(s, k, width), atol=rounding)
    assert abs(m.sum() - k) < rounding and m.min() >= 0 and m.max() <= 1
    order = np.argsort(s, kind="stable")
    assert (np.diff(m[order]) >= -rounding).all()
    more = np.asarray(soft(s, np.float32(min(7.0, k + 0.5)), width))
    assert (more >= m - rounding).all()
    to_scores, to_k = pulled(s, k, np.arange(7, dtype=np.float32), width)
    assert np.isfinite(to_scores).all() and np.isfinite(to_k)
    np.testing.assert_allclose(pulled(s, k, np.ones(7, np.float32), width)[1], 1.0, atol=1e-5)  # the sum is k


def test_lapsum_edges():
    np.testing.assert_allclose(soft(jnp.zeros(4), jnp.float32(1), 0.25), 0.25, atol=FLOAT32_ROUNDING)
    np.testing.assert_allclose(soft(jnp.arange(4.0) * 50, jnp.float32(2), 0.25), [0, 0, 1, 1], atol=FLOAT32_ROUNDING)
    np.testing.assert_array_equal(soft(jnp.arange(4.0), jnp.float32(4), 0.25), 1)
    np.testing.assert_allclose(soft(jnp.arange(4.0), jnp.float32(0), 0.25), 0, atol=FLOAT32_ROUNDING)
    for k in (0.0, 0.3, 1.0):  # one element alone
        np.testing.assert_allclose(soft(jnp.array([5.0]), jnp.float32(k), 0.25), [k], atol=FLOAT32_ROUNDING)
        to_scores, to_k = pulled(jnp.array([5.0]), jnp.float32(k), jnp.ones(1), 0.25)
        np.testing.assert_allclose(to_scores, 0, atol=1e-6)
        np.testing.assert_allclose(to_k, 1, atol=1e-6)
    batch = soft(jnp.array([[0.0, 1, -jnp.inf], [1, 0, 2]]), jnp.array([1.5, 2.0]), 0.25)
    np.testing.assert_allclose(batch[0, :2], slow([0.0, 1.0], 1.5, 0.25), atol=1e-6)
    assert batch[0, 2] == 0
    np.testing.assert_allclose(batch[1], slow([1.0, 0.0, 2.0], 2.0, 0.25), atol=1e-6)
    gone, _ = pulled(jnp.array([0.0, 1, -jnp.inf]), jnp.float32(1.5), jnp.ones(3), 0.25)
    assert np.isfinite(gone).all() and gone[2] == 0


def test_many_scores_sum_to_k():
    draw = np.random.default_rng(0)
    for scale in (1e-3, 1.0, 100.0):
        s = jnp.asarray(scale * draw.normal(size=20_000), jnp.float32)
        assert abs(np.asarray(soft(s, jnp.float32(7_000.5), 0.25), np.float64).sum() - 7_000.5) < 0.1


def test_lapsum_gradients():
    scores, k = jnp.array([0.1, 0.5, -0.1, 2.0, -1.0, 0.3]), jnp.float32(2.6)
    weights = jnp.array([1.0, -2.0, 0.5, 3.0, 4.0, 0.7])
    check_grads(
        lambda s, k: lapsum(s, k, 0.5), (scores, k), 1, modes=["rev"], atol=FINITE_DIFFERENCES, rtol=FINITE_DIFFERENCES
    )
    to_scores, to_k = pulled(scores, k, weights, 0.5)
    m = slow(scores, 2.6, 0.5)
    f = np.minimum(m, 1 - m) / 0.5  # the density of a Laplace distribution is its smaller tail over the width
    mean = float(np.asarray(weights) @ f / f.sum())
    np.testing.assert_allclose(to_k, mean, rtol=1e-4)
    np.testing.assert_allclose(to_scores, f * (np.asarray(weights) - mean), rtol=1e-3, atol=1e-5)


def test_lapsum_strategy_is_the_operator_of_every_group(layout):
    masks, asked = at_drawn_scores(LapSum(), layout)
    for name, (s, k) in asked.items():
        np.testing.assert_allclose(masks[name], slow(s, float(k), 0.25), atol=1e-5)
        assert abs(float(jnp.sum(masks[name]) - k)) < 1e-4
