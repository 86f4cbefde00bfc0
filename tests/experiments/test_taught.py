"""A teacher is asked once for every example, and a number of examples is no compilation of its own."""

import jax
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.taught import Teacher, in_batches


def test_the_teacher_is_asked_once_for_every_example():
    examples = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    kernel = np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)
    asked = []

    def run(x):
        asked.append(len(x))
        return x @ kernel

    teacher = Teacher(run, examples, 3)
    for rows in ([0, 1, 2], [3, 0, 4], [0, 1, 4], [5, 2, 3], [5, 5]):
        np.testing.assert_allclose(teacher(np.array(rows)), examples[rows] @ kernel, rtol=1e-5)
    assert asked == [1] * 6


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 9))
def test_all_examples_are_answered_in_their_order(count, at_once):
    examples = np.arange(2 * count, dtype=np.float32).reshape(count, 2)
    traced = []
    run = jax.jit(lambda x: (traced.append(x.shape), x + 1)[1])
    np.testing.assert_array_equal(in_batches(run, examples, at_once), examples + 1)
    assert traced == [(at_once, 2)]
