"""Where budgets are landed: our part in small, and what the table makes of numbers."""

import numpy as np
import pytest

from experiments.benchmarks import landing
from experiments.benchmarks.command import Options
from experiments.benchmarks.rivals import absent

TINY = landing.images("resnet20", pixels=8)


def test_quick_fills_its_cells_and_goes_on(tmp_path, capsys):
    options = Options(quick=True, results=tmp_path)
    landing.main(options)
    first = capsys.readouterr().out
    (stored,) = tmp_path.rglob("*.jsonl")
    before = stored.read_bytes()
    landing.main(options)
    assert capsys.readouterr().out == first
    assert stored.read_bytes() == before
    assert ("Torch-Pruning is" in first) == bool(absent("torch", "torch_pruning", "torchvision"))


def test_no_budget_is_exceeded_and_unreachable_ones_are_told_apart():
    found = landing.project(TINY, (0.0005, 0.2), lambda text: None)
    for landed in found.values():
        assert landed[0][1] is None
        assert 0.9 < landed[1][1] <= 1.0


def test_the_table_says_how_far_and_how_often_above():
    found = {name: [[0.1, None], [0.2, 1.02], [0.3, 0.99]] for name in landing.RESOURCES}
    (row, _) = landing.rows(TINY, "rival", found)
    assert row[3:] == ["1.500", "+2.000", "50", "2", "1"]


def test_a_loop_of_steps_takes_the_first_one_at_or_under_the_budget():
    reason = absent("torch", "torch_pruning", "torchvision")
    if reason:
        pytest.skip(reason)
    network = landing.images("resnet18", "resnet18", pixels=32)
    found = landing.progressive(network, (0.3, 0.6), lambda text: None, steps=10)
    assert all(landed is None or landed <= 1.0 for _, landed in found["macs"])
    assert np.isfinite([landed for _, landed in found["macs"]]).all()
