"""How well a network predicts: every window counts once, on any number of devices."""

import math

import jax
import numpy as np
import optax
import pytest

from dms_jax import models
from dms_jax.training import make_mesh, place
from dms_jax.training.language import bits_per_token
from tests.helpers import FLOAT32_ROUNDING

MODEL = models.create("llama", vocabulary=16, width=8, layers=1, heads=2, kv_heads=1, head_dim=4, hidden=8)


@pytest.fixture(scope="module")
def measured():
    """A network, windows in uneven batches, and the nats of every window by itself."""
    tokens = np.random.default_rng(0).integers(0, 16, (13, 9), dtype=np.int32)
    variables = jax.jit(MODEL.init)(jax.random.key(0), tokens[:1, :-1])
    logits = np.asarray(jax.jit(MODEL.apply)(variables, tokens[:, :-1]))
    nats = optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean(axis=-1)
    return variables, [{"tokens": tokens[:5]}, {"tokens": tokens[5:]}], np.asarray(nats, np.float64)


@pytest.mark.parametrize("devices", [None, 1, 8])
def test_every_window_counts_once_on_any_number_of_devices(measured, devices):
    variables, batches, nats = measured
    mesh = None if devices is None else make_mesh(jax.devices()[:devices], fsdp=min(devices, 2))
    found = bits_per_token(MODEL.apply, variables if mesh is None else place(variables, mesh), batches, mesh)
    bits = nats / math.log(2)
    assert found.value == pytest.approx(bits.mean(), rel=100 * FLOAT32_ROUNDING)
    assert found.stderr == pytest.approx(bits.std(ddof=1) / math.sqrt(13), rel=1e4 * FLOAT32_ROUNDING)
    assert found.perplexity == 2**found.value
