"""The comparison with Torch-Pruning: its quick form, and that both frameworks compute one network."""

import jax
import numpy as np
import pytest

from dms_jax.training.interrupt import InterruptFlag
from experiments.benchmarks import digits_task, pruners, tasks, torch_pruning
from experiments.benchmarks.command import Options
from experiments.benchmarks.rivals import absent

MISSING = absent("torch", "torch_pruning")


def test_quick_runs_with_or_without_the_rival(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tasks, "CACHE", tmp_path / "cache")
    torch_pruning.main(Options(quick=True, results=tmp_path))
    shown = capsys.readouterr().out
    assert "| DMS |" in shown and "| uniform |" in shown
    assert ("Torch-Pruning is" in shown) == bool(MISSING)
    assert ("| TP Taylor, in rounds |" in shown) == (not MISSING)


@pytest.mark.skipif(bool(MISSING), reason=MISSING or "there")
def test_weights_go_over_and_back_unchanged():
    from experiments.benchmarks import torch_networks as tn

    digits = digits_task.digits_task(digits_task.QUICK)
    variables = digits.new(digits.model, seed=0)
    back = tn.to_flax(tn.from_flax(variables))
    jax.tree.map(np.testing.assert_array_equal, variables, back)


@pytest.mark.skipif(bool(MISSING), reason=MISSING or "there")
def test_pruned_channels_become_a_structure_that_computes_the_same():
    digits = digits_task.digits_task(digits_task.QUICK)
    variables = digits.new(digits.model, seed=0)
    work = pruners.Work(digits, 0, InterruptFlag(), lambda text: None, size=pruners.QUICK, budget=0.4)
    structure, _, steps = pruners.pruned(work, variables, "taylor")  # raises where counts or outputs differ
    full, left = digits.space.resources()["macs"], digits.space.resources(structure)["macs"]
    assert steps == 0 and 0.2 * full < left <= work.macs
    assert 0 < work.difference < 1e-4
