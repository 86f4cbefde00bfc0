"""The ImageNet commands as their users meet them: on photographs in ImageNet's layout, on the digits, and refusals."""

import dataclasses
import json
from functools import partial

import jax
import pytest
import tyro

from dms_jax import models
from dms_jax.data import loading
from dms_jax.errors import UserError
from dms_jax.space import SearchSpace
from dms_jax.structure import Structure
from dms_jax.training import latency
from experiments import image_preparation, image_task, imagenet_eval, imagenet_retrain, imagenet_search, recipes
from experiments.flags import Budgets
from experiments.recipes import PRESETS
from tests import tiny
from tests.experiments.stopping import check_stopped_and_resumed, results

TINY = ["--model=resnet20", "--resolution=16", "--batch=8", "--latency-batches", "1"]
EVERYTHING = [
    "--dataset=imagenet2012", "--flops=0.3", "--search-epochs=3", "--epochs=2", "--mixup=0.8", "--cutmix=1",
    "--erasing=0.25", "--randaugment=True", "--average=0.9", "--optimizer=rmsprop", "--schedule=exponential",
    "--workers=0",
]  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def quick():
    """Two devices compile in half the time of eight, and three blocks in a third of that of nine; latency has tests of
    its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(models.MODELS, "resnet20", partial(tiny.make, widths=(8, 16), stem=8))
        patch.setattr(image_task, "make_mesh", partial(image_task.make_mesh, jax.devices()[:2]))
        patch.setattr(latency, "rows", _no_time)
        yield


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Where a miniature of imagenet2012 is prepared."""
    pytest.importorskip("tensorflow_datasets")
    from tests.data import mini_imagenet

    archives, directory = tmp_path_factory.mktemp("archives"), tmp_path_factory.mktemp("data")
    mini_imagenet.write_archives(archives)
    mini_imagenet.write_records(archives, directory)
    return directory


def _no_time(networks, _, batches):
    return {name: {str(batch): 1.0 for batch in batches} for name in networks}


@pytest.fixture(scope="module")
def searched(photographs, tmp_path_factory):
    """A finished search on the photographs, everything on: mixing, RandAugment, averages, accumulation."""
    directory = tmp_path_factory.mktemp("runs") / "search"
    imagenet_search.main([*TINY, *EVERYTHING, f"--data-dir={photographs}", f"--workdir={directory}"])
    return directory


def test_search_on_photographs_to_its_end(searched):
    structure, found = Structure.load(searched / "structure.json"), results(searched)
    assert structure.resources is not None
    assert structure.resources["after"]["macs"] <= found["budget"]["macs"]["target"]
    assert "imagenet2012" in found["title"] and "48 training and 16 test images of 1000 classes" in found["data"]
    assert [row["name"] for row in found["rows"]] == ["found by DMS"] and found["rows"][0]["steps"] == 18 + 12
    assert list(found["rows"][0]["latency_ms"]) == ["1"]
    phases = {json.loads(line)["phase"] for line in (searched / "metrics.jsonl").read_text().splitlines()}
    assert phases == {"search", "finetune"} and (searched / "report.html").exists()


def test_stopped_and_resumed_is_never_stopped(searched, photographs, tmp_path, monkeypatch):
    job = [*TINY, *EVERYTHING, f"--data-dir={photographs}", f"--workdir={tmp_path}"]
    check_stopped_and_resumed(imagenet_search.main, job, loading, 7, tmp_path, searched, monkeypatch)


def test_structure_is_retrained_and_evaluated(searched, photographs, tmp_path, capsys):
    flags = [f"--data-dir={photographs}", "--dataset=imagenet2012", "--workers=0", "--batch=8"]
    where = f"--workdir={tmp_path / 'again'}"
    imagenet_retrain.main([f"--structure={searched}", "--start=run", "--epochs=1", *flags, where])
    said = capsys.readouterr().out
    imagenet_eval.main([f"--weights={tmp_path / 'again'}", *flags])
    out = capsys.readouterr().out
    accuracy = 100 * results(tmp_path / "again")["rows"][0]["quality"]
    assert f"{accuracy:.1f}" in said and f"top-1 {accuracy:.2f}" in out and "top-5" in out
    resources = Structure.load(searched / "structure.json").resources
    assert resources is not None and f"{resources['after']['macs']:,} MACs" in out


def test_digits_take_the_place_of_data_that_is_not_there(tmp_path, capsys):
    flags = ["--flops=0.3", "--search-epochs=0.02", "--epochs=0.02", f"--data-dir={tmp_path}", "--preset=resnet50"]
    imagenet_search.main([*TINY, *flags, f"--workdir={tmp_path / 'run'}"])
    first = capsys.readouterr().out.splitlines()[0]
    assert "scikit-learn's digits at 16 px" in first and "ImageNet is not at hand" in first
    assert "python -m dms_jax.data.prepare imagenet2012 --manual-dir" in first or "pip install" in first
    assert "scikit-learn digits" in results(tmp_path / "run")["title"]


def test_digits_are_small_where_no_resolution_is_asked_for(tmp_path, capsys):
    """Resources stay those of the network's resolution; what follows sees the pixels that the search saw."""
    flags = ["--flops=0.3", "--model=resnet20", "--batch=8", "--latency-batches", "1", f"--data-dir={tmp_path}"]
    run, again = tmp_path / "run", tmp_path / "again"
    imagenet_search.main([*flags, "--search-epochs=0.02", "--epochs=0.02", f"--workdir={run}"])
    assert f"scikit-learn's digits at {recipes.SMALL} px" in capsys.readouterr().out
    structure, found = Structure.load(run / "structure.json"), results(run)
    assert structure.model is not None and structure.model["resolution"] == recipes.SMALL
    assert structure.model["example"][0]["shape"] == [1, 224, 224, 3]
    assert "resources are of one image of 224 px" in found["data"]
    assert structure.resources is not None
    full, after = structure.resources["before"]["macs"], structure.resources["after"]["macs"]
    example = jax.ShapeDtypeStruct((1, 224, 224, 3), "float32")
    model = models.create("resnet20", **structure.model["arguments"])
    assert full == SearchSpace.from_model(model, example).resources()["macs"] and after <= 0.3 * full

    start = [f"--structure={run}", "--start=run", "--epochs=0.02", "--batch=8", f"--data-dir={tmp_path}"]
    imagenet_retrain.main([*start, f"--workdir={again}"])
    for directory in (run, again):
        capsys.readouterr()
        imagenet_eval.main([f"--weights={directory}", f"--data-dir={tmp_path}"])
        out = capsys.readouterr().out
        assert f", {recipes.SMALL} px: top-1 {100 * results(directory)['rows'][0]['quality']:.2f}" in out
        assert f"{after:,} MACs at 224 px" in out


# --- the paper's rows and rule ---


@pytest.mark.parametrize(
    ("macs", "model", "resolution"),
    [
        (0.39e9, "efficientnet_b4", 224),
        (0.6e9, "efficientnet_b4", 224),
        (2e9, "efficientnet_b7", 256),
        (7e9, "efficientnet_b7", 288),
    ],
)
def test_budget_picks_the_supernet(macs, model, resolution):
    row = recipes.of_budget(macs)
    assert (row.model, row.resolution, row.macs) == (model, resolution, macs)


def test_reach_is_what_the_network_has():
    example = jax.ShapeDtypeStruct((1, 224, 224, 3), "float32")
    assert SearchSpace.from_model(models.create("efficientnet_b4"), example).resources()["macs"] == recipes.B4_REACH


@pytest.mark.parametrize("name", PRESETS)
def test_presets_name_networks_and_say_what_they_are(name):
    row = PRESETS[name]
    model = models.create(row.model, **row.arguments)
    x = jax.ShapeDtypeStruct((1, row.resolution, row.resolution, 3), "float32")
    assert jax.eval_shape(model.init, jax.random.key(0), x)
    said = row.describe()
    assert row.model in said and row.paper in said and f"{row.recipe.epochs:g} of retraining" in said
    assert all(word in imagenet_search.ROWS for word in (name, said))


# --- what makes a job the one it is ---


def work_of(*flags):
    """A configuration and its task, on the digits."""
    c = tyro.cli(imagenet_search.Config, args=[*TINY, *flags, "--data-dir=nowhere"])
    row = c.row()
    return c, row, image_preparation.prepare(c.data, c.training, row.recipe, c.data.resolution or 16, c.seed)


def identity(*flags):
    c, row, work = work_of("--flops=0.3", "--search-epochs=0.05", "--epochs=0.02", *flags)
    experiment = imagenet_search.experiment(c, row, work)
    return json.loads(json.dumps(experiment.identity(*experiment.search())))


@pytest.fixture(scope="module")
def plain():
    return identity()


@pytest.mark.parametrize(
    "flags",
    [
        ["--workers=2"], ["--fsdp=2"], ["--latency-batches", "4"], ["--average=0"], ["--teacher=none"], ["--center=1"],
        ["--dtype=float32"], ["--ratio-rate=5"], ["--search-warmup-epochs=0.022"], ["--macs=0.3"], ["--distill=2"],
    ],
)  # fmt: skip
def test_the_same_job_asked_for_otherwise(flags, plain):
    assert identity(*flags) == plain


@pytest.mark.parametrize(
    "flags",
    [
        ["--batch=16"], ["--resolution=24"], ["--center=0.5"], ["--dtype=bfloat16"], ["--seed=1"], ["--flops=0.4"],
        ["--params=0.5"], ["--search-epochs=0.06"], ["--epochs=0.03"], ["--controls"], ["--strategy=single"],
        ["--importance=fisher"], ["--freeze", "stem"], ["--resource-weight=1"], ["--retrain=scratch"],
        ["--model=resnet32"],
        ["--mixup=0.1"], ["--average=0.9"], ["--search-warmup-epochs=0"], ["--ratio-rate=4"], ["--pipeline=p"],
    ],
)  # fmt: skip
def test_another_job(flags, plain):
    assert identity(*flags) != plain


def test_flags_count_more_than_what_a_structure_was_searched_with():
    _, _, work = work_of("--model=vit_tiny_patch16_224", "--resolution=32", "--drop-path=0.3")
    searched_with = {"dtype": "bfloat16", "image_size": 224, "drop_path": 0.1, "depth": 3, "num_classes": 1000}
    expected = {"dtype": "float32", "image_size": 32, "drop_path": 0.3, "depth": 3, "num_classes": 10}
    assert work.arguments("vit_tiny_patch16_224", searched_with) == expected


def test_digits_are_seen_whole_and_averages_begin_quickly():
    _, _, work = work_of("--average=0.9999", "--warmup-epochs=0")
    assert work.center == 1.0 and dataclasses.replace(work, bundled=False).center == 0.875
    average = work.average
    assert average is not None and average(0) == pytest.approx(0.1) and average(10**6) == pytest.approx(0.9999)
    assert work.search_rate(100)(0) == pytest.approx(work.recipe.learning_rate / 5)  # no step at a rate of 0


# --- refusals ---


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--dataset=imagenet2012"], "prepare|missing"),
        (["--preset=resnet51"], "unknown preset 'resnet51'; there are: efficientnet_450"),
        (["--model=resnet20", "--batch=9"], "--batch 9 cannot be cut over 8 devices"),
        (["--model=resnet20", "--batch=8", "--accumulate=3"], "in 3 parts; take a multiple of 24"),
        (["--pretrained=somewhere"], "--pretrained weights are for pipelines p and p-"),
        (["--pipeline=p-", "--retrain=scratch"], "needs a retraining"),
        (["--flops=1e12"], "above the largest supernet"),
        (["--model=llama_bytes"], "no recipe for 'llama_bytes'"),
        (["--model=resnet20", "--batch=0"], "--batch 0 is not possible"),
        (["--model=resnet20", "--search-epochs=0"], "--search-epochs 0.0 is not possible"),
        (["--model=resnet20", "--epochs=0"], "--epochs 0.0 is not possible"),
        (["--model=vit_tiny_patch16_224", "--resolution=50"], "50"),
        (["--model=resnet20", "--resolution=16", "--flops=0.3", "--teacher=nowhere"], "nowhere"),
    ],
)
def test_refusals(flags, message, tmp_path):
    with pytest.raises(UserError, match=message):
        imagenet_search.main([*flags, f"--data-dir={tmp_path}", f"--workdir={tmp_path / 'run'}"])


def test_a_teacher_teaches_retraining_at_its_own_resolution(searched, photographs, tmp_path):
    flags = ["--dataset=imagenet2012", "--flops=0.3", "--search-epochs=0.3", "--epochs=0.3", "--workers=0"]
    where = [f"--data-dir={photographs}", f"--workdir={tmp_path / 'taught'}", f"--teacher={searched}"]
    job = ["--model=resnet20", "--resolution=24", "--batch=8", "--latency-batches", "1"]
    imagenet_search.main([*job, *flags, *where])
    lines = [json.loads(line) for line in (tmp_path / "taught" / "metrics.jsonl").read_text().splitlines()]
    by_phase = {line["phase"]: line["loss"] > line.get("cross_entropy", line["loss"]) for line in lines}
    assert by_phase == {"search": False, "finetune": True}  # what DIST adds is above 0
    assert json.loads((tmp_path / "taught" / "config.json").read_text())["teacher_resolution"] == 16


def test_retraining_at_another_resolution_with_a_finished_run_for_a_teacher(searched, photographs, tmp_path, capsys):
    flags = [f"--data-dir={photographs}", "--dataset=imagenet2012", "--workers=0", "--batch=8"]
    again = tmp_path / "again"
    taught = [f"--teacher={searched}", "--teacher-resolution=32", "--resolution=24", "--epochs=0.5"]
    imagenet_retrain.main([f"--structure={searched}", *taught, *flags, f"--workdir={again}"])
    lines = [json.loads(line) for line in (again / "metrics.jsonl").read_text().splitlines()]
    assert all(line["loss"] > line["cross_entropy"] for line in lines)  # what DIST adds is above 0
    before, after = (Structure.load(path / "structure.json") for path in (searched, again))
    assert after.model is not None and after.model["example"][0]["shape"] == [1, 24, 24, 3]
    assert before.resources is not None and after.resources is not None
    macs = after.resources["after"]["macs"]
    assert macs > 2 * before.resources["after"]["macs"]
    assert results(again)["rows"][0]["macs"] == macs and after.kept == before.kept
    capsys.readouterr()
    imagenet_eval.main([f"--weights={again}", *flags])
    out = capsys.readouterr().out
    assert ", 24 px: top-1" in out and f"{macs:,} MACs" in out


def test_weights_that_saw_other_pixels_are_refused(photographs, tmp_path):
    said = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(said))
    flags = [f"--data-dir={photographs}", "--dataset=imagenet2012", "--model=resnet50", f"--weights={tmp_path}"]
    with pytest.raises(UserError, match=r"saw pixels with image_mean \[0.5, 0.5, 0.5\], and"):
        imagenet_eval.main([*flags, "--batch=8"])


def test_a_preset_keeps_its_budget_beside_another():
    config = imagenet_search.Config(preset="resnet50", budgets=Budgets(params=0.5))
    assert config.budget(config.row()) == {"macs": 4.09e9, "params": 0.5}
    alone = imagenet_search.Config(model="resnet50", budgets=Budgets(params=0.5))
    assert alone.budget(alone.row()) == {"params": 0.5}


def test_preset_with_a_teacher_asks_for_its_weights(photographs, tmp_path):
    flags = [f"--data-dir={photographs}", f"--workdir={tmp_path / 'run'}", "--batch=8"]
    with pytest.raises(UserError, match="taught by efficientnet_b4 at 320 px: give its weights with --teacher"):
        imagenet_search.main(["--preset=efficientnet_450", *flags])


def test_retraining_refuses_another_number_of_classes(searched, tmp_path):
    with pytest.raises(UserError, match="1000 classes, and scikit-learn digits.* has 10"):
        imagenet_retrain.main([f"--structure={searched}", f"--data-dir={tmp_path}", f"--workdir={tmp_path / 'run'}"])


def test_retraining_refuses_a_language_model(tmp_path):
    words = {"name": "llama", "arguments": {}, "example": [{"shape": [1, 8], "dtype": "int32"}]}
    Structure({"hidden": (0,)}, model=words).save(tmp_path / "structure.json")
    with pytest.raises(UserError, match="no image network"):
        imagenet_retrain.main([f"--structure={tmp_path / 'structure.json'}", f"--workdir={tmp_path / 'run'}"])
