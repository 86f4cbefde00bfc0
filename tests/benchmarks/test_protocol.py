"""What all methods of a contest share, on the quick text task."""

import dataclasses

import numpy as np
import optax
import pytest

from dms_jax.data import digits
from dms_jax.training.interrupt import InterruptFlag
from experiments.benchmarks.digits_task import DigitsOptions, split
from experiments.benchmarks.protocol import checksum, compete
from experiments.benchmarks.settings import Settings
from experiments.benchmarks.tasks import Phases
from experiments.benchmarks.text_task import QUICK, text_task

STEPS = 6


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("experiments.benchmarks.tasks.CACHE", tmp_path_factory.mktemp("supernets"))
        yield text_task(QUICK)


def _run(task, settings):
    return compete(task, settings, 0, InterruptFlag(), lambda text: None)


def test_a_structure_that_removes_nothing_is_the_full_network(task):
    cut, plain = (_run(task, Settings(name, 1.0, STEPS)) for name in ("uniform", "unpruned"))
    for name in ("kept", "macs", "params", "valid", "test"):
        assert cut[name] == plain[name]


@pytest.mark.parametrize(("schedule", "counted"), [("joint", STEPS), ("restart", STEPS - 2)])
def test_a_joint_schedule_goes_on_where_the_search_was(task, schedule, counted, monkeypatch):
    """What finetuning's optimizer has counted at its end: the search's steps, too, or its own alone."""
    ends = []
    monkeypatch.setattr(Phases, "run", _recorded(ends))
    found = _run(task, Settings("dms", 0.5, STEPS, 2, 5.0, schedule=schedule))
    assert not {"search", "finetune"} & found.keys()  # no curves
    assert found["macs"] <= 0.7 * task.space.resources()["macs"]
    assert {int(count) for _, count in optax.tree.get_all_with_path(ends[-1].opt_state, "count")} == {counted}


def _recorded(states, run=Phases.run):
    def recorded(*arguments):
        states.append(run(*arguments))
        return states[-1]

    return recorded


def test_equal_settings_give_equal_numbers(task):
    first, second = (_run(task, Settings("dms", 0.5, STEPS, 2, 5.0)) for _ in range(2))
    assert first["supernet"] == checksum(task.pretrained(0)) != checksum(task.pretrained(1))
    timed = {"seconds"}
    assert {k: v for k, v in first.items() if k not in timed} == {k: v for k, v in second.items() if k not in timed}


def test_splits_are_disjoint():
    loaded = digits.load()
    different = len(np.unique(_flat([loaded.train, loaded.test]), axis=0))
    for labels in (0, 200):
        parts = split(DigitsOptions(labels=labels), seed=1)
        assert sum(len(part["label"]) for part in parts.values()) == 1797
        assert len(parts["train"]["label"]) == (labels or 1237)
        assert len(np.unique(_flat(parts.values()), axis=0)) == different  # nothing is drawn twice


def _flat(parts):
    return np.concatenate([part["image"].reshape(len(part["image"]), -1) for part in parts])


def test_other_options_are_other_cells(task):
    settings = Settings("uniform", 0.2, 8)
    other = text_task(dataclasses.replace(QUICK, hidden=128))
    paths = {settings.cell(t, seed).path for t in (task, other) for seed in (0, 1)}
    assert len(paths) == 4
    assert settings.cell(task, 0).path == dataclasses.replace(settings).cell(task, 0).path


def test_the_residual_width_shrinks_where_it_may(task):
    thin = _run(task, Settings("uniform", 0.5, STEPS, residual=True))
    usual = _run(task, Settings("uniform", 0.5, STEPS))
    assert thin["kept"]["width"] < QUICK.width and "width" not in usual["kept"]
    assert max(thin["macs"], usual["macs"]) <= 0.5 * task.space.resources()["macs"]


def test_the_mean_of_equal_searches_is_one_of_them(task, monkeypatch):
    """Searches on other batches, that is; here they get the same ones."""
    settings, starts, run = Settings("dms", 0.5, STEPS, 2, 5.0), [], Phases.run

    def repeated(work, name, step, state, steps, start):
        if name == "search":
            starts.append(start)
        return run(work, name, step, state, steps, task.options.pretrain_steps if name == "search" else start)

    monkeypatch.setattr(Phases, "run", repeated)
    alone, mean = (_run(task, dataclasses.replace(settings, searches=n)) for n in (1, 3))
    assert starts[1:] == [task.options.pretrain_steps + 2 * i for i in range(3)]
    assert {**alone, "seconds": 0} == {**mean, "seconds": 0}


@pytest.mark.parametrize("beside", ["all blocks", "one block less"])
@pytest.mark.parametrize("favoured", [0, 1])
def test_the_better_one_of_two_depths_goes_on(task, favoured, beside, monkeypatch):
    """Which one is better is said by the validation score alone, and finetuning goes on from where it was compared."""
    task = task if beside == "all blocks" else text_task(dataclasses.replace(QUICK, layers=2))
    ends, scored, own = [], [], task.scores

    def scores(network, variables, seed):
        scored.append(network.structure)
        return {**own(network, variables, seed), "valid": float((len(scored) - 1) != favoured)}

    monkeypatch.setattr(Phases, "run", _recorded(ends))
    one = dataclasses.replace(task, scores=scores)
    found = _run(one, Settings("dms", 0.7, STEPS, 2, 5.0, horizon=2, beside=beside))
    assert len(scored) == 3 and scored[2] == scored[favoured]
    first, second = (len(structure.kept["depth"]) for structure in scored[:2])
    assert second == (QUICK.layers if beside == "all blocks" else first - 1)
    assert found["macs"] <= 0.7 * task.space.resources()["macs"]
    assert {int(count) for _, count in optax.tree.get_all_with_path(ends[-1].opt_state, "count")} == {STEPS}
