"""The grid of searches: what is drawn, what a miss is, and the table from its cells."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.benchmarks import pictures, tracking
from experiments.benchmarks.command import Options
from experiments.benchmarks.small_networks import NETWORKS


def test_the_grid_is_one_draw_of_what_is_possible():
    settings = tracking.drawn(NETWORKS, tracking.EACH)
    assert settings == tracking.drawn(NETWORKS, tracking.EACH)
    assert len(settings) == tracking.EACH * len(NETWORKS)
    long = {s.network for s in settings if s.steps == tracking.LONG}
    assert long <= {network.title for network in NETWORKS if network.quick}
    for setting in settings:
        assert setting.batch == 8 or setting.steps * setting.batch <= tracking.EXAMPLES
        assert setting.warmup <= setting.settled < setting.steps
    assert {s.pipeline for s in settings} == {"np", "p"}
    assert len({s.cell(movement).name for s in settings for movement in tracking.MOVEMENTS}) == 3 * len(settings)


def test_of_two_budgets_the_one_counts_that_is_missed_most_above():
    both = [{"macs": 0.5, "macs_target": 0.5, "params": 0.4, "params_target": 0.8},
            {"macs": 0.2, "macs_target": 0.4, "params": 0.3, "params_target": 0.4}]  # fmt: skip
    np.testing.assert_allclose(tracking.missed(both, ["macs", "params"]), [0.0, np.log(0.75)])


@given(st.lists(st.floats(-3, 3), min_size=1, max_size=60), st.integers(1, 50))
def test_a_line_has_the_farthest_values_of_its_parts(values, parts):
    line = tracking.largest(np.array(values), parts)
    assert len(line) == min(parts, len(values)) and set(line) <= set(values)
    assert np.max(np.abs(line)) == np.max(np.abs(values))


def test_a_row_counts_what_was_promised():
    found = [{"miss": 0.05, "end": 0.0, "moved": 0.01}, {"miss": -0.7, "end": -0.2, "moved": 0.2}]
    row = tracking.row("all", tracking.USUAL, found)
    assert row == ["all", "and a slack: as usual", "1 of 2", "0.375", "1.051", "0.497", "0.200", "0.200"]
    assert tracking.row("all", tracking.FREE, [])[2:4] == ["0", "-"]


def test_a_picture_has_a_line_a_search():
    panels = {"usual": [("np", [0.1, -0.5]), ("p", [0.0, 0.0, 0.1])], "on the target": []}
    first, second = pictures.tracks(panels, 0.1).axes
    assert [len(np.asarray(line.get_xdata())) for line in first.lines] == [2, 3] and not second.lines


def test_quick_fills_its_cells_and_goes_on(tmp_path, capsys):
    options = Options(quick=True, results=tmp_path)
    tracking.main(options)
    out = capsys.readouterr().out
    assert "r over target in every search" in out and "| all | on the target |" in out
    tracking.main(Options(quick=True, tables=True, results=tmp_path))
    assert capsys.readouterr().out == out


@pytest.mark.parametrize("network", NETWORKS[:-1], ids=lambda network: network.title)  # composites take their time
def test_every_small_network_takes_its_data(network):
    batch = network.draw(8, 0)(0)
    assert all(len(array) == 8 for array in batch.values())
    assert network.title and network.made() is not None
