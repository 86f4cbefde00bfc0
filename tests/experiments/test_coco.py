"""The COCO command as its users meet it: on composites, stopped and resumed, on prepared sets, and refusals."""

import contextlib
import io
import json
from functools import partial

import jax
import numpy as np
import pytest
import tyro

import dms_jax
from dms_jax import models
from dms_jax.data import box_loading, objects
from dms_jax.errors import UserError
from dms_jax.models.yolov8 import YOLOv8
from dms_jax.structure import Structure
from dms_jax.training import latency
from experiments import coco_search, detection_task, image_task
from tests.data.test_coco_files import write
from tests.experiments.stopping import check_stopped_and_resumed, results

SHORT = ["--flops=4.2e9", "--search-epochs=1", "--epochs=1", "--resolution=32", "--batch=8", "--latency-batches", "1"]


@pytest.fixture(autouse=True, scope="module")
def quick():
    """A network of six bottlenecks, 40 composites, two devices; latency has tests of its own."""
    with pytest.MonkeyPatch.context() as patch:
        small = partial(YOLOv8, widths=(8, 8, 16, 16, 16), blocks=(1, 2, 1, 1), bins=4)
        patch.setitem(models.MODELS, "yolov8n", small)
        patch.setattr(objects, "TRAIN_COMPOSITES", 32)
        patch.setattr(objects, "TEST_COMPOSITES", 12)
        patch.setattr(image_task, "make_mesh", partial(image_task.make_mesh, jax.devices()[:2]))
        patch.setattr(latency, "rows", _no_time)
        yield


def _no_time(networks, _, batches):
    return {name: {str(batch): 1.0 for batch in batches} for name in networks}


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A finished search, and what it printed first."""
    directory = tmp_path_factory.mktemp("runs") / "search"
    with contextlib.redirect_stdout(io.StringIO()) as said:
        coco_search.main([*SHORT, f"--data-dir={directory}", f"--workdir={directory}"])
    return directory, said.getvalue().splitlines()


def test_composites_take_the_place_of_data_that_is_not_there(searched):
    directory, said = searched
    assert said[0].startswith("COCO is not at hand, so this runs shortly on composites of digits at 32 px")
    assert "python -m dms_jax.data.prepare coco/2017" in said[0] or "pip install" in said[0]
    assert "22.7 % of its macs, as asked of yolov8s at 640 px" in said[1]
    structure, found = Structure.load(directory / "structure.json"), results(directory)
    assert structure.resources is not None
    assert structure.resources["after"]["macs"] <= found["budget"]["macs"]["target"]
    assert found["quality"]["name"] == "mAP" and "32 training and 12 test images of 10 classes" in found["data"]
    (row,) = found["rows"]
    assert row["name"] == "found by DMS" and row["steps"] == 4 + 4 and 0 <= row["quality"] <= 1
    assert set(row) >= {"mAP50", "mAP75", "mAP small", "mAP medium", "mAP large"} and row["mAP large"] is None
    page = (directory / "report.html").read_text()
    assert "<h2>Detections</h2>" in page and "found by DMS" in page and ">mAP small<" in page


def test_a_finished_run_is_loaded(searched):
    model, variables = dms_jax.load(searched[0])
    assert model.structure is not None  # type: ignore[union-attr]
    outputs = model.apply(variables, np.zeros((1, 32, 32, 3), np.float32))  # type: ignore[union-attr]
    assert outputs.shape == (1, 21, 4 * 4 + 10)


def test_stopped_and_resumed_is_never_stopped(searched, tmp_path, monkeypatch):
    job = [*SHORT, f"--data-dir={tmp_path}", f"--workdir={tmp_path / 'run'}"]
    run, phases = tmp_path / "run", ("search", "finetune")
    check_stopped_and_resumed(coco_search.main, job, box_loading, 2, run, searched[0], monkeypatch, phases)
    assert (tmp_path / "run" / "examples.json").read_bytes() == (searched[0] / "examples.json").read_bytes()


def identity(*flags):
    config = tyro.cli(coco_search.Config, args=[*SHORT, "--data-dir=nowhere", *flags])
    row = config.row()
    work = detection_task.prepare(config.data, config.training, row, config.seed)
    experiment = coco_search.experiment(config, row, work)
    return json.loads(json.dumps(experiment.identity(*experiment.search())))


def test_who_loads_is_no_part_of_a_job_and_what_is_asked_is():
    job = identity()
    assert identity("--workers=0", "--preset=yolov8n") == job
    assert job["macs"] == pytest.approx(4.2e9 / 18_495_078_400) and job["experiment"] == "coco_search"
    for flag in ("--flops=0.3", "--epochs=2", "--controls", "--learning-rate=0.1", "--pipeline=p", "--seed=1"):
        assert identity(flag) != job, flag


def test_the_last_epochs_of_every_training_have_no_mosaics(monkeypatch):
    config = tyro.cli(coco_search.Config, args=[*SHORT, "--data-dir=nowhere"])
    work = detection_task.prepare(config.data, config.training, config.row(), 0)
    asked = []
    monkeypatch.setattr(box_loading, "batches", lambda *args, **how: asked.append(how["plain_from"]))
    job = work.job(None, work.create("yolov8n", {}))  # type: ignore[arg-type]
    assert job.ending is not None
    for steps in (40, 13, 12, 1):
        job.ending(steps)
    assert asked == [None, 28, 1, 0, 0]  # a search has them all along; 3 epochs of 32 images in batches of 8


def test_cocos_own_files_are_a_data_set(tmp_path):
    flags = [*SHORT, f"--dataset={write(tmp_path)}", "--workers=0", "--objects=5"]
    config = tyro.cli(coco_search.Config, args=flags)
    work = detection_task.prepare(config.data, config.training, config.row(), 0)
    assert not work.bundled and work.data.num_classes == 2 and work.recipe.epochs == 1
    batch = work.batches()(0)
    assert batch["image"].shape == (8, 32, 32, 3) and batch["boxes"].shape == (8, 5, 4)
    assert sum(float(batch["weight"].sum()) for batch in work.evaluation()) == 3
    assert "3 training and 3 test images of 2 classes" in work.description
    assert work.identity["objects"] == 5 and "(annotations " in work.identity["dataset"]


def test_room_for_too_few_objects_is_refused_before_anything_is_trained(tmp_path):
    flags = [*SHORT, f"--dataset={write(tmp_path)}", "--objects=1", f"--workdir={tmp_path / 'run'}"]
    with pytest.raises(UserError, match="2.png has 2 objects, and there is room for 1; give --objects 2"):
        coco_search.main(flags)
    assert not (tmp_path / "run").exists()


def test_a_directory_of_something_else_is_none_of_cocos(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path)
    assert len(detection_task.open_pictures(detection_task.Data(dataset="~"), None)[0].train) == 3
    for name in (str(tmp_path / "train2017"), str(tmp_path / "typo"), "~/typo", "./typo", ".."):
        with pytest.raises(UserError, match=r"^--dataset=.* is no directory of COCO's own files: .*annotations is not"):
            detection_task.open_pictures(detection_task.Data(dataset=name), None)


def test_the_papers_row():
    row = coco_search.Config().row()
    assert (row.model, row.resolution, row.macs, row.search_epochs) == ("yolov8s", 640, 4.2e9, 30)
    assert row.recipe.epochs == 500 and "37.4 -> 39.4 mAP" in coco_search.ROWS and "has 37.2)" in coco_search.ROWS


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--model=resnet50"], "'resnet50' is no detector; there are: yolov8n, "),
        (["--preset=yolo"], "unknown preset 'yolo'; there are: yolov8n"),
        (["--resolution=100"], "--resolution 100 does not fit; give a multiple of 32"),
        (["--flops=1e12"], "budget 1,000,000,000,000 MACs is above the full network's 18,495,078,400"),
        (["--dataset=coco/2017"], "coco/2017 is not prepared|is missing"),
        (["--dataset=trees"], "trees is not prepared: .* python -m dms_jax.data.prepare trees --data-dir="),
        (["--dataset=cocoo/2017"], "TFDS has no data set 'cocoo/2017'; did you mean coco"),
        (["--dataset="], "TFDS (has no data set|cannot open) ''"),
        (["--objects=0"], "--objects 0 is not possible"),
        (["--pipeline=p-", "--retrain=scratch"], "--retrain scratch needs a retraining"),
    ],
)
def test_refusals_leave_no_directory(flags, said, tmp_path):
    where = [f"--data-dir={tmp_path / 'data'}", f"--workdir={tmp_path / 'run'}"]
    with pytest.raises(UserError, match=said):
        coco_search.main([*SHORT, *flags, *where])
    assert not (tmp_path / "run").exists()
