"""The pictures of the tables: what is named in them, how often things are drawn, and numbers that people can read."""

import numpy as np
from matplotlib.container import ErrorbarContainer
from matplotlib.text import Text

from experiments.benchmarks import pictures
from experiments.benchmarks.pictures import Panel
from experiments.benchmarks.tables import Spread

SPREAD = Spread(2.0, 0.1, 3)


def shown(figure, tmp_path):
    """The text of a picture's file."""
    return pictures.save(figure, tmp_path / "picture.svg").read_text()


def test_panels_share_one_legend_and_a_level_has_no_line(tmp_path):
    lines = {
        "DMS": {0.1: SPREAD, 0.2: SPREAD},
        "uniform": {0.1: SPREAD, 0.2: Spread.of([])},
        "none": {0.1: Spread.of([])},
    }
    both = [Panel(lines, "errors", "first", {"unpruned": SPREAD}), Panel({"DMS": {0.04: SPREAD}}, "bits", "second")]
    figure = pictures.scores_over_macs(both)
    assert [len(axes.containers) for axes in figure.axes] == [2, 1]  # nothing is drawn where there are no numbers
    text = shown(figure, tmp_path)
    for name in ("DMS", "uniform", "unpruned"):
        assert text.count(f">{name}<") == 1
    assert ">none<" not in text and ">first<" in text and ">second<" in text
    assert ">10 %<" in text and ">20 %<" in text and ">4 %<" in text


def test_long_titles_side_by_side_do_not_touch():
    title = "source of the standard library of Python 3.11.7, bytes: bits per byte"
    panels = [Panel({"projection onto the capped simplex": {0.1: SPREAD}}, "bits", title)] * 2
    figure = pictures.scores_over_macs(panels)
    figure.draw_without_rendering()
    first, second = (
        next(text for text in axes.findobj(Text) if text.get_text().startswith("source")).get_window_extent()
        for axes in figure.axes
    )
    assert first.x1 < second.x0


def test_a_wide_legend_leaves_room_for_the_title():
    title = "source of the standard library of Python 3.11.7, bytes: bits per byte"
    label = "projection onto the capped simplex, residual width too"
    figure = pictures.scores_over_macs([Panel({label: {0.1: SPREAD, 0.2: SPREAD}}, "bits", title)])
    figure.draw_without_rendering()
    (above,) = (text for text in figure.findobj(Text) if text.get_text() == title)
    (legend,) = figure.legends
    assert above.get_window_extent().x1 < legend.get_window_extent().x0


def test_differences_have_a_row_a_setting_and_one_a_table():
    figure = pictures.differences(
        {"sharpness": {"2": SPREAD, "4": Spread.of([])}, "start": {"0": Spread.of([1.0])}}, "bits"
    )
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["sharpness", "2", "4", "start", "0"]
    bars = [c for c in axes.containers if isinstance(c, ErrorbarContainer)]
    assert [float(np.asarray(bar.lines[0].get_xdata())[0]) for bar in bars] == [2.0, 1.0]


def test_every_pick_is_drawn_where_it_is_behind_the_best():
    behind = {"DMS": {0.25: [0.0, 0.0], 0.4: [0.1]}, "uniform": {0.25: [0.2], 0.4: []}}
    cloud, row = pictures.regrets([(0.1, 3.0), (0.2, 2.5), (0.3, 2.2)], behind, "bits").axes
    np.testing.assert_allclose(np.asarray(cloud.lines[0].get_xdata()), [10.0, 20.0, 30.0])
    first, second = (np.asarray(line.get_xydata()) for line in row.lines[:2])
    np.testing.assert_allclose(first[:, 0], [0.0, 0.0, 0.2])
    np.testing.assert_allclose(second[:, 0], [0.1])
    assert len(set(first[:, 1])) == 3 and all(np.round(first[:, 1]) == [0, 0, 1])
    assert [label.get_text() for label in row.get_yticklabels()] == ["DMS", "uniform"]


def test_logarithmic_axes_have_plain_numbers(tmp_path):
    landed = {"macs": {"ours": [(0.05, 0.9995), (0.9, 1.0)], "other": [(0.05, 1.4), (0.9, 0.6)]}}
    text = shown(pictures.misses(landed), tmp_path)
    assert ">10<" in text and "mathdefault" not in text and ">budgets on macs<" in text
    text = shown(pictures.growth({"soft_mask": {100: 1e-4, 10_000: 1e-2}, "pairwise": {100: 2e-4}}), tmp_path)
    assert ">10,000<" in text and "mathdefault" not in text and ">pairwise<" in text


def test_equal_figures_give_equal_bytes_and_nothing_else(tmp_path):
    first, second = (shown(pictures.growth({"a": {10: 1.0}}), tmp_path) for _ in range(2))
    assert first == second and [path.name for path in tmp_path.iterdir()] == ["picture.svg"]
