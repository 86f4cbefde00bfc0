"""What is said of a search whose network had learned nothing when its structure began to move."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dms_jax
from dms_jax.training.metrics import MetricsWriter
from dms_jax.training.warmup import GROWN, LEFT, growth_warnings, warmup_warnings, way


def written(directory, losses, phase="search"):
    with MetricsWriter(directory, tensorboard=False) as writer:
        for step, loss in enumerate(losses, start=1):
            writer.write(phase, step, {"loss": loss})


def test_a_loss_at_its_start_is_told(tmp_path):
    noise = np.random.default_rng(0).normal(size=80)
    written(tmp_path, 2.3 + 0.2 * noise)
    (line,) = warmup_warnings(tmp_path, 40)
    assert "learned next to nothing: the loss was 2" in line and "a warm-up of 40 steps" in line
    assert warmup_warnings(tmp_path, 0) == []


def test_what_came_after_the_warmup_is_not_looked_at(tmp_path):
    written(tmp_path, [2.3] * 40 + [0.1] * 40)
    assert warmup_warnings(tmp_path, 40)


def test_a_loss_that_has_fallen_is_no_news(tmp_path):
    written(tmp_path, np.linspace(2.3, 1.0, 40))
    assert warmup_warnings(tmp_path, 40) == []


def test_other_phases_and_losses_that_are_no_numbers_do_not_count(tmp_path):
    written(tmp_path, [2.3] * 40, phase="pretrain")
    assert warmup_warnings(tmp_path, 40) == []
    (tmp_path / "metrics.jsonl").unlink()
    written(tmp_path, [float("nan")] * 40)
    assert json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])["loss"] is None
    assert warmup_warnings(tmp_path, 40) == []
    assert warmup_warnings(tmp_path / "nowhere", 40) == []


@given(st.lists(st.floats(-1e6, 1e6), max_size=60), st.floats(0.01, 100))
def test_it_says_the_same_whatever_the_unit(losses, unit):
    found, scaled = way(losses), way([unit * loss for loss in losses])
    if found is None or scaled is None:
        assert found is scaled and len(losses) < 6
        return
    assert scaled == pytest.approx([unit * value for value in found], rel=1e-6, abs=1e-6 * unit)


@pytest.mark.parametrize("share", [0.5 * LEFT, 2 * LEFT])
def test_the_share_decides(tmp_path, share):
    written(tmp_path, [4.0] * 10 + [4.0 * (1 - share)] * 20)
    assert bool(warmup_warnings(tmp_path, 30)) == (share < LEFT)


@pytest.mark.parametrize("share", [0.5 * GROWN, 2 * GROWN])
def test_a_network_that_learns_while_it_is_searched_is_told(tmp_path, share):
    written(tmp_path, [3.0] * 10 + [3.0 * (1 - share)] * 20)
    lines = growth_warnings(tmp_path)
    assert len(lines) == (share > GROWN) and all("fell from 3 to 1 during the search" in line for line in lines)


def test_fitting_random_parameters_says_so(tmp_path):
    x = np.linspace(-1, 1, 32, dtype=np.float32).reshape(16, 2)
    draw = np.random.default_rng(0)
    params = {"a": draw.normal(size=(2, 8)).astype("float32"), "b": draw.normal(size=(8, 1)).astype("float32")}

    def network(p, x):
        return jnp.tanh(x @ p["a"]) @ p["b"]

    def loss(p, batch, key):
        return jnp.mean(jnp.square(network(p, batch) - 3.0))

    def fitted(name, **options):
        how = {"budget": {"macs": 0.9}, "compare": False, "latency_batches": (1,), "devices": jax.devices()[:1]}
        space = dms_jax.SearchSpace.from_function(network, params, x[:1])
        optimizer = lambda steps: optax.adam(0.05)  # noqa: E731
        return dms_jax.fit(
            space, params, loss=loss, batches=lambda i: x, steps=60, optimizer=optimizer, workdir=tmp_path / name,
            **how, **options,
        )  # fmt: skip

    told = "the network was not trained when its structure began to move"
    assert any(line.startswith(told) for line in fitted("random").results["warnings"])
    assert not any(line.startswith(told) for line in fitted("pretrained", pretrain=60).results["warnings"])
