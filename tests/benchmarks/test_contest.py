"""What all methods of a contest share, on the quick text task."""

import dataclasses

import jax
import numpy as np
import pytest

from benchmarks.contest import Settings, compete
from benchmarks.text_task import QUICK, text_task
from dms_jax.training.interrupt import InterruptFlag

STEPS = 6


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    jax.config.update("jax_disable_most_optimizations", True)
    patch = pytest.MonkeyPatch()
    patch.setattr("benchmarks.task.CACHE", tmp_path_factory.mktemp("supernets"))
    yield text_task(QUICK)
    patch.undo()
    jax.config.update("jax_disable_most_optimizations", False)


def _run(task, settings):
    return compete(task, settings, 0, InterruptFlag(), lambda text: None)


@pytest.mark.parametrize("schedule", ["joint", "restart"])
def test_a_search_that_removes_nothing_is_plain_training(task, schedule):
    """One schedule over search and finetuning, and sliced moments: the full network then trains as if unsearched."""
    searched = _run(task, Settings("uniform", 1.0, STEPS, schedule=schedule))
    plain = _run(task, Settings("unpruned", 1.0, STEPS))
    assert searched["kept"] == plain["kept"] and searched["macs"] == plain["macs"]
    assert searched["valid"] == pytest.approx(plain["valid"], abs=1e-6)


def test_a_joint_schedule_goes_on_where_the_search_was(task):
    """The rate of the first finetuning step is that of step 3 of 6, not a new warm-up."""
    joint = _run(task, Settings("dms", 0.5, STEPS, 2, 5.0))
    restart = _run(task, Settings("dms", 0.5, STEPS, 2, 5.0, schedule="restart"))
    assert len(joint["search"]) == 2 and len(joint["finetune"]) == STEPS - 2
    assert joint["macs"] <= 0.5 * task.space.resources()["macs"]
    assert joint["valid"] != restart["valid"]


def test_equal_settings_give_equal_numbers(task):
    first, second = (_run(task, Settings("dms", 0.5, STEPS, 2, 5.0)) for _ in range(2))
    timed = {"seconds"}
    assert {k: v for k, v in first.items() if k not in timed} == {k: v for k, v in second.items() if k not in timed}


def test_splits_are_disjoint(task):
    from benchmarks.digits_task import DigitsOptions, split

    for labels in (0, 200):
        parts = split(DigitsOptions(labels=labels), seed=1)
        assert sum(len(part["label"]) for part in parts.values()) == 1797
        assert len(parts["train"]["label"]) == (labels or 1237)
        images = np.concatenate([part["image"].reshape(len(part["image"]), -1) for part in parts.values()])
        assert len(np.unique(images, axis=0)) >= 1797 - 5  # nothing is drawn twice; a few digits are alike


def test_other_options_are_other_cells(task):
    settings, defaults = Settings("uniform", 0.2, 8), dataclasses.asdict(QUICK)
    other = text_task(dataclasses.replace(QUICK, hidden=128))
    paths = {settings.cell(t, defaults, seed).path for t in (task, other) for seed in (0, 1)}
    assert len(paths) == 4
    assert settings.cell(task, defaults, 0).path == dataclasses.replace(settings).cell(task, defaults, 0).path
