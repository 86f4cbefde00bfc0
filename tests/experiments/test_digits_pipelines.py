"""The main job in this process: its pipelines, a rival, both budgets under all limits, checkpoints and reports."""

import shutil
from pathlib import Path

import pytest

from dms_jax.structure import Structure
from dms_jax.training.pipeline import FULL, LONGER, UNIFORM
from experiments import digits_search
from tests.experiments.digits_runs import FOUND, SHORT, make_quick, refused
from tests.experiments.stopping import results

LIMITED = [
    *SHORT, "--pipeline=p-", "--macs=0.6", "--params=1500", "--resource-weight=1", "--importance=magnitude", "--seed=7",
    "--freeze", "stem", "--min-size", "stage2/*", "3", "--divisible-by", "stage2/*", "2", "*", "1",
]  # fmt: skip


def read_run(directory):
    structure = Structure.load(directory / "structure.json")
    assert structure.resources is not None
    return structure, structure.resources["before"], structure.resources["after"], results(directory)


def test_from_random_weights_and_retrained_from_scratch(quick_digits, tmp_path):
    flags = ["--pipeline=np", "--params=0.5", "--retrain=scratch", "--importance=fisher"]
    digits_search.main([*SHORT, *flags, f"--workdir={tmp_path}"])
    _, before, after, found = read_run(tmp_path)
    assert set(found["budget"]) == {"params"} and after["params"] <= 0.5 * before["params"]
    names = [row["name"] for row in found["rows"]]
    assert names == [FOUND, UNIFORM, LONGER]
    assert {row["steps"] for row in found["rows"]} == {9}
    assert set(found["seconds"]) == {"search", "finetune", "uniform", "full"}
    assert (tmp_path / "report.html").exists()


def test_a_rival_is_saved_and_goes_on(quick_digits, tmp_path):
    """What a search saved is what it goes on from, though nothing is learned but weights and importance."""
    flags = [*SHORT, "--pipeline=p-", "--macs=0.6", "--strategy=iterative", f"--workdir={tmp_path}"]
    flags += ["--importance=taylor_last"]
    digits_search.main(flags)
    structure, before, after, found = read_run(tmp_path)
    assert after["macs"] <= 0.6 * before["macs"]
    assert "found by iterative threshold" in [row["name"] for row in found["rows"]]
    for name in ("results.json", "structure.json"):
        (tmp_path / name).unlink()
    digits_search.main(flags)
    assert Structure.load(tmp_path / "structure.json") == structure


@pytest.fixture(scope="module")
def limited(tmp_path_factory):
    """The structure alone, both budgets, every limit, on eight devices."""
    directory = tmp_path_factory.mktemp("limited")
    with pytest.MonkeyPatch.context() as patch:
        make_quick(patch)
        digits_search.main([*LIMITED, f"--workdir={directory}"])
    return directory


@pytest.fixture
def copy(limited, tmp_path):
    return Path(shutil.copytree(limited, tmp_path / "copy"))


def test_structure_alone_under_both_budgets_and_all_limits_on_eight_devices(limited):
    structure, before, after, found = read_run(limited)
    assert after["macs"] <= 0.6 * before["macs"] and after["params"] <= 1500
    sizes = {name: len(kept) for name, kept in structure.kept.items()}
    assert sizes["stem"] == 4
    assert all(n >= 4 and n % 2 == 0 for name, n in sizes.items() if name.startswith("stage2/"))
    assert "x 8" in found["machine"] and found["seed"] == 7
    assert [row["name"] for row in found["rows"]] == [FULL, FOUND, UNIFORM]
    assert set(found["seconds"]) == {"pretrain", "search"}  # and no retraining


def test_checkpoints_that_cannot_be_used(quick_digits, copy, capsys):
    (copy / "results.json").unlink()
    flags = [*LIMITED, f"--workdir={copy}"]
    (folder,) = (copy / "checkpoints" / "search").iterdir()
    renamed = folder.rename(folder.with_name("5"))
    line, _ = refused(capsys, *flags)
    assert "it was saved as step 6" in line
    renamed.rename(folder)
    (folder / "meta" / "metadata").unlink()
    line, _ = refused(capsys, *flags)
    assert "none of the 1 checkpoints" in line and "meta/metadata is missing" in line
    assert not (copy / "results.json").exists()


def test_a_report_that_was_removed_is_written_again(quick_digits, copy, capsys):
    flags = [*LIMITED, f"--workdir={copy}"]
    report = copy / "report.html"
    page = report.read_bytes()
    report.unlink()
    digits_search.main(flags)
    assert capsys.readouterr().out == f"finished already: {report}\n"
    assert report.read_bytes() == page
    report.unlink()
    (copy / "metrics.jsonl").unlink()
    line, _ = refused(capsys, *flags)
    assert line.startswith(f"error: no report: {copy / 'metrics.jsonl'} is missing")
