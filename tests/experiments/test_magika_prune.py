"""The command on a small network and a few files: searched, distilled, measured, stopped, resumed and repeated."""

import json

import jax
import numpy as np
import pytest

import dms_jax
from dms_jax.errors import UserError
from dms_jax.training import latency
from experiments import magika_network, magika_prune
from experiments.magika_prune import AGREEMENT
from tests.experiments import magika_cases as cases
from tests.experiments.stopping import check_stopped_and_resumed
from tests.helpers import FLOAT32_LOGITS


@pytest.fixture(autouse=True, scope="module")
def original(tmp_path_factory):
    """The small wheel in the user's cache; latency has tests of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latency, "rows", lambda networks, *_: {name: {"1": 1.0, "64": 2.0} for name in networks})
        made = cases.wheel(tmp_path_factory.mktemp("wheel") / "a.whl")
        cases.known(patch, made)
        yield made


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return cases.folders(tmp_path_factory.mktemp("files"))


def arguments(original, folders, workdir, *more):
    steps = ["--steps=6", "--finetune-steps=4", "--batch=8"]
    return [f"--wheel={original}", "--files", str(folders), f"--workdir={workdir}", *steps, *more]


@pytest.fixture(scope="module")
def alone(original, folders, tmp_path_factory):
    """A finished run, never stopped."""
    workdir = tmp_path_factory.mktemp("alone") / "run"
    magika_prune.main(arguments(original, folders, workdir, "--macs=0.3"))
    return workdir


def test_pruned_beside_its_controls(alone, original, folders, capsys):
    results = json.loads((alone / "results.json").read_text())
    assert [row["name"] for row in results["rows"]] == [
        "full network", "found by DMS", "same ratio everywhere", "full network, trained on"
    ]  # fmt: skip
    full, found, uniform, _ = results["rows"]
    assert full[AGREEMENT] == 1 and 0 <= found[AGREEMENT] <= 1 and full["stderr"] > 0
    assert max(found["macs"], uniform["macs"]) <= 0.3 * full["macs"]
    assert results["quality"]["parts"] == [AGREEMENT] and AGREEMENT in (alone / "report.html").read_text()
    assert "labeled by extension" in results["data"] and "30 % of the MACs" in results["title"]
    magika_prune.main(arguments(original, folders, alone, "--macs=0.3"))
    assert "finished already" in capsys.readouterr().out


def test_what_comes_out_runs_without_any_of_this(alone, original):
    """The exported program, and the function itself at other sizes, say the same."""
    fn, params = dms_jax.load(alone)
    small, own = dms_jax.load(alone, fn=magika_network.network)
    tokens = np.random.default_rng(0).integers(0, 257, (3, 32)).astype(np.int32)
    np.testing.assert_allclose(fn(params, tokens), jax.jit(small)(own, tokens), atol=FLOAT32_LOGITS)
    kept = fn.structure.kept
    assert own["embed"]["kernel"].shape[1] * own["conv"]["bias"].size == np.prod([len(k) for k in kept.values()])


def test_stopped_and_resumed_though_there_are_new_files(alone, original, folders, tmp_path, monkeypatch):
    workdir, calls = tmp_path / "run", []

    def main(job):
        if calls:
            (folders / "a" / "new.py").write_text("python1 python2 python3, a file that was not there")
        calls.append(job)
        magika_prune.main(job)

    job = arguments(original, folders, workdir, "--macs=0.3")
    check_stopped_and_resumed(main, job, magika_prune, 3, workdir, alone, monkeypatch)
    assert len(calls) == 2 and (workdir / "files.json").read_bytes() == (alone / "files.json").read_bytes()


def test_repeated_by_its_manifest(alone, original, tmp_path, capsys):
    manifest = [f"--manifest={alone / 'files.json'}", "--macs=0.5", "--no-controls", "--distill=0"]
    given = arguments(original, tmp_path, tmp_path / "run", *manifest)
    with pytest.raises(UserError, match="--manifest names the files, and --files chooses others; give one of them"):
        magika_prune.main(given)
    del given[1:3]
    magika_prune.main(given)
    there, here = (json.loads((d / "files.json").read_text())["files"] for d in (alone, tmp_path / "run"))
    assert there == here
    with pytest.raises(UserError, match="holds another job .distill"):
        magika_prune.main([*given, "--distill=0.25"])


def test_another_choice_of_files_is_another_job(alone, original, folders, tmp_path):
    with pytest.raises(UserError, match="holds another job .per_type 200 there, 3 asked"):
        magika_prune.main(arguments(original, folders, alone, "--macs=0.3", "--per-type=3"))
    lost = tmp_path / "lost"
    lost.mkdir()
    (lost / "config.json").write_text((alone / "config.json").read_text())
    with pytest.raises(UserError, match="files.json, which names the files of this run, is missing"):
        magika_prune.main(arguments(original, folders, lost, "--macs=0.3"))
    (lost / "config.json").unlink()
    with pytest.raises(UserError, match="budget"):  # nothing was claimed, and the corrected command may choose again
        magika_prune.main(arguments(original, folders, lost, "--macs=1e-9"))
    with pytest.raises(UserError, match="budget"):
        magika_prune.main(arguments(original, folders, lost, "--macs=1e-9", "--per-type=9"))
    assert json.loads((lost / "files.json").read_text())["settings"]["per_type"] == 9


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--distill=2", "weight in .0, 1."),
        ("--per-type=0", "--per-type 0 is not possible"),
        ("--batch=3", "take a mult"),
    ],
)
def test_flags_that_are_refused_leave_nothing(flag, said, original, folders, tmp_path):
    with pytest.raises(UserError, match=said):
        magika_prune.main([*arguments(original, folders, tmp_path / "run"), flag])
    assert not list(tmp_path.iterdir())
