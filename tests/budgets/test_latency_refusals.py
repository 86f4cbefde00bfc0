"""What is refused of latencies: options, amounts, budgets out of reach, batches at which a network does not run."""

# pyright: reportArgumentType=false

import math

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dms_jax import Search, SearchSpace, UserError
from dms_jax.budgets import latency, timing
from dms_jax.budgets.latency import Latency
from dms_jax.budgets.memory import Memory
from tests.fake_device import Device, installed
from tests.measured import perceptron


@pytest.mark.parametrize(
    "wrong", [{"batch": 0}, {"batch": 1.5}, {"dtype": "int8"}, {"seconds": 0}, {"seconds": math.nan}]
)
def test_options_that_are_refused(wrong):
    with pytest.raises(UserError, match="of latency"):
        Latency(**wrong)


@pytest.mark.parametrize(
    ("budget", "said"),
    [
        ("3 MB", "unknown unit 'MB'"),
        ("3 m", "unknown unit 'm'"),
        (0, "not a positive number"),
        ("0ms", "not a positive number"),
        ("-1ms", "not a positive number"),
        (float("nan"), "not a positive number"),
        (None, "not a positive number"),
    ],
)
def test_amounts_that_are_refused_before_anything_is_measured(device, budget, said):
    with pytest.raises(UserError, match=said):
        Search(perceptron(), lambda p, b, k: jnp.sum(p["a"]), None, {"latency": budget}, 4)
    assert not device.wholes


def test_a_budget_above_the_full_network_is_refused(device):
    with pytest.raises(UserError, match="1,000 ms of latency is above the full network's"):
        Search(perceptron(), lambda p, b, k: jnp.sum(p["a"]), None, {"latency": "1s"}, 4)


def test_a_budget_that_no_structure_reaches_is_refused_with_both_numbers_and_another_batch(monkeypatch):
    installed(Device(call=1.0), monkeypatch)
    said = r"budget 0.001 ms of latency is below 1\.\d+, the smallest reachable.*; at a batch of 32 it takes "
    with pytest.raises(UserError, match=said + r"\S+ ms, \S+ for every 4"):
        Search(perceptron(), lambda p, b, k: jnp.sum(p["a"]), None, {"latency": "1us"}, 4)
    assert latency.LARGER == 8


def rigid(p, x):
    """It runs at a batch of 4 alone."""
    return (jnp.tanh(x @ p["a"]) @ p["b"]).reshape(4, 3)


PARAMS = {"a": jnp.ones((5, 16)), "b": jnp.ones((16, 3))}


@settings(max_examples=10, deadline=None)
@given(batch=st.one_of(st.integers(5, 99), st.integers(2**62, 2**70)), dtype=st.sampled_from([None, "bfloat16"]))
def test_a_batch_at_which_a_network_does_not_run_is_refused(batch, dtype):
    space = SearchSpace.from_function(rigid, PARAMS, jnp.ones((4, 5)))
    said = f"this network does not run at a batch of {batch:,}.*give another batch"
    with pytest.raises(UserError, match=said):
        space.with_resources(Latency(batch, dtype))
    with pytest.raises(UserError, match=said):
        space.with_resources(Memory(batch))


@pytest.mark.parametrize("failing", [jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory"), MemoryError()])
def test_what_does_not_fit_in_memory_is_refused_and_no_hint(failing, monkeypatch):
    device = installed(Device(call=1.0), monkeypatch)

    def calls(piece, shapes, seconds, what):
        if shapes[-1].shape[0] > 16:
            raise failing
        return device.calls(piece, shapes, seconds, what)

    monkeypatch.setattr(timing, "calls", calls)
    with pytest.raises(UserError, match="a batch of 17 in bfloat16 .*give another batch or dtype of latency"):
        perceptron().with_resources(Latency(17, "bfloat16"))
    with pytest.raises(UserError, match="groups be searched$"):  # it would be 8 times the batch
        Search(perceptron(), lambda p, b, k: jnp.sum(p["a"]), None, {"latency": "1us"}, 4)
