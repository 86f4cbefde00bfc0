"""Steps of a device, told from the times of pieces."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dms_jax.budgets.multiples import CANDIDATES, multiple, offsets

START = 256


@given(
    step=st.sampled_from([1, *CANDIDATES]),
    always=st.floats(0, 2.0),
    noise=st.floats(0, 0.002),
    seed=st.integers(0, 2**16),
)
def test_the_steps_of_a_device_are_found(step, always, noise, seed):
    """ms(n) = always + ceil(n / step) step / 256, of three pieces."""
    rng = np.random.default_rng(seed)

    def time(offset):
        n = START + offset
        return (always + -(-n // step) * step / START) * (1 + noise * rng.uniform())

    found = multiple([time] * 3, [128] * 3)
    lost = step / START < 0.06 * (1 + always)  # in the noise: then nothing, or steps that every such step ends
    assert found == step or (lost and found < step and step % found == 0)


def test_groups_without_room_are_asked_for_small_steps_alone():
    assert offsets(16) == [0, 1, 4, 8, 16]

    def time(offset):
        assert offset <= 16
        return float(-(-(32 + offset) // 8))

    assert multiple([time], [16]) == 8


@pytest.mark.parametrize("times", [[], [lambda offset: None], [lambda offset: 0.0], [lambda offset: 1.0]])
def test_nothing_seen_is_no_step(times):
    assert multiple(times, [64] * len(times)) == 1


def test_one_piece_with_steps_among_three_does_not_decide():
    smooth, steps = (lambda n: 256.0 + n), (lambda n: 256.0 + -(-n // 8) * 8)
    assert multiple([smooth, steps, smooth], [64] * 3) == 1


def test_times_that_say_nothing_are_seldom_steps():
    rng = np.random.default_rng(0)
    found = [multiple([lambda offset: float(rng.uniform(1, 2))] * 4, [128] * 4) for _ in range(1000)]
    assert np.mean([m > 1 for m in found]) < 0.2  # of four pieces whose times are noise alone
