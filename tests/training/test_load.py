"""The end of a run, and what `load` brings back."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from phases import go, same

import dms_jax
from dms_jax import models
from dms_jax.baselines import uniform
from dms_jax.errors import UserError
from dms_jax.method.schedule import Schedule
from dms_jax.method.search import Search
from dms_jax.space import SearchSpace
from dms_jax.structure import Structure
from dms_jax.training import CheckpointError, runs
from dms_jax.training.runs import Run
from tests import tiny

ROOT = Path(__file__).parents[2]
CONFIG = {"experiment": "toy", "steps": 9, "budget": {"macs": 0.5}, "keep": ("a", "b"), "none": None}


@pytest.fixture(scope="module")
def found():
    """A structure of resnet20 a tenth its size, and variables for it."""
    model = models.create("resnet20", num_classes=10)
    space = SearchSpace.from_model(model, tiny.EXAMPLE)
    search = Search(space, lambda *_: None, None, {"macs": 0.02}, Schedule(1))  # type: ignore[arg-type]
    ranking = {name: np.arange(group.size) for name, group in space.groups.items()}
    kept = uniform(space, ranking, search.targets).kept
    structure = space.structure(kept, {"name": "resnet20", "arguments": {"num_classes": 10}})
    small = model.clone(structure=structure)
    return structure, small, tiny.variables(small, seed=5)


@pytest.fixture(scope="module")
def finished(found, tmp_path_factory):
    directory = tmp_path_factory.mktemp("finished")
    with Run(directory, {}) as run:
        run.finish(found[0], found[2], {"answer": 42})
    return directory


@pytest.fixture
def copy(finished, tmp_path):
    return Path(shutil.copytree(finished, tmp_path / "copy"))


LOGITS = """
import sys, numpy as np, dms_jax
model, variables = dms_jax.load(sys.argv[1])
np.save(sys.argv[2], model.apply(variables, np.load(sys.argv[3]), train=False))
"""


def test_load_in_a_fresh_process_gives_the_same_logits(found, finished, tmp_path):
    structure, small, variables = found
    images = tiny.batch_of(0)["image"]
    np.save(tmp_path / "images.npy", images)
    subprocess.run(
        [sys.executable, "-c", LOGITS, str(finished), str(tmp_path / "logits.npy"), str(tmp_path / "images.npy")],
        env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}, check=True, cwd=tmp_path,
    )  # fmt: skip
    np.testing.assert_array_equal(np.load(tmp_path / "logits.npy"), small.apply(variables, images, train=False))
    model, loaded = dms_jax.load(finished)
    assert model == small and model.structure == structure
    same(loaded, variables)
    on_host = dms_jax.load(finished, host=True)[1]
    assert all(isinstance(leaf, np.ndarray) and leaf.flags.c_contiguous for leaf in jax.tree.leaves(on_host))
    same(on_host, variables)


def test_load_changes_nothing(finished):
    def state():
        return {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in finished.rglob("*")}

    before = state()
    dms_jax.load(finished)
    assert state() == before


class Killed(BaseException):
    pass


@pytest.mark.parametrize("when", ["structure", "checkpoint", "half a checkpoint", "results"])
def test_killed_while_finishing_the_same_command_finishes(when, found, tmp_path, monkeypatch):
    def die(*_, **__):
        raise Killed

    structure, _, variables = found
    with Run(tmp_path, {}) as run, monkeypatch.context() as patch, pytest.raises(Killed):
        if when == "structure":
            patch.setattr(Structure, "save", die)
        elif when == "results":
            patch.setattr(runs, "_write", die)
        else:
            patch.setattr(runs.Checkpoints, "save", die)
        run.finish(structure, variables, {"answer": 41})
    if when == "half a checkpoint":
        (tmp_path / "checkpoints" / "final" / "0").mkdir()
    assert not (tmp_path / "results.json").exists()
    if when not in ("results",):
        with pytest.raises(UserError):
            dms_jax.load(tmp_path)
    with Run(tmp_path, {}) as run:
        assert run.results is None
        run.finish(structure, variables, {"answer": 42})
        assert run.results == {"answer": 42}
    same(dms_jax.load(tmp_path)[1], variables)


def test_results_that_are_torn_are_named_and_made_again(copy, capfd):
    (copy / "results.json").write_text('{"answer"')
    assert Run(copy, {}).results is None
    line = capfd.readouterr().err
    assert "results.json is not JSON" in line and "made again" in line and line.count("\n") == 1


def edit(path, change):
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def one_line_of_load(directory):
    with pytest.raises(UserError) as error:
        dms_jax.load(directory)
    assert "\n" not in str(error.value) and str(directory) in str(error.value)
    return str(error.value)


def test_load_of_a_missing_directory(tmp_path):
    assert "is not a directory" in one_line_of_load(tmp_path / "nowhere")


def test_load_of_a_run_that_is_not_done(tmp_path):
    go(tmp_path, phases={"a": 1})
    assert "run its command to the end" in one_line_of_load(tmp_path)


@pytest.mark.parametrize(
    "text, says",
    [
        ("", "is not JSON"),
        ("[]", "is not a structure"),
        ('{"format": "dms_jax.structure", "version": 2}', "version 2"),
        ('{"format": "dms_jax.structure", "version": 1}', "is not a structure"),
    ],
)
def test_load_of_no_structure(text, says, copy):
    (copy / "structure.json").write_text(text)
    assert says in one_line_of_load(copy)


@pytest.mark.parametrize(
    "change, says",
    [
        (lambda d: d.update(model=None), "does not say which model"),
        (lambda d: d.update(model="resnet20"), "is not a structure"),
        (lambda d: d["model"].pop("example"), "does not say which model"),
        (lambda d: d["model"].update(example=[{"shape": 3, "dtype": "float32"}]), "does not say which model"),
        (lambda d: d["model"].update(example=[{"shape": [1, 8, 8, 3], "dtype": "float5"}]), "does not say which model"),
        (lambda d: d["model"].update(arguments=None), "does not say which model"),
        (lambda d: d["model"].update(name="resnet21"), "unknown model 'resnet21'"),
        (lambda d: d["model"].update(arguments={"classes": 3}), "resnet20"),
        (lambda d: d["model"].update(arguments={"num_classes": 7}), "is of another model"),
        (lambda d: d["model"].update(name="resnet18"), "does not fit model 'resnet18'"),
        (lambda d: d["groups"]["stage2/out"].update(kept=[0, 1, 40], size=41), "stage2/out"),
        (lambda d: d["groups"]["stage2/out"].update(kept=[0, 1]), "is of another model"),
        (lambda d: d["groups"]["stem"].update(kept=[]), "does not fit model 'resnet20'"),
        (lambda d: d["groups"]["stem"].update(kept=[3, 1]), "ascending"),
        (lambda d: d["groups"]["stem"].update(kept=["a"]), "must list indices"),
    ],
)
def test_load_of_a_structure_that_does_not_fit(change, says, copy):
    edit(copy / "structure.json", change)
    with pytest.raises(UserError) as error:
        dms_jax.load(copy)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_load_of_torn_variables(copy):
    largest = max((p for p in (copy / "checkpoints" / "final" / "0" / "state").rglob("*") if p.is_file()),
                  key=lambda p: p.stat().st_size)  # fmt: skip
    largest.write_bytes(largest.read_bytes()[:-1])
    with pytest.raises(CheckpointError) as error:
        dms_jax.load(copy)
    said = str(error.value)
    assert str(copy) in said and "is not what was written" in said and "run the job's command again" in said
    with Run(copy, {}) as run:
        (copy / "results.json").unlink()
        structure = Structure.load(copy / "structure.json")
        run.finish(structure, {"params": {"w": np.ones(3, np.float32)}}, {})  # written anew all the same
