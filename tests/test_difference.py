"""What `verify` compares with: no output, part of a number or NaN escapes it."""

import hypothesis
import hypothesis.strategies as st
import jax.numpy as jnp
import numpy as np

import dms_jax
from dms_jax.shrink import difference

DTYPES = [np.float32, np.float16, jnp.bfloat16, np.float64, np.complex64, np.int32, np.bool_]


@hypothesis.given(st.lists(st.sampled_from(DTYPES), min_size=1, max_size=4), st.data())
def test_one_number_that_differs_anywhere_is_found(dtypes, data):
    draw = np.random.default_rng(data.draw(st.integers(0, 99)))
    outputs = [np.asarray(draw.integers(0, 2, (2, 3))).astype(dtype) for dtype in dtypes]
    assert difference(outputs, [o.copy() for o in outputs]) == 0.0
    which = data.draw(st.integers(0, len(outputs) - 1))
    others = [o.copy() for o in outputs]
    at, kind = (data.draw(st.integers(0, 1)), data.draw(st.integers(0, 2))), outputs[which].dtype
    if kind.kind == "b":
        others[which][at], expected = not others[which][at], 1.0
    elif kind.kind == "i":
        others[which][at], expected = others[which][at] + 3, 3.0
    else:
        steps = {1.0: 1.0, float("nan"): float("inf"), float("inf"): float("inf")}
        steps |= {2j: 2.0, complex(0, float("nan")): float("inf")} if kind.kind == "c" else {}
        step = data.draw(st.sampled_from(list(steps)))
        others[which][at], expected = others[which][at] + kind.type(step), steps[step]
    assert difference(outputs, others) == difference(others, outputs) == expected


def test_numbers_that_are_not_finite_on_both_sides_are_the_same():
    odd = np.array([np.nan, np.inf, -np.inf, 1.0])
    assert difference([odd], [odd.copy()]) == 0.0
    assert difference([odd], [-odd]) == float("inf")


def test_verify_finds_a_nan_in_the_last_output_of_one_side():
    """A weight of what is dropped is NaN: times a mask of 0 it stays so, and the smaller network does not have it."""
    params = {"a": jnp.ones((4, 8)).at[0, 5].set(jnp.nan), "b": jnp.ones((8, 2))}
    x = jnp.ones((3, 4))
    space = dms_jax.SearchSpace.from_function(lambda p, x: (x, x @ p["a"] @ p["b"]), params, x)
    assert space.verify(params, {"a": (0, 1)}, x) == float("inf")
    assert space.verify({**params, "a": jnp.ones((4, 8))}, {"a": (0, 1)}, x) == 0.0
