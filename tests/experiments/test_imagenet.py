"""The ImageNet commands as their users meet them: on photographs in ImageNet's layout, on the digits, and refusals."""

import json

import jax
import pytest

from dms_jax import models
from dms_jax.errors import UserError
from dms_jax.space import SearchSpace
from dms_jax.structure import Structure
from experiments import imagenet_eval, imagenet_retrain, imagenet_search, recipes
from experiments.recipes import PRESETS

TINY = ["--model=resnet20", "--resolution=16", "--batch=8", "--latency-batches", "1"]


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Where a miniature of imagenet2012 is prepared."""
    pytest.importorskip("tensorflow_datasets")
    from tests.data import mini_imagenet

    archives, directory = tmp_path_factory.mktemp("archives"), tmp_path_factory.mktemp("data")
    mini_imagenet.write_archives(archives)
    mini_imagenet.write_records(archives, directory)
    return directory


def results(directory):
    return json.loads((directory / "results.json").read_text())


@pytest.fixture(scope="module")
def searched(photographs, tmp_path_factory):
    """A finished search on the photographs, everything on: mixing, RandAugment, averages, accumulation."""
    directory = tmp_path_factory.mktemp("runs") / "search"
    flags = [
        f"--data-dir={photographs}", "--dataset=imagenet2012", "--flops=0.3", "--search-epochs=3", "--epochs=2",
        "--mixup=0.8", "--cutmix=1", "--erasing=0.25", "--randaugment=True", "--average=0.9", "--optimizer=rmsprop",
        "--schedule=exponential", "--workers=0",
    ]  # fmt: skip
    imagenet_search.main([*TINY, *flags, f"--workdir={directory}"])
    return directory


def test_search_on_photographs_to_its_end(searched):
    structure, found = Structure.load(searched / "structure.json"), results(searched)
    assert structure.resources["after"]["macs"] <= found["budget"]["macs"]["target"]
    assert "imagenet2012" in found["title"] and "48 training and 16 test images of 1000 classes" in found["data"]
    assert [row["name"] for row in found["rows"]] == ["found by DMS"] and found["rows"][0]["steps"] == 18 + 12
    phases = {json.loads(line)["phase"] for line in (searched / "metrics.jsonl").read_text().splitlines()}
    assert phases == {"search", "finetune"} and (searched / "report.html").exists()


def test_structure_is_retrained_and_evaluated(searched, photographs, tmp_path, capsys):
    flags = [f"--data-dir={photographs}", "--dataset=imagenet2012", "--workers=0", "--batch=8"]
    where = f"--workdir={tmp_path / 'again'}"
    imagenet_retrain.main([f"--structure={searched}", "--start=run", "--epochs=1", *flags, where])
    said = capsys.readouterr().out
    imagenet_eval.main([f"--weights={tmp_path / 'again'}", *flags])
    out = capsys.readouterr().out
    accuracy = 100 * results(tmp_path / "again")["rows"][0]["quality"]
    assert f"{accuracy:.1f}" in said and f"top-1 {accuracy:.2f}" in out and "top-5" in out
    macs = Structure.load(searched / "structure.json").resources["after"]["macs"]
    assert f"{macs:,} MACs" in out


def test_finished_run_teaches(searched, photographs, tmp_path):
    flags = [f"--data-dir={photographs}", "--dataset=imagenet2012", "--workers=0", "--batch=8", "--epochs=0.5"]
    where = f"--workdir={tmp_path / 'taught'}"
    taught = [f"--teacher={searched}", "--teacher-resolution=24"]
    imagenet_retrain.main([f"--structure={searched}", *taught, *flags, where])
    lines = [json.loads(line) for line in (tmp_path / "taught" / "metrics.jsonl").read_text().splitlines()]
    assert all(line["loss"] > line["cross_entropy"] for line in lines)  # what DIST adds is above 0


def test_digits_take_the_place_of_data_that_is_not_there(tmp_path, capsys):
    flags = ["--flops=0.3", "--search-epochs=0.02", "--epochs=0.02", f"--data-dir={tmp_path}", "--preset=resnet50"]
    imagenet_search.main([*TINY, *flags, f"--workdir={tmp_path / 'run'}", "--dtype=bfloat16"])
    first = capsys.readouterr().out.splitlines()[0]
    assert "scikit-learn's digits at 16 px" in first and "ImageNet is not at hand" in first
    assert "python -m dms_jax.data.prepare imagenet2012 --manual-dir" in first or "pip install" in first
    assert "scikit-learn digits" in results(tmp_path / "run")["title"]


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


# --- refusals ---


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--dataset=imagenet2012"], "prepare|missing"),
        (["--preset=resnet51"], "unknown preset 'resnet51'; there are: efficientnet_450"),
        (["--model=resnet20", "--batch=9"], "--batch 9 cannot be cut over 8 devices"),
        (["--model=resnet20", "--batch=8", "--accumulate=3"], "in 3 parts; take a multiple of 24"),
        (["--weights=somewhere"], "--weights are for pipelines p and p-"),
        (["--pipeline=p-", "--retrain=scratch"], "needs a retraining"),
        (["--flops=1e12"], "above the largest supernet"),
        (["--model=llama_bytes"], "no recipe for 'llama_bytes'"),
        (["--model=resnet20", "--epochs=0"], "--epochs 0.0 is not possible"),
        (["--model=vit_tiny_patch16_224", "--resolution=50"], "50"),
        (["--model=resnet20", "--resolution=16", "--flops=0.3", "--teacher=nowhere"], "nowhere"),
    ],
)
def test_refusals(flags, message, tmp_path):
    with pytest.raises(UserError, match=message):
        imagenet_search.main([*flags, f"--data-dir={tmp_path}", f"--workdir={tmp_path / 'run'}"])


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
