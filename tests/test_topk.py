"""The operator: values by hand, invariants, edge cases, derivatives, cost."""

from functools import partial

import chex
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

from dms_jax import topk
from tests.helpers import BFLOAT16_ROUNDING, FINITE_DIFFERENCES, FLOAT32_ROUNDING

# Compiled: one dispatch a call instead of forty, and it is how they are used.
normalize_importance = jax.jit(topk.normalize_importance, static_argnames="segments")
soft_mask = jax.jit(topk.soft_mask, static_argnames="segments")
hard_mask = jax.jit(topk.hard_mask, static_argnames="segments")
kept_count = topk.kept_count

# A fixed length, so that all the examples of a property share one compilation.
LENGTH = 12
VALUES = st.floats(width=32, allow_subnormal=False)
VECTORS = hnp.arrays(np.float32, LENGTH, elements=VALUES | st.sampled_from([0.0, -0.0, 1.0, np.nan, -np.inf]))
DISTINCT = hnp.arrays(np.float32, LENGTH, elements=VALUES.filter(lambda c: c == c), unique=True)
RATIOS = st.floats(-0.5, 1.5, width=32, allow_subnormal=False)  # XLA on a CPU takes subnormals for 0


def ranks_by_comparison(importance):
    """#{j : c_j < c_i}, ties by index and NaN lowest: Python's own tuple order, element by element."""
    keys = [(not np.isnan(c), 0.0 if np.isnan(c) else float(c), i) for i, c in enumerate(importance)]
    return np.array([sum(other < key for other in keys) for key in keys])


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x, np.float64)))


# Values


@pytest.mark.parametrize(
    ("importance", "expected"),
    [
        ([3.0, 1.0, 4.0, 2.0], [0.5, 0.0, 0.75, 0.25]),
        ([-1e30, 1e-30, 1e30, 0.0], [0.0, 0.5, 0.75, 0.25]),  # scale does not matter
        ([7.0, 7.0, 7.0, 7.0], [0.0, 0.25, 0.5, 0.75]),  # ties by index
        ([0.0, -0.0, 0.0, -1.0], [0.25, 0.5, 0.75, 0.0]),  # -0 is 0
        ([2.0, np.nan, -np.inf, np.nan], [0.75, 0.0, 0.5, 0.25]),  # NaN below -inf, by index
        ([np.inf, 5.0], [0.5, 0.0]),
        ([9.0], [0.5]),
        ([[2.0, 1.0], [1.0, 2.0]], [[0.5, 0.0], [0.0, 0.5]]),
    ],
)
def test_normalized_importance_by_hand(importance, expected):
    result = normalize_importance(jnp.array(importance))
    assert result.dtype == jnp.float32
    np.testing.assert_array_equal(result, np.array(expected, np.float32))


def test_soft_mask_by_hand():
    # N = 4, so lambda (c' - a) is 4 * (1/2, 0, 3/4, 1/4) - 4 a; 1 / (1 + e) = 0.26894142.
    mask = soft_mask(jnp.array([3.0, 1.0, 4.0, 2.0]), 0.5)
    np.testing.assert_allclose(mask, [0.5, 0.11920292, 0.73105858, 0.26894142], rtol=FLOAT32_ROUNDING)
    mask = soft_mask(jnp.array([3.0, 1.0, 4.0, 2.0]), 0.25, sharpness=16.0)
    np.testing.assert_allclose(mask, [0.98201379, 0.01798621, 0.99966465, 0.5], rtol=FLOAT32_ROUNDING)


def test_single_element_has_fraction_half_and_sharpness_eight():
    np.testing.assert_allclose(soft_mask(jnp.ones(1), 0.25), sigmoid([2.0]), rtol=FLOAT32_ROUNDING)
    np.testing.assert_allclose(soft_mask(jnp.ones(1), 0.25, sharpness=4.0), sigmoid([1.0]), rtol=FLOAT32_ROUNDING)
    assert hard_mask(jnp.ones(1), 0.5) == 1 and hard_mask(jnp.ones(1), 0.51) == 0


def test_hard_mask_and_count_by_hand():
    importance = jnp.array([3.0, 1.0, 4.0, 2.0])
    np.testing.assert_array_equal(hard_mask(importance, 0.25), [1, 0, 1, 1])
    np.testing.assert_array_equal(hard_mask(importance, 0.26), [1, 0, 1, 0])
    np.testing.assert_array_equal(kept_count(hard_mask(importance, 0.0)), 4)
    np.testing.assert_array_equal(kept_count(hard_mask(importance, 1.0)), 0)
    assert kept_count(jnp.ones((2, 3))).dtype == jnp.int32


@pytest.mark.parametrize("size", [3, 10, 49, 100, 1000, 99_991])
def test_ratio_of_j_nths_drops_exactly_j(size):
    # rank / N must be the float32 nearest to it: one unit less and the element at the ratio would be lost.
    fractions = normalize_importance(jnp.arange(size))
    np.testing.assert_array_equal(fractions, np.arange(size, dtype=np.float32) / np.float32(size))
    dropped = np.unique(np.linspace(0, size, 50).astype(int))
    masks = jax.vmap(partial(hard_mask, jnp.arange(size)))(dropped.astype(np.float32) / np.float32(size))
    np.testing.assert_array_equal(kept_count(masks), size - dropped)


# Invariants


@given(VECTORS)
def test_ranks_are_those_of_comparison(importance):
    expected = ranks_by_comparison(importance)
    np.testing.assert_array_equal(np.sort(expected), np.arange(LENGTH))
    np.testing.assert_array_equal(normalize_importance(importance), expected.astype(np.float32) / np.float32(LENGTH))


@given(DISTINCT, st.permutations(range(LENGTH)), RATIOS)
def test_masks_move_with_their_elements(importance, order, ratio):
    order = np.array(order)
    mask = soft_mask(importance, ratio)
    np.testing.assert_array_equal(soft_mask(importance[order], ratio), mask[order])


@given(VECTORS, RATIOS)
def test_count_is_that_of_fractions_at_least_the_ratio(importance, ratio):
    expected = np.sum(np.asarray(normalize_importance(importance)) >= np.float32(ratio))
    assert kept_count(soft_mask(importance, ratio)) == expected
    assert kept_count(hard_mask(importance, ratio)) == expected


@given(
    VECTORS,
    RATIOS,
    st.sampled_from([jnp.float32, jnp.bfloat16, jnp.float16]),
    st.floats(2.0**-8, 128.0, width=32),
)
def test_hard_mask_is_the_side_of_one_half_in_every_dtype(importance, ratio, dtype, sharpness):
    importance = jnp.array(importance).astype(dtype)
    soft = soft_mask(importance, ratio, sharpness=sharpness)
    hard = hard_mask(importance, ratio, sharpness=sharpness)
    assert soft.dtype == hard.dtype == dtype
    assert jnp.all((soft >= 0) & (soft <= 1))
    np.testing.assert_array_equal(soft >= 0.5, hard == 1)


@given(VECTORS, RATIOS)
def test_masks_fall_as_the_ratio_grows(importance, ratio):
    assert np.all(soft_mask(importance, ratio + 0.1) <= soft_mask(importance, ratio))


# Dtypes and axes


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_ranks_are_exact_for_narrow_floats(dtype):
    # bfloat16 counts to 256: these ranks and fractions would collapse in it.
    importance = jnp.arange(4096.0)[::-1].astype(dtype)
    fractions = normalize_importance(importance)
    assert fractions.dtype == jnp.float32
    assert len(np.unique(fractions)) == 4096
    mask = soft_mask(importance, 0.3)
    assert mask.dtype == dtype
    reference = soft_mask(importance.astype(jnp.float32), 0.3)
    np.testing.assert_allclose(mask.astype(jnp.float32), reference, atol=BFLOAT16_ROUNDING)
    assert kept_count(mask) == kept_count(reference)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "uint32", "bool"])
def test_integers_rank_as_integers(dtype):
    low = np.iinfo(dtype).min if dtype != "bool" else 0
    high = np.iinfo(dtype).max if dtype != "bool" else 1
    importance = jnp.array([high, low, high, low], dtype)
    np.testing.assert_array_equal(normalize_importance(importance), [0.5, 0.0, 0.75, 0.25])
    assert soft_mask(importance, 0.5).dtype == jnp.float32


def test_large_integers_are_not_rounded_to_floats():
    importance = jnp.array([2**24 + 1, 2**24], jnp.int32)  # equal in float32
    np.testing.assert_array_equal(normalize_importance(importance), [0.5, 0.0])


def test_float64_is_ranked_in_float64():
    with jax.enable_x64(True):
        importance = jnp.array([1 + 1e-12, 1.0, np.nan, -1e300])
        np.testing.assert_array_equal(normalize_importance(importance), [0.75, 0.5, 0.0, 0.25])
        assert soft_mask(importance, 0.5).dtype == jnp.float64


@pytest.mark.parametrize("rows", [(), (3,), (1,), (2, 3), (0,)])
def test_rows_are_ranked_by_themselves(rows):
    importance = jax.random.normal(jax.random.key(0), (*rows, 7))
    ratio = jnp.linspace(0.1, 0.8, max(1, int(np.prod(rows)))).reshape(-1)[: int(np.prod(rows))].reshape(rows)
    mask = soft_mask(importance, ratio)
    chex.assert_shape(mask, (*rows, 7))
    chex.assert_shape(kept_count(mask), rows)
    for row in np.ndindex(*rows):
        np.testing.assert_array_equal(mask[row], soft_mask(importance[row], ratio[row]))


def test_ratio_broadcasts_to_the_leading_axes():
    importance = jax.random.normal(jax.random.key(1), (2, 3, 5))
    ratio = jnp.array([0.1, 0.5, 0.9])
    np.testing.assert_array_equal(soft_mask(importance, ratio), soft_mask(importance, jnp.broadcast_to(ratio, (2, 3))))


def test_sharpness_may_differ_between_rows():
    importance = jax.random.normal(jax.random.key(2), (2, 5))
    mask = soft_mask(importance, 0.4, sharpness=jnp.array([5.0, 20.0]))
    np.testing.assert_array_equal(mask[0], soft_mask(importance[0], 0.4))
    np.testing.assert_array_equal(mask[1], soft_mask(importance[1], 0.4, sharpness=20.0))


@pytest.mark.parametrize("compiled", [True, False])
def test_same_values_with_and_without_jit(compiled):
    importance = jax.random.normal(jax.random.key(3), (33,))
    mask = (soft_mask if compiled else topk.soft_mask)(importance, 0.3)
    expected = sigmoid(33 * (ranks_by_comparison(np.asarray(importance)) / 33 - 0.3))
    np.testing.assert_allclose(mask, expected, atol=33 * FLOAT32_ROUNDING)


def test_vmap_over_importance_and_over_ratios():
    importance = jax.random.normal(jax.random.key(4), (4, 9))
    ratio = jnp.linspace(0.0, 0.9, 4)
    np.testing.assert_array_equal(jax.vmap(soft_mask)(importance, ratio), soft_mask(importance, ratio))
    many = jax.vmap(soft_mask, in_axes=(None, 0))(importance[0], ratio)
    np.testing.assert_array_equal(many, jnp.stack([soft_mask(importance[0], a) for a in ratio]))


def test_one_trace_for_all_values():
    chex.clear_trace_counter()
    mask = jax.jit(chex.assert_max_traces(topk.soft_mask, n=1))
    for step in range(4):
        mask(jax.random.normal(jax.random.key(step), (8,)), jnp.float32(step / 4))


# Derivatives


def mask_derivatives(ratio, size=16):
    importance = jax.random.normal(jax.random.key(5), (size,))
    mask = partial(soft_mask, importance)
    return np.asarray(mask(ratio), np.float64), jax.jacfwd(mask)(ratio), jax.jacfwd(jax.jacfwd(mask))(ratio)


@pytest.mark.parametrize("ratio", [-0.25, 0.0, 0.3, 0.97])
def test_derivatives_are_the_closed_form(ratio):
    m, first, second = mask_derivatives(ratio)
    np.testing.assert_allclose(first, -16 * m * (1 - m), rtol=1e-4, atol=16 * FLOAT32_ROUNDING)
    np.testing.assert_allclose(second, 16**2 * m * (1 - m) * (1 - 2 * m), rtol=1e-4, atol=16**2 * FLOAT32_ROUNDING)


def test_forward_reverse_and_finite_differences_agree():
    importance = jax.random.normal(jax.random.key(6), (2, 8))
    ratio = jnp.array([0.2, 0.6])
    np.testing.assert_allclose(
        jax.jacfwd(partial(soft_mask, importance))(ratio),
        jax.jacrev(partial(soft_mask, importance))(ratio),
        rtol=FLOAT32_ROUNDING,
    )
    chex.assert_numerical_grads(
        partial(soft_mask, importance),
        (ratio,),
        order=2,
        atol=FINITE_DIFFERENCES,
        rtol=FINITE_DIFFERENCES,
        eps=1e-2,
    )


def test_gradient_survives_bfloat16_importance():
    importance = jax.random.normal(jax.random.key(7), (8,)).astype(jnp.bfloat16)
    narrow = jax.grad(lambda a: soft_mask(importance, a).astype(jnp.float32).sum())(0.4)
    wide = jax.grad(lambda a: soft_mask(importance.astype(jnp.float32), a).sum())(0.4)
    assert narrow.dtype == jnp.float32
    np.testing.assert_allclose(narrow, wide, rtol=BFLOAT16_ROUNDING)


def test_no_gradient_reaches_the_importance():
    importance = jnp.array([0.3, np.nan, -np.inf, 1.0])
    for function in (normalize_importance, partial(soft_mask, ratio=0.4), partial(hard_mask, ratio=0.4)):
        _, tangent = jax.jvp(function, (importance,), (jnp.ones(4),))
        np.testing.assert_array_equal(tangent, jnp.zeros(4))
        gradient = jax.grad(lambda c, function=function: function(c).sum())(importance)
        np.testing.assert_array_equal(gradient, jnp.zeros(4))


def test_hard_mask_has_no_gradient():
    assert jax.grad(lambda a: hard_mask(jnp.arange(4.0), a).sum())(0.3) == 0


# Groups laid end to end

SIZES = (5, 1, 1, 12, 2, 3)


@given(hnp.arrays(np.float32, sum(SIZES), elements=VALUES | st.sampled_from([0.0, -0.0, 1.0, np.nan])))
def test_segments_equal_group_by_group(importance):
    parts = np.split(importance, np.cumsum(SIZES)[:-1])
    expected = jnp.concatenate([normalize_importance(part) for part in parts])
    np.testing.assert_array_equal(normalize_importance(importance, segments=SIZES), expected)


@given(hnp.arrays(np.float32, sum(SIZES), elements=VALUES), st.lists(RATIOS, min_size=6, max_size=6))
def test_masks_of_segments_are_those_of_each_group(importance, ratios):
    ratios, sharpness = np.array(ratios, np.float32), np.arange(1.0, 7.0, dtype=np.float32)
    parts = np.split(importance, np.cumsum(SIZES)[:-1])
    for several, each in (({}, [{}] * 6), ({"sharpness": sharpness}, [{"sharpness": x} for x in sharpness])):
        for mask in (soft_mask, hard_mask):
            expected = [mask(part, a, **one) for part, a, one in zip(parts, ratios, each, strict=True)]
            np.testing.assert_array_equal(
                mask(importance, ratios, segments=SIZES, **several), jnp.concatenate(expected)
            )


def test_segments_along_the_last_of_several_axes():
    importance, ratios = jax.random.normal(jax.random.key(8), (3, sum(SIZES))), jnp.linspace(0.0, 0.9, 18).reshape(3, 6)
    masks = soft_mask(importance, ratios, segments=SIZES)
    for row in range(3):
        np.testing.assert_array_equal(masks[row], soft_mask(importance[row], ratios[row], segments=SIZES))


@pytest.mark.parametrize("size", [1, 2, 7, 64])
def test_counts_and_ratios_are_of_the_operator(size):
    """`count_at` is what the masks keep, `ratio_for` its inverse; the sharpness and the smallest c' are its, too."""
    c = jnp.arange(float(size))
    for ratio in np.linspace(-0.2, 1.2, 29, dtype=np.float32):
        assert topk.count_at(ratio, size) == kept_count(hard_mask(c, ratio))
    for count in range(size + 1):
        assert kept_count(hard_mask(c, np.float32(topk.ratio_for(count, size)))) == count
    assert topk.lowest_fraction(size) == normalize_importance(c).min()
    np.testing.assert_array_equal(soft_mask(c, 0.3), soft_mask(c, 0.3, sharpness=topk.usual_sharpness(size)))


def test_segments_take_one_sort_however_many_there_are():
    def count(sizes):
        return len(jax.make_jaxpr(partial(topk.normalize_importance, segments=sizes))(jnp.ones(sum(sizes))).eqns)

    assert count((4,) * 50) == count((4,) * 2) < 45
    text = str(jax.make_jaxpr(partial(topk.normalize_importance, segments=(3, 5)))(jnp.ones(8)))
    assert text.count(" sort[") == 1


def test_segments_pass_no_gradient():
    gradient = jax.grad(lambda c: normalize_importance(c, segments=(2, 2)).sum())(jnp.arange(4.0))
    np.testing.assert_array_equal(gradient, jnp.zeros(4))


# Cost


def test_ten_million_elements_take_linear_memory():
    size = 10**7
    loss = jax.jit(jax.grad(lambda a, c: soft_mask(c, a).sum()))
    compiled = loss.lower(jnp.float32(0), jax.ShapeDtypeStruct((size,), jnp.float32)).compile()
    memory = compiled.memory_analysis()
    assert memory is not None
    # Eight arrays of N float32: 320 MB, where one pairwise matrix would take 400 TB.
    assert memory.temp_size_in_bytes <= 8 * 4 * size


# Bad input


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: topk.normalize_importance(1.0), "importance is a scalar"),
        (lambda: topk.soft_mask(jnp.float32(1), 0.5), "importance is a scalar"),
        (lambda: topk.hard_mask(1.0, 0.5), "importance is a scalar"),
        (lambda: kept_count(1.0), "mask is a scalar"),
        (lambda: topk.soft_mask(jnp.ones((3, 0)), 0.5), r"shape \(3, 0\) has N = 0"),
        (lambda: topk.normalize_importance(jnp.ones(0)), "N = 0"),
        (lambda: topk.normalize_importance(jnp.ones(2, jnp.complex64)), "complex64"),
        (
            lambda: topk.soft_mask(jnp.ones((3, 4)), jnp.ones(4)),
            r"ratio of shape \(4,\) does not broadcast to \(3,\)",
        ),
        (
            lambda: topk.soft_mask(jnp.ones(4), jnp.ones(4)),
            r"ratio of shape \(4,\) does not broadcast to \(\)",
        ),
        (lambda: soft_mask(jnp.ones(4), jnp.ones(4)), "does not broadcast"),
        (lambda: topk.hard_mask(jnp.ones((3, 4)), 0.5, sharpness=jnp.ones(2)), r"sharpness of shape \(2,\)"),
        (lambda: topk.soft_mask(jnp.ones(4), 0.5, sharpness=0.0), "sharpness 0.0 is not above 0"),
        (lambda: topk.soft_mask(jnp.ones(4), 0.5, sharpness=float("nan")), "sharpness nan is not above 0"),
        (lambda: topk.normalize_importance(jnp.ones(4), segments=(2, 3)), "segments sum to 5, importance has 4"),
        (lambda: topk.normalize_importance(jnp.ones(4), segments=(4, 0)), "group without elements"),
        (lambda: topk.soft_mask(jnp.ones((2, 2)), 0.5, segments=(2, 2)), "segments sum to 4, importance has 2"),
        (lambda: topk.soft_mask(jnp.ones(4), jnp.ones(3), segments=(2, 2)), r"\(3,\) does not broadcast to \(2,\)"),
    ],
)
def test_bad_input_is_a_value_error_that_says_so(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_traced_sharpness_is_accepted():
    mask = jax.jit(lambda s: topk.soft_mask(jnp.arange(4.0), 0.5, sharpness=s))(4.0)
    np.testing.assert_array_equal(mask, topk.soft_mask(jnp.arange(4.0), 0.5))
