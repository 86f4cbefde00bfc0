"""What is said of a search whose network had learned nothing when its structure began to move."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dms_jax.training.metrics import MetricsWriter
from dms_jax.training.warmup import LEFT, warmup_warnings, way


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
