"""The projection onto the capped simplex, by a slow reference."""

# Linen's `apply` gives a value or a tuple, options come as dictionaries, and some arguments are wrong on purpose:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportIndexIssue=false, reportOptionalSubscript=false

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
from jax.test_util import check_grads

from dms_jax.baselines.capped_simplex import CappedSimplex, capped_simplex
from tests.baselines.small import at_drawn_scores
from tests.helpers import FINITE_DIFFERENCES, FLOAT32_ROUNDING


def slow(scores, k):
    """The projection by trying every interval between two kinks of sum(clip(s - tau, 0, 1)), in float64."""
    scores = np.asarray(scores, np.float64)
    kinks = np.sort(np.concatenate([scores, scores - 1]))
    sums = np.array([np.clip(scores - t, 0, 1).sum() for t in kinks])  # falls
    i = int(np.searchsorted(-sums, -k, side="right"))
    if i == 0 or i == len(kinks):
        return np.clip(scores - kinks[min(i, len(kinks) - 1)], 0, 1)
    share = 0.0 if sums[i - 1] == sums[i] else (sums[i - 1] - k) / (sums[i - 1] - sums[i])
    return np.clip(scores - (kinks[i - 1] + share * (kinks[i] - kinks[i - 1])), 0, 1)


simplex = jax.jit(capped_simplex)


@hypothesis.settings(max_examples=60)
@hypothesis.given(
    scores=st.lists(st.floats(-3, 3, width=32), min_size=7, max_size=7), share=st.floats(0, 1, width=32),
    scale=st.sampled_from([0.01, 1.0, 10.0]),
)  # fmt: skip
def test_capped_simplex_is_the_slow_one(scores, share, scale):
    s, k = np.array(scores, np.float32) * np.float32(scale), np.float32(7 * share)
    m = np.asarray(simplex(s, k))
    np.testing.assert_allclose(m, slow(s, k), atol=20 * FLOAT32_ROUNDING * max(1.0, scale))
    assert abs(m.sum() - k) < 50 * FLOAT32_ROUNDING * max(1.0, scale)


def test_capped_simplex_edges():
    np.testing.assert_allclose(simplex(jnp.zeros(4), jnp.float32(1)), 0.25, atol=FLOAT32_ROUNDING)
    np.testing.assert_array_equal(simplex(jnp.arange(4.0) * 5, jnp.float32(2)), [0, 0, 1, 1])
    np.testing.assert_allclose(simplex(jnp.arange(4.0), jnp.float32(4)), 1, atol=FLOAT32_ROUNDING)
    np.testing.assert_allclose(simplex(jnp.arange(4.0), jnp.float32(0)), 0, atol=FLOAT32_ROUNDING)
    batch = simplex(jnp.array([[0.0, 1, -jnp.inf], [1, 0, 2]]), jnp.array([1.5, 2.0]))
    np.testing.assert_allclose(batch, [[0.25 + 0.25, 1, 0], [1, 0, 1]], atol=FLOAT32_ROUNDING)


def test_capped_simplex_gradients():
    scores = jnp.array([0.1, 0.5, -0.1, 2.0, -3.0, 0.3])
    k, weights = jnp.float32(2.6), jnp.array([1.0, -2.0, 0.5, 3.0, 4.0, 0.7])
    m = capped_simplex(scores, k)
    assert int(((m > 0) & (m < 1)).sum()) == 4
    check_grads(capped_simplex, (scores, k), 1, modes=["rev"], atol=FINITE_DIFFERENCES, rtol=FINITE_DIFFERENCES)
    to_scores, to_k = jax.grad(lambda s, k: jnp.sum(weights * capped_simplex(s, k)), (0, 1))(scores, k)
    inside = np.array([1.0, 1, 1, 0, 0, 1])
    mean = float((weights * inside).sum() / 4)
    np.testing.assert_allclose(to_k, mean, rtol=1e-6)
    np.testing.assert_allclose(to_scores, inside * (np.asarray(weights) - mean), rtol=1e-5)


def test_capped_simplex_strategy_is_the_operator_of_every_group(layout):
    strategy = CappedSimplex()
    masks, asked = at_drawn_scores(strategy, layout)
    kept = layout.space.by_group(strategy.kept(layout, layout.space.flat(masks)))
    for name, (s, k) in asked.items():
        np.testing.assert_allclose(masks[name], simplex(s, k), atol=1e-5)
        assert int(kept[name].sum()) == round(float(k))
