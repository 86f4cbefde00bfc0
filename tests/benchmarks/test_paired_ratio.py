"""Times within a round share their noise: their ratio is told more nearly than by medians of all rounds."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.benchmarks import step
from experiments.benchmarks.timing import paired_ratio


@settings(max_examples=50, deadline=None)
@given(st.integers(6, 80), st.floats(0.5, 2.0), st.integers(0, 2**32 - 1))
def test_noise_that_both_share_cancels(rounds, factor, seed):
    others = np.random.default_rng(seed).lognormal(0, 1, rounds)
    middle, least, most = paired_ratio(factor * others, others)
    np.testing.assert_allclose((middle, least, most), factor, rtol=1e-12)


@pytest.mark.parametrize("rounds", [6, 7, 25, 60])
def test_the_interval_holds_the_median_ratio_as_often_as_it_says(rounds):
    rng = np.random.default_rng(rounds)
    held = 0
    for _ in range(1000):
        others = rng.lognormal(0, 0.3, rounds)
        _, least, most = paired_ratio(others * rng.lognormal(np.log(1.02), 0.1, rounds), others)
        held += least <= 1.02 <= most
    assert held >= 930


def test_too_few_rounds_are_refused():
    with pytest.raises(step.UserError, match="at least 6"):
        step.main(step.Options(quick=True, rounds=5))
