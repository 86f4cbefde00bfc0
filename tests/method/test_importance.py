"""Measures and their moving average, by closed form."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dms_jax import UserError, baselines
from dms_jax.method import importance
from dms_jax.method.importance import Evidence, Importance, update
from dms_jax.method.segments import Segments
from tests.counting import equations
from tests.helpers import FLOAT32_ROUNDING

EVIDENCE = Evidence(*(jnp.array(x, jnp.float32) for x in ([0.5, 1, 1], [2, -3, 0], [7, 8, 9], [0, 1, 2])))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("taylor", [1, 9, 0]),
        ("snip", [1, 3, 0]),
        ("fisher", [4, 9, 0]),
        ("magnitude", [7, 8, 9]),
        ("index", [0, -1, -2]),
    ],
)
def test_measures(name, expected):
    np.testing.assert_array_equal(baselines.importances()[name].measure(EVIDENCE), expected)


def test_segments():
    segments = Segments((3, 1, 2))
    np.testing.assert_array_equal(segments.of_element, [0, 0, 0, 1, 2, 2])
    np.testing.assert_array_equal(segments.all_equal(jnp.array([1.0, 1, 1, 5, 2, 3])), [True, True, False])
    assert not segments.all_equal(jnp.array([jnp.nan] * 6)).any()
    np.testing.assert_array_equal(
        segments.all_finite(jnp.array([1.0, jnp.inf, 1, 5, 2, jnp.nan])), [False, True, False]
    )


def test_moving_average():
    c, score = jnp.array([1.0, 2, 3, 4]), jnp.array([0.0, 10, 5, 1])
    new, skipped = update(c, score, Segments((2, 2)), jnp.array([True, True]))
    np.testing.assert_allclose(new, 0.99 * c + 0.01 * score, rtol=FLOAT32_ROUNDING)
    assert skipped == 0
    last, _ = update(c, score, Segments((2, 2)), jnp.array([True, True]), decay=0.0)
    np.testing.assert_array_equal(last, score)
    chex.assert_type([new, skipped], [jnp.float32, jnp.int32])


@pytest.mark.parametrize("bad", [[jnp.nan, 1.0], [jnp.inf, 1.0], [jnp.nan, jnp.nan], [2.0, 2.0], [0.0, 0.0]])
def test_scores_that_say_nothing_are_skipped_and_counted(bad):
    c = jnp.array([1.0, 2, 3, 4, 9])
    score = jnp.array([*bad, 7.0, 5.0, 1.0])
    new, skipped = update(c, score, Segments((2, 2, 1)), jnp.array([True, True, True]))
    np.testing.assert_array_equal(new[:2], c[:2])
    assert (new[2:4] != c[2:4]).all()
    assert skipped == 1  # one element alone always says nothing: not counted


def test_groups_that_do_not_learn_are_kept_and_not_counted():
    c, score = jnp.array([1.0, 2, 3, 4]), jnp.array([jnp.nan, 1, 5, 6])
    new, skipped = update(c, score, Segments((2, 2)), jnp.array([False, False]))
    np.testing.assert_array_equal(new, c)
    assert skipped == 0


def test_one_element_alone_learns_only_where_groups_are_compared():
    c, score, segments = jnp.array([1.0, 2, 0]), jnp.array([0.0, 10, 5]), Segments((2, 1))
    for across, alone in ((False, 0.0), (True, 0.05)):
        new, skipped = update(c, score, segments, jnp.array([True, True]), across=across)
        np.testing.assert_allclose(new, [0.99, 2.08, alone], rtol=FLOAT32_ROUNDING)
        assert skipped == 0
    new, skipped = update(c, jnp.array([3.0, 3, jnp.nan]), segments, jnp.array([True, True]), across=True)
    np.testing.assert_array_equal(new, c)
    assert skipped == 1


def test_extremes():
    low, high = Segments((3, 1, 2)).extremes(jnp.array([1.0, -1, 0, 5, 2, 3]))
    np.testing.assert_array_equal(low, [-1, 5, 2])
    np.testing.assert_array_equal(high, [1, 5, 3])


def test_measures_are_the_ones_documented():
    found = baselines.importances()
    assert set(found) == {"taylor", "taylor_last", "snip", "fisher", "magnitude", "index"}
    assert found["taylor"] == Importance() == Importance(importance.taylor, 0.99)
    assert found["taylor_last"] == Importance(importance.taylor, 0.0)


@pytest.mark.parametrize("decay", [2, 1.0, -0.1, float("nan"), "0.9", None, True])
def test_a_decay_that_is_none_is_refused(decay):
    with pytest.raises(UserError, match=r"decay .* of the importance is not possible; give a number in \[0, 1\)"):
        Importance(decay=decay)
    with pytest.raises(UserError, match="importance by 'taylor' is not possible; give a function"):
        Importance("taylor")  # pyright: ignore[reportArgumentType]


def test_the_program_adds_up_no_constants():
    """XLA would do so while it compiles: ten seconds for the 131,280 elements of a Llama of a billion parameters."""
    segments = Segments((3, 1, 4))
    program = jax.make_jaxpr(lambda c: update(c, c, segments, jnp.ones(3, bool)))(jnp.ones(8))
    assert not {"cumsum", "reduce_window_sum"} & {equation.primitive.name for equation in equations(program.jaxpr)}
