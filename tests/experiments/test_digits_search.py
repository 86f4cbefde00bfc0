"""The main job as its users meet it, in processes of its own: end to end, stopped and resumed, loaded, refused."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

import dms_jax
from dms_jax import models
from dms_jax.data import digits
from dms_jax.space import SearchSpace
from dms_jax.structure import Structure
from dms_jax.training.pipeline import FULL, LONGER, UNIFORM
from experiments import digits_search
from tests.experiments.digits_runs import FOUND
from tests.experiments.stopping import results

ROOT = Path(__file__).parents[2]
PHASES = {"pretrain": 6, "search": 40, "finetune": 30, "uniform": 70, "full": 70}
FLAGS = ["--steps=40", "--pretrain-steps=6", "--finetune-steps=30", "--batch=16"]


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
