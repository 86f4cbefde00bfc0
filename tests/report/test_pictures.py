import io

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dms_jax.report import pictures
from dms_jax.report.drawing import MARGIN
from dms_jax.report.mask_pictures import _pixels, chosen_groups
from dms_jax.report.run_files import read_run


@pytest.mark.parametrize("groups", ["small_groups", "many_groups"])
def test_every_picture_is_a_figure_that_saves_as_png(request, make_run, groups):
    run = read_run(make_run(request.getfixturevalue(groups)))
    drawn = [
        pictures.widths(run.structure),
        pictures.depth(run.structure),
        pictures.resources(run.metrics, run.words),
        pictures.losses(run.metrics),
        pictures.masks(run.masks, run.structure),
    ]
    for figure in drawn:
        assert isinstance(figure, Figure)
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=30)
        assert file.getvalue().startswith(b"\x89PNG")


@pytest.mark.parametrize("groups", ["small_groups", "many_groups"])
def test_widths_shows_every_group_once_with_its_numbers(request, make_run, groups):
    structure = read_run(make_run(request.getfixturevalue(groups))).structure
    figure = pictures.widths(structure)
    drawn = [text.get_text() for axes in figure.axes for text in axes.texts if " / " in text.get_text()]
    wide = [group for group in structure["groups"].values() if group["kind"] != "depth"]
    assert drawn == [f"{len(group['kept']):,} / {group['size']:,}" for group in wide]
    filled = [bar.get_width() for axes in figure.axes for bar in axes.containers[0]]
    assert filled == [len(group["kept"]) for group in wide]


@pytest.mark.parametrize("groups", ["small_groups", "many_groups"])
def test_lines_of_widths_do_not_overlap(request, make_run, groups):
    figure = pictures.widths(read_run(make_run(request.getfixturevalue(groups))).structure)
    figure.savefig(io.BytesIO(), format="png")  # text has a size once it was drawn
    boxes = [text.get_window_extent() for axes in figure.axes for text in axes.texts]
    for index, box in enumerate(boxes):
        assert box.x0 >= 0 and box.x1 <= figure.bbox.x1
        for other in boxes[index + 1 :]:
            assert not (_overlap(box.x0, box.x1, other.x0, other.x1) and _overlap(box.y0, box.y1, other.y0, other.y1))


def _overlap(a0: float, a1: float, b0: float, b1: float) -> bool:
    return min(a1, b1) - max(a0, b0) > 1  # a pixel of line height may be shared


def test_depth_fills_the_blocks_that_are_kept():
    groups = {"stage1/depth": {"size": 4, "kept": [0, 3], "kind": "depth"}}
    figure = pictures.depth({"groups": groups})
    fills = [bar.get_facecolor()[3] for container in figure.axes[0].containers for bar in container]
    assert fills == [1, 0, 0, 1]


def test_losses_put_controls_beside_the_retraining(make_run, small_groups):
    figure = pictures.losses(read_run(make_run(small_groups)).metrics)
    titles = [axes.get_title(loc="left") for axes in figure.axes if axes.get_title(loc="left")]
    assert titles == ["pretrain", "search", "finetune and controls"]


def test_losses_of_any_size_stay_inside_the_picture():
    for least in (1e-4, 1.0):
        records = [{"phase": "search", "step": i, "loss": least * 10 ** (i % 5), "accuracy": 0.9} for i in range(20)]
        figure = pictures.losses(records)
        FigureCanvasAgg(figure).draw()
        for axes in figure.axes:
            box = axes.yaxis.label.get_window_extent()
            assert box.x0 >= MARGIN * figure.dpi or not axes.yaxis.label.get_text()  # which a page leaves out


def test_losses_leave_out_what_is_not_finite_and_average_long_curves():
    records = [{"phase": "new", "step": step, "loss": 1.0 + step % 2} for step in range(1000)]
    records.append({"phase": "new", "step": 1000, "loss": float("nan")})
    (axes,) = pictures.losses(records).axes
    y = np.asarray(axes.lines[0].get_ydata())
    assert len(y) == 250
    np.testing.assert_allclose(y, 1.5)


def test_a_picture_of_nothing_is_an_error():
    depth_only = {"groups": {"depth": {"size": 2, "kept": [0], "kind": "depth"}}}
    width_only = {"groups": {"a": {"size": 2, "kept": [0], "kind": "width"}}}
    with pytest.raises(ValueError, match="no width groups"):
        pictures.widths(depth_only)
    with pytest.raises(ValueError, match="no depth groups"):
        pictures.depth(width_only)
    with pytest.raises(ValueError, match="no record of the search"):
        pictures.resources([{"phase": "search", "step": 0, "loss": 1.0}], {})
    with pytest.raises(ValueError, match="no record has a finite loss"):
        pictures.losses([{"phase": "search", "step": 0, "loss": float("inf")}])
    with pytest.raises(ValueError, match="no masks"):
        pictures.masks([], width_only)


def test_a_run_of_one_step_and_one_element_is_drawn():
    structure = {"groups": {"a": {"size": 1, "kept": [0], "kind": "width"}}, "model": {"name": "m"}}
    record = {"phase": "search", "step": 0, "loss": 0.0, "macs": 1.0, "macs_target": 1.0, "weight_macs": 1.0}
    for figure in (
        pictures.widths(structure),
        pictures.losses([record]),
        pictures.resources([record], {"macs": "MACs"}),
        pictures.masks([{"step": 0, "masks": {"a": "ff"}}], structure),
    ):
        figure.savefig(io.BytesIO(), format="png", dpi=30)


@pytest.mark.parametrize("weights", [[1.0, 3.0], [0.0, 0.0]])
def test_every_weight_of_the_resource_loss_is_in_the_picture(weights):
    shares = {"macs": 0.5, "macs_target": 0.5}
    records = [{"phase": "search", "step": i, "weight_macs": w, **shares} for i, w in enumerate(weights)]
    (axes,) = [a for a in pictures.resources(records, {"macs": "MACs"}).axes if "weight" in a.get_ylabel()]
    low, high = axes.get_ylim()
    assert low < high and all(low <= w <= high for w in weights)


def test_many_groups_are_chosen_evenly_in_the_networks_order(make_run, many_groups):
    run = read_run(make_run(many_groups))
    names, recorded = chosen_groups(run.masks, run.structure)
    order = list(run.structure["groups"])
    assert recorded == len(order) == 313
    assert len(names) == 16
    assert (names[0], names[-1]) == (order[0], order[-1])
    assert sorted(names, key=order.index) == names
    title = pictures.masks(run.masks, run.structure).texts[0].get_text()
    assert "16 of 313 groups" in title


def test_heat_maps_hold_a_record_until_the_next():
    mask_ExS = np.array([[1.0, 0.5, 0.0]])
    image = _pixels(mask_ExS, steps=[0, 2, 8])
    np.testing.assert_array_equal(image, [[1.0, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.0]])


def test_heat_maps_average_more_elements_than_rows():
    mask_ExS = np.repeat(np.linspace(1, 0, 512)[:, None], 2, axis=1)
    image = _pixels(mask_ExS, steps=[0, 1])
    assert image.shape == (256, 1)
    np.testing.assert_allclose(image[:, 0], mask_ExS[:, 0].reshape(256, 2).mean(axis=1))
