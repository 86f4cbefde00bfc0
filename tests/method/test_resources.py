"""Target, excess, multiplier, straight-through counts and budgets, by closed form."""

# Linen's `apply` gives a value or a tuple, options come as dictionaries, and some arguments are wrong on purpose:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportIndexIssue=false, reportOptionalSubscript=false

import math
from dataclasses import dataclass

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dms_jax import UserError
from dms_jax.method import resources
from tests.helpers import FLOAT32_ROUNDING


def test_target_falls_geometrically_and_stays():
    steps = jnp.array([-5, 0, 25, 50, 80, 100, 1000])
    found = resources.target(steps, 0.04, 100)
    np.testing.assert_allclose(found, [1, 1, 0.04**0.25, 0.2, 0.04**0.8, 0.04, 0.04], rtol=10 * FLOAT32_ROUNDING)
    chex.assert_type(found, jnp.float32)


def test_excess():
    np.testing.assert_allclose(resources.excess(jnp.float32(0.5), jnp.float32(0.25)), math.log(2), rtol=1e-6)
    assert resources.excess(jnp.float32(0.2), jnp.float32(0.25)) == 0
    chex.assert_numerical_grads(lambda r: resources.excess(r, 0.25), (jnp.float32(0.6),), order=1)
    assert jax.grad(resources.excess)(jnp.float32(0.2), 0.25) == 0


@pytest.mark.parametrize(
    ("weight", "fraction", "expected"),
    [(1.0, 0.5, 1 + math.log(2)), (1.0, 0.1, 1.0), (50.0, 0.5, 50.0), (3.0, 0.125, 3 - math.log(2)), (2.0, 0.0, 1.0)],
)
def test_the_multiplier_follows_the_miss(weight, fraction, expected):
    found = resources.next_weight(jnp.float32(weight), jnp.float32(fraction), jnp.float32(0.25))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_straight_through():
    mask, hard = jnp.array([0.0, 0.2, 0.499, 0.5, 0.9, 1.0]), jnp.array([0.0, 0, 0, 1, 1, 1])
    value, pull = jax.vjp(lambda m: resources.straight_through(m, hard), mask)
    np.testing.assert_array_equal(value, [0, 0, 0, 1, 1, 1])
    np.testing.assert_array_equal(pull(jnp.arange(6.0))[0], jnp.arange(6.0))


@dataclass
class Cost:
    """What `budget` reads of a cost."""

    name: str
    unit: str
    full: float


def macs(full):
    return Cost("macs", "MACs", full)


def test_budgets():
    assert resources.budget(macs(1001), 0.04, 10, "net") == 40  # rounded down
    assert resources.budget(macs(1001), 1.0, 10, "net") == 1001
    assert resources.budget(macs(1001), 500.9, 10, "net") == 500
    assert resources.budget(macs(1000), np.float32(0.5), 10, "net") == 500
    assert resources.budget(macs(2**41), np.int64(2**40), 10, "net") == 2**40
    assert resources.budget(Cost("weights", "bytes", 3_000_000), "2MB", 10, "net") == 2_000_000
    assert resources.budget(Cost("time", "ms", 5.5), "1.25 ms", 0.5, "net") == 1.25  # what is no count is not rounded


@pytest.mark.parametrize("asked", [0, -1, -0.5, math.nan, math.inf, -math.inf, "half", None])
def test_budgets_that_are_not_positive_numbers(asked):
    with pytest.raises(
        UserError, match=r"of MACs is not a positive number; .* MACs; 10 to 1,000 can be reached \(net\)"
    ):
        resources.budget(macs(1000), asked, 10, "net")


def test_budgets_out_of_reach_say_both_numbers():
    with pytest.raises(UserError, match=r"budget 2,000 MACs is above the full network's 1,000 \(net\)"):
        resources.budget(macs(1000), 2e3, 10, "net")
    with pytest.raises(
        UserError, match=r"budget 0.005 \(5 bytes of weights\) is below 10, the smallest reachable \(net; full: 1,000"
    ):
        resources.budget(Cost("weights", "bytes", 1000), 0.005, 10, "net")
