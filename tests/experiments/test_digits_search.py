"""The main job as its users meet it: the command end to end, stopped and resumed, and everything it refuses."""

import fcntl
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

import dms_jax
from dms_jax import models
from dms_jax.data import digits
from dms_jax.errors import UserError, exit_on_user_error
from dms_jax.space import SearchSpace
from dms_jax.structure import Structure
from dms_jax.training import latency, runs
from dms_jax.training.pipeline import FULL, LONGER, UNIFORM
from experiments import bounds, digits_search
from experiments.flags import Budgets
from tests import tiny

ROOT = Path(__file__).parents[2]
FOUND = "found by DMS"
PHASES = {"pretrain": 6, "search": 40, "finetune": 30, "uniform": 70, "full": 70}
FLAGS = ["--steps=40", "--pretrain-steps=6", "--finetune-steps=30", "--batch=16"]


# --- the command, in processes of its own ---


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A folder of all workers of this session: what one runs, the others need not."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "digits_search"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def start():
    """Start the command in a directory."""
    # steps enough that loops which nothing optimised take longer than to optimise them
    flags = f"{os.environ['XLA_FLAGS']} --xla_backend_optimization_level=1"
    environment = os.environ | {
        "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "COLUMNS": "60", "XLA_FLAGS": flags,
    }  # fmt: skip
    command = [sys.executable, "-m", "experiments.digits_search"]

    def start(directory, *flags):
        return subprocess.Popen(
            [*command, *(flags or FLAGS), f"--workdir={directory}"],
            env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    return start


def complete(process):
    out, err = process.communicate(timeout=300)
    assert "Traceback" not in err, err
    return process.returncode, out, err


@pytest.fixture(scope="module")
def unbroken(shared, start):
    directory = shared / "unbroken"
    with (shared / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (directory / "report.html").exists():
            status, out, err = complete(start(directory))
            assert status == 0, err
            (shared / "output.txt").write_text(out)
    return directory


def stop_at(process, directory, phase, step, number):
    """Wait until a step of a phase is recorded, and send a signal."""
    end = time.monotonic() + 300
    while time.monotonic() < end and process.poll() is None:
        path = directory / "metrics.jsonl"
        if path.exists() and f'"phase": "{phase}", "step": {step},'.encode() in path.read_bytes():
            process.send_signal(number)
            break
        time.sleep(0.005)
    return complete(process)


def results(directory):
    return json.loads((directory / "results.json").read_text())


def test_end_to_end(unbroken, shared):
    found = results(unbroken)
    structure = Structure.load(unbroken / "structure.json")
    target, full = found["budget"]["macs"]["target"], found["budget"]["macs"]["full"]
    assert target == int(0.04 * full)
    assert structure.resources is not None
    assert structure.resources["before"]["macs"] == full
    assert structure.resources["after"]["macs"] <= target
    assert not more_fits(structure, target)

    rows = {row["name"]: row for row in found["rows"]}
    assert list(rows) == [FULL, FOUND, UNIFORM, LONGER]
    assert rows[FOUND]["macs"] == structure.resources["after"]["macs"]
    assert rows[UNIFORM]["macs"] <= target
    assert [row["steps"] for row in rows.values()] == [6, 76, 76, 76]
    assert rows[LONGER]["quality"] > 0.5  # of ten classes: something was learnt
    assert found["verify"]["max_abs_difference"] < 1e-4
    assert set(found["seconds"]) == set(PHASES)

    output = (shared / "output.txt").read_text()
    for row in rows.values():  # whole, though the terminal is 60 columns wide
        assert row["name"] in output and f"{row['macs']:,}" in output and f"{row['latency_ms']['64']:.2f}" in output
    assert output.splitlines()[-1] == f"report: {unbroken / 'report.html'}"
    assert "4 % of the MACs" in (unbroken / "report.html").read_text()
    records = [json.loads(line) for line in (unbroken / "metrics.jsonl").read_text().splitlines()]
    assert {r["phase"]: r["step"] for r in records} == PHASES
    assert list(dict.fromkeys(r["phase"] for r in records)) == list(PHASES)


def more_fits(structure, target):
    """Whether any group could have one element more under the target."""
    space = SearchSpace.from_model(models.create("resnet20", num_classes=10), digits_search.EXAMPLE)
    for name, group in space.groups.items():
        for other in set(range(group.size)) - set(structure.kept[name]):
            kept = {**structure.kept, name: tuple(sorted((*structure.kept[name], other)))}
            if space.resources(kept)["macs"] <= target:
                return True
    return False


def test_load_gives_the_network_that_was_measured(unbroken):
    model, variables = dms_jax.load(unbroken)
    test = digits.load().test
    logits = np.asarray(model.apply(variables, test["image"], train=False))
    row = next(row for row in results(unbroken)["rows"] if row["name"] == FOUND)
    assert np.mean(np.argmax(logits, -1) == test["label"]) == pytest.approx(row["quality"], abs=1.5 / 360)


def test_stopped_and_resumed_is_never_stopped(unbroken, start, tmp_path):
    """Between phases and within one; within a search the other experiments are stopped."""
    directory, phase, step = tmp_path / "run", "finetune", 3
    status, out, err = stop_at(start(directory), directory, phase, step, signal.SIGTERM)
    assert status == 130 and out == ""
    last = err.splitlines()[-1]
    assert last.startswith(f"stopped {phase} after step ")
    done = int(last.split()[4])
    assert step <= done < PHASES[phase] and f"of {PHASES[phase]} and saved" in last
    assert f"the same command goes on: {digits_search.COMMAND} {' '.join(FLAGS)} --workdir={directory}" in last
    assert (directory / "checkpoints" / phase / str(done)).is_dir()
    status, out, err = complete(start(directory))
    assert status == 0
    assert "pretrain 1/6" not in err and "search 40/40" not in err  # done ones are not run again
    for name in ("structure.json", "metrics.jsonl", "masks.jsonl"):
        assert (directory / name).read_bytes() == (unbroken / name).read_bytes(), name
    found, expected = dms_jax.load(directory)[1], dms_jax.load(unbroken)[1]
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
    ours, theirs = results(directory), results(unbroken)
    assert [row["quality"] for row in ours["rows"]] == [row["quality"] for row in theirs["rows"]]


def test_a_finished_run_says_so_and_does_nothing(unbroken, start):
    def state():
        return {p: p.stat().st_mtime_ns for p in unbroken.rglob("*") if p.name != "lock"}  # which says who came last

    before = state()
    # the default budget given as a flag is the same job
    assert complete(start(unbroken, *FLAGS, "--macs=0.04"))[:2] == (
        0,
        f"finished already: {unbroken / 'report.html'}\n",
    )
    assert state() == before


def test_the_command_ends_with_status_2_and_one_line(start, tmp_path):
    status, out, err = complete(start(tmp_path / "run", "--macs=5"))
    assert (status, out) == (2, "")
    assert err.startswith("error: budget 5 MACs is below ") and err.count("\n") == 1
    assert not (tmp_path / "run").exists()


# --- in this process, with a network that compiles in a second ---


def make_quick(patch):
    """A tiny model beside the zoo's, and no time for latency, which has tests of its own."""
    patch.setitem(models.MODELS, "tiny", tiny.make)
    patch.setattr(latency, "rows", lambda networks, *_: {name: {"1": 1.0, "64": 2.0} for name in networks})


@pytest.fixture
def quick(monkeypatch):
    make_quick(monkeypatch)
    monkeypatch.setattr(digits_search, "make_mesh", partial(digits_search.make_mesh, jax.devices()[:1]))


SHORT = ["--model=tiny", "--steps=6", "--pretrain-steps=3", "--finetune-steps=3", "--batch=16"]
LIMITED = [
    *SHORT, "--pipeline=p-", "--macs=0.6", "--params=1500", "--resource-weight=1", "--importance=magnitude", "--seed=7",
    "--freeze", "stem", "--min-size", "stage2/*", "3", "--divisible-by", "stage2/*", "2", "*", "1",
]  # fmt: skip


def read_run(directory):
    structure = Structure.load(directory / "structure.json")
    assert structure.resources is not None
    return structure, structure.resources["before"], structure.resources["after"], results(directory)


def test_from_random_weights_and_retrained_from_scratch(quick, tmp_path):
    flags = ["--pipeline=np", "--params=0.5", "--retrain=scratch", "--importance=fisher"]
    digits_search.main([*SHORT, *flags, f"--workdir={tmp_path}"])
    _, before, after, found = read_run(tmp_path)
    assert set(found["budget"]) == {"params"} and after["params"] <= 0.5 * before["params"]
    names = [row["name"] for row in found["rows"]]
    assert names == [FOUND, UNIFORM, LONGER]
    assert {row["steps"] for row in found["rows"]} == {9}
    assert set(found["seconds"]) == {"search", "finetune", "uniform", "full"}
    assert (tmp_path / "report.html").exists()


def test_a_rival_is_saved_and_goes_on(quick, tmp_path):
    """What a search saved is what it goes on from, though nothing is learned but weights and importance."""
    flags = [*SHORT, "--pipeline=p-", "--macs=0.6", "--strategy=iterative", f"--workdir={tmp_path}"]
    flags += ["--ratio-rate=2", "--importance=taylor_last"]
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


def test_checkpoints_that_cannot_be_used(quick, copy, capsys):
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


def test_a_report_that_was_removed_is_written_again(quick, copy, capsys):
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


# --- what bad input gets ---


def refused(capsys, *flags):
    """Run main as a program does, and return the one line of its end."""
    with pytest.raises(SystemExit) as end:
        exit_on_user_error(digits_search.main)([*flags])
    out, err = capsys.readouterr()
    assert end.value.code == 2 and out == ""
    line = err.splitlines()[-1]
    assert line.startswith("error: ") and "Traceback" not in err
    return line, err.splitlines()[:-1]


@pytest.mark.parametrize(
    "flags, says",
    [
        (["--macs=0"], ["budget 0.0 of MACs is not a positive number", "2,551,424"]),
        (["--macs=-0.5"], ["budget -0.5 of MACs is not a positive number"]),
        (["--macs=nan"], ["budget nan of MACs"]),
        (["--macs=inf"], ["budget inf of MACs"]),
        (["--params=nan"], ["budget nan of parameters"]),
        (["--macs=3e6"], ["budget 3,000,000 MACs is above the full network's 2,551,424"]),
        (["--params=272475"], ["above the full network's 272,474"]),
        (["--macs=1e-6"], ["is below 2,118, the smallest reachable", "2,551,424"]),
        (["--macs=0.5", "--params=1.5"], ["parameters is below"]),
        (["--macs=x"], ["budget x of MACs is not a positive number", "M, G, T, MACs"]),
        (["--macs=2GB"], ["budget 2GB of MACs has the unknown unit 'GB'"]),
        (["--weights=1PB"], ["budget 1PB of weights has the unknown unit 'PB'", "KiB"]),
        (["--memory=1TB"], ["of memory is above the full network's"]),
        (["--memory-batch=0"], ["batch of memory"]),
        (["--latency=3MB"], ["budget 3MB of latency has the unknown unit 'MB'", "ns, us, µs, ms, s"]),
        (["--latency=0ms", "--latency-batch=2"], ["budget 0ms of latency is not a positive number"]),
        (["--latency-batch=0"], ["batch of latency"]),
        (["--latency-batch=2"], ["--latency-batch is of a budget that is not given; give --latency"]),
        (["--macs=0.5", "--memory-batch=2"], ["--memory-batch is of a budget that is not given; give --memory"]),
        (["--latency-seconds=0"], ["seconds of latency 0.0 is not possible"]),
        (["--weights-factor=2"], ["factor of weights 2.0 is not possible"]),
        (["--cache=1MB"], ["budget on ['cache']: give one on macs or params or weights"]),
        (["--cache-length=9"], ["ResNet has nothing that Cache(length=9"]),
        (["--freeze=*"], ["is below 2,551,424, the smallest reachable"]),
        (["--model=resnet21"], ["unknown model 'resnet21'", "resnet20"]),
        (["--freeze=stage9/*"], ["'stage9/*' matches no group", "stem"]),
        (["--min-size", "nothing", "3"], ["'nothing' matches no group"]),
        (["--divisible-by", "*", "0"], ["divisible_by 0 for '*'"]),
        (["--divisible-by", "*", "auto"], ['divisible_by "auto" is what was measured of this device, and nothing was']),
        (["--steps=0"], ["--steps 0 is not possible"]),
        (["--pretrain-steps=-1"], ["--pretrain-steps -1"]),
        (["--finetune-steps=0"], ["--finetune-steps 0"]),
        (["--batch=0"], ["--batch 0"]),
        (["--batch=20"], ["--batch 20 cannot be cut over 8 devices"]),
        (["--learning-rate=0"], ["--learning-rate 0.0"]),
        (["--learning-rate=inf"], ["--learning-rate inf"]),
        (["--resource-weight=nan"], ["--resource-weight nan"]),
        (["--resource-weight=-1"], ["--resource-weight -1.0"]),
        (["--seed=-1"], ["--seed -1"]),
        (["--pipeline=p-", "--retrain=scratch"], ["--retrain scratch", "p-"]),
        (["--ratio-rate=0"], ["rate 0.0 of the structure parameters", "(0, inf)"]),
        (["--ratio-together=1"], ["together 1.0 of the rate is not possible", "[0, 1)"]),
        (["--strategy=iterative", "--ratio-together=0.5"], ["iterative threshold has no ratios"]),
    ],
)  # fmt: skip
def test_one_line_and_nothing_written(flags, says, capsys, tmp_path):
    line, before = refused(capsys, *flags, f"--workdir={tmp_path / 'run'}")
    assert before == []
    for part in says:
        assert part in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "flags, line",
    [
        (["--pipeline=q"], r"invalid choice 'q' for argument '--pipeline'. Expected one of \(.*\); --help says .*"),
        (["--strategy=topk"], r"invalid choice 'topk' for argument '--strategy'. .*; --help says .*"),
        (["--retrain=no"], r"invalid choice 'no' .*; --help says .*"),
        (["--steps=many"], r"--steps 'many' is not possible; give a whole number .*"),
        (["--min-size", "stem"], r"--min-size: Failed to parse key-value pairs; --help says .*"),
        (["--nonsense"], r"--nonsense is no flag; --help lists all flags"),
        (["--weight=1"], r"--weight is no flag; did you mean --weights or --resource-weight\?"),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_mistyped_flags_are_one_line(flags, line, encoding, tmp_path, monkeypatch):
    """Whatever the terminal can draw boxes of."""
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding))
    with pytest.raises(UserError) as error:
        digits_search.main([*flags, f"--workdir={tmp_path / 'run'}"])
    assert re.fullmatch(line, str(error.value)) and not (tmp_path / "run").exists()


def test_workdirs_of_others(capsys, tmp_path):
    flags = ["--macs=0.5", f"--workdir={tmp_path}"]
    ours = digits_search.Config(budgets=Budgets(macs=0.5)).identity
    config = tmp_path / "config.json"
    for content, says in [
        (json.dumps({**ours, "experiment": "text_search"}), "experiment 'text_search' there, 'digits_search' asked"),
        (json.dumps({**ours, "model": "resnet56"}), "model 'resnet56' there, 'resnet20' asked"),
        (json.dumps({**ours, "macs": 0.04}), "macs 0.04 there, 0.5 asked"),
        ("not JSON", "config.json is not JSON"),
    ]:
        config.write_text(content)
        line, before = refused(capsys, *flags)
        assert says in line and "choose another --workdir" in line and before == []
        assert [p.name for p in tmp_path.iterdir()] == ["config.json"] and config.read_text() == content
    line, _ = refused(capsys, "--macs=0.5", f"--workdir={config}")
    assert "cannot write in" in line and "choose another --workdir" in line
    line, _ = refused(capsys, "--macs=0.5", f"--workdir={config / 'below'}")
    assert "cannot write in" in line


def test_a_loss_that_is_not_finite_stops_the_job(quick, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(runs, "run_phase", partial(runs.run_phase, checkpoint_every=1))
    monkeypatch.setitem(bounds.BOUNDS, "learning_rate", bounds.Bounds(0, 1e38, above=True))  # no possible rate does it
    flags = [*SHORT, "--learning-rate=1e30", f"--workdir={tmp_path}"]
    for _ in range(2):  # the same command fails the same way
        line, _ = refused(capsys, *flags)
        assert line.startswith("error: pretrain: loss is ") and "lower the learning rate" in line
        step = int(line.split(" at step ")[1].split()[0])
        folder = tmp_path / "checkpoints" / "pretrain"
        saved = sorted(int(p.name) for p in folder.iterdir())
        assert saved[-1] == step - 1 and f"last good checkpoint: {step - 1} in {folder}" in line
        assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["pretrain"]
