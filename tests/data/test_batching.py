import itertools

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from dms_jax import UserError
from dms_jax.data import batches


def _numbers(length):
    return {"number": np.arange(length), "square": np.arange(length) ** 2}


@hypothesis.given(st.integers(1, 30), st.integers(1, 70), st.integers(0, 5))
def test_every_epoch_is_a_permutation(length, batch_size, seed):
    batch = batches(_numbers(length), batch_size, seed)
    steps = -(-3 * length // batch_size)
    seen = np.concatenate([batch(step)["number"] for step in range(steps)])[: 3 * length]
    for epoch in seen.reshape(3, length):
        np.testing.assert_array_equal(np.sort(epoch), np.arange(length))


@hypothesis.given(st.permutations(range(12)))
def test_a_batch_depends_on_the_step_alone(order):
    in_order = [batches(_numbers(10), 4, 7)(step)["number"] for step in range(12)]
    shared = batches(_numbers(10), 4, 7)
    for step in order:
        np.testing.assert_array_equal(shared(step)["number"], in_order[step])


def test_arrays_stay_together():
    batch = batches(_numbers(10), 7, 0)
    for step in range(5):
        examples = batch(step)
        np.testing.assert_array_equal(examples["square"], examples["number"] ** 2)
        assert examples["number"].shape == (7,)


def test_epochs_and_seeds_differ():
    orders = [batches(_numbers(50), 50, seed)(epoch)["number"] for seed in range(3) for epoch in range(3)]
    assert not any(np.array_equal(a, b) for a, b in itertools.combinations(orders, 2))


def test_a_far_step_costs_no_more_than_its_epochs():
    batch = batches(_numbers(10), 4, 0)
    assert batch(10**12)["number"].shape == (4,)


def test_batches_are_copies():
    arrays = _numbers(10)
    batches(arrays, 10, 0)(0)["number"][:] = -1
    np.testing.assert_array_equal(arrays["number"], np.arange(10))


@pytest.mark.parametrize(
    "arrays, batch_size, said",
    [
        ({}, 1, "lengths {}"),
        ({"a": np.zeros(0)}, 1, "'a': 0"),
        ({"a": np.zeros(2), "b": np.zeros(3)}, 1, "'a': 2, 'b': 3"),
        ({"a": np.zeros(2)}, 0, "batch size 0"),
    ],
)
def test_bad_input_is_named(arrays, batch_size, said):
    with pytest.raises(UserError, match=said):
        batches(arrays, batch_size, 0)


def test_there_is_no_step_before_the_first():
    with pytest.raises(ValueError, match="step -1"):
        batches(_numbers(3), 1, 0)(-1)
