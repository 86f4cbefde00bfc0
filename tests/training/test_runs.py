"""A run directory: whose it is, that phases end up where an unbroken run would, and what `load` brings back."""

import fcntl
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import jax
import numpy as np
import pytest
import toy

import dms_jax
from dms_jax import files as storage
from dms_jax import models
from dms_jax.baselines import uniform
from dms_jax.errors import Interrupted, UserError
from dms_jax.method.schedule import Schedule
from dms_jax.method.search import Search
from dms_jax.space import SearchSpace
from dms_jax.structure import Structure
from dms_jax.training import CheckpointError, claims, runs
from dms_jax.training.metrics import FILE, read
from dms_jax.training.runs import Run
from tests import tiny

ROOT = Path(__file__).parents[2]
CONFIG = {"experiment": "toy", "steps": 9, "budget": {"macs": 0.5}, "keep": ("a", "b"), "none": None}


# --- claims ---


def test_the_same_job_goes_on_and_makes_its_directory(tmp_path):
    for _ in range(2):
        assert Run(tmp_path / "a" / "b", CONFIG).results is None
    assert json.loads((tmp_path / "a" / "b" / "config.json").read_text())["keep"] == ["a", "b"]


@pytest.mark.parametrize(
    "other, named",
    [
        (CONFIG | {"steps": 10}, ["steps 9 there, 10 asked"]),
        (CONFIG | {"experiment": "b", "budget": {"params": 0.5}}, ["'toy' there, 'b' asked", "budget {'macs'"]),
        (CONFIG | {"new": 1}, ["new absent there, 1 asked"]),
        ({k: v for k, v in CONFIG.items() if k != "none"}, ["none None there, absent asked"]),
        ({}, ["and 1 more", "steps 9 there, absent asked"]),
    ],
)  # fmt: skip
def test_another_job_is_refused_in_one_line_that_names_what_differs(other, named, tmp_path):
    Run(tmp_path, CONFIG)
    with pytest.raises(UserError, match="holds another job") as error:
        Run(tmp_path, other)
    for part in [*named, str(tmp_path), "choose another --workdir"]:
        assert part in str(error.value)
    assert "\n" not in str(error.value)
    Run(tmp_path, CONFIG)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b"[1]", b"null"])
def test_a_config_that_is_none_is_no_job_to_go_on_with(content, tmp_path):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(UserError, match="choose another --workdir"):
        Run(tmp_path, CONFIG)
    assert (tmp_path / "config.json").read_bytes() == content


@pytest.mark.parametrize("name", [FILE, "masks.jsonl", "checkpoints", "results.json"])
def test_files_of_something_else_are_not_overwritten(name, tmp_path):
    (tmp_path / name).write_text("somebody's")
    with pytest.raises(UserError, match=f"holds {name} of something else"):
        Run(tmp_path, CONFIG)
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_a_directory_with_unrelated_files_can_be_used(tmp_path):
    (tmp_path / "output.log").write_text("started")
    Run(tmp_path, CONFIG)


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "file").write_text("")
    for directory in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match=r"cannot write in .*choose another --workdir"):
            Run(directory, CONFIG)


def test_a_directory_that_cannot_be_written(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:  # not by file modes: root, whom containers run as, may write anywhere
        patch.setattr(storage, "write_all", refuse)
        with pytest.raises(UserError, match=r"cannot write in .* \(Permission denied\); choose another --workdir"):
            Run(tmp_path, CONFIG)
    run = Run(tmp_path, CONFIG)
    monkeypatch.setattr(storage, "open_append", refuse)
    with pytest.raises(UserError, match="Permission denied"):
        run.record_masks("search", 1, {})


def test_a_second_job_in_the_directory_of_one_at_work(tmp_path):
    with Run(tmp_path, CONFIG):
        with pytest.raises(
            UserError, match=rf"a job is at work in {tmp_path} \(process {os.getpid()} on .*wait for it"
        ):
            Run(tmp_path, CONFIG).__enter__()
    with Run(tmp_path, CONFIG):  # the first one ended
        pass


def test_who_claims_is_waited_for_and_not_taken_for_a_job_at_work(tmp_path, monkeypatch):
    """One that saw no claim yet looks again; meanwhile the one that has claimed begins. Else both would go."""
    first, inside, on = Run(tmp_path, CONFIG), threading.Event(), threading.Event()
    claim, is_claimed, said = claims.claim, claims.is_claimed, []

    def slowly(directory, config):
        if config != CONFIG:
            inside.set()
            on.wait(60)
        claim(directory, config)

    def second():
        with pytest.raises(UserError) as error:
            Run(tmp_path, CONFIG | {"seed": 77})
        said.append(str(error.value))

    monkeypatch.setattr(claims, "claim", slowly)
    monkeypatch.setattr(claims, "is_claimed", lambda d, c: (c == CONFIG or inside.is_set()) and is_claimed(d, c))
    thread = threading.Thread(target=second)
    thread.start()
    assert inside.wait(60)
    threading.Timer(0.3, on.set).start()
    with first:
        thread.join(60)
    assert len(said) == 1 and "holds another job (seed" in said[0]


def test_the_lock_of_a_killed_job_is_free(tmp_path):
    hold = f"""
import time
from dms_jax.training.runs import Run
with Run({str(tmp_path)!r}, {{}}):
    print("holds", flush=True)
    time.sleep(600)
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    with subprocess.Popen([sys.executable, "-c", hold], env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "holds\n"
        with pytest.raises(UserError, match=f"process {process.pid} on"):
            Run(tmp_path, {}).__enter__()
        process.kill()
        process.wait()
        with Run(tmp_path, {}):
            pass


def test_a_file_system_without_locks_is_told(tmp_path, monkeypatch, capsys):
    def refuse(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with Run(tmp_path, CONFIG):
        assert "cannot be locked (Operation not supported): see that no other job" in capsys.readouterr().err


def test_killed_while_claiming(tmp_path):
    (tmp_path / "config.json.part").write_text('{"experim')
    Run(tmp_path, CONFIG)
    Run(tmp_path, CONFIG)


# --- phases ---

PHASES = {"a": 7, "search": 9, "b": 5}


def never(i):
    raise AssertionError(f"batch {i} was asked for")


def go(directory, stop=None, batches=None, phases=None, **options):
    """Three phases, each from the state before; `stop` is (phase, step) in which a signal arrives."""
    state = toy.init()
    with Run(directory, {"experiment": "toy"}) as run:
        for name, steps in (phases or PHASES).items():

            def batch_of(i, name=name):
                run.interrupt.requested |= stop == (name, i)
                return toy.batch_of(i)

            def masks(step, values, observed, name=name):
                if name == "search":
                    run.record_masks(name, step, {"g": observed})

            state = run.phase(
                name, toy.step, toy.init()._replace(params=jax.tree.map(jax.numpy.copy, state.params)),
                batches or batch_of, jax.random.key(1), steps=steps, log_every=2,
                observe=lambda s: jax.nn.sigmoid(s.params["b.1"]), on_log=masks, **options,
            )  # fmt: skip
    return state


def files(directory):
    return {name: (directory / name).read_bytes() for name in (FILE, "masks.jsonl")}


def same(a, b):
    assert [np.asarray(x).tobytes() for x in jax.tree.leaves(a)] == [
        np.asarray(x).tobytes() for x in jax.tree.leaves(b)
    ]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    directory = tmp_path_factory.mktemp("unbroken")
    return directory, go(directory)


def test_done_phases_are_not_run_again(unbroken):
    directory, state = unbroken
    before = files(directory), (directory / "seconds.json").read_bytes()
    same(go(directory, batches=never), state)
    assert (files(directory), (directory / "seconds.json").read_bytes()) == before
    assert [(r["phase"], r["step"]) for r in read(directory)] == [
        *(("a", s) for s in (1, 2, 4, 6, 7)),
        *(("search", s) for s in (1, 2, 4, 6, 8, 9)),
        *(("b", s) for s in (1, 2, 4, 5)),
    ]


@pytest.mark.parametrize("stops", [[("a", 0)], [("search", 4)], [("a", 6), ("search", 0)], [("a", 2), ("b", 3)]])
def test_stopped_and_resumed_is_never_stopped(stops, unbroken, tmp_path):
    for stop in stops:
        name, i = stop
        following = {"a": "search", "search": "b"}
        at = (name, i + 1) if i + 1 < PHASES[name] else (following[name], 0)
        with pytest.raises(Interrupted) as raised:
            go(tmp_path, stop=stop)
        assert raised.value.step == at[1]
        assert str(raised.value) == f"stopped {at[0]} after step {at[1]} of {PHASES[at[0]]} and saved"
    same(go(tmp_path), unbroken[1])
    assert files(tmp_path) == files(unbroken[0])


@pytest.mark.parametrize("phase, i", [("a", 0), ("search", 0), ("search", 7), ("b", 1)])
def test_killed_with_torn_records_and_resumed_is_never_stopped(phase, i, unbroken, tmp_path):
    class Killed(BaseException):
        pass

    count = {"a": 0, "search": 7, "b": 16}[phase] + i
    seen = iter(range(100))

    def batches(j):
        if next(seen) == count:
            raise Killed
        return toy.batch_of(j)

    with pytest.raises(Killed):
        go(tmp_path, batches=batches, checkpoint_seconds=1e9)
    for name in (FILE, "masks.jsonl"):
        with (tmp_path / name).open("a") as file:
            file.write(f'{{"phase": "{phase}", "st')
    same(go(tmp_path), unbroken[1])
    assert files(tmp_path) == files(unbroken[0])


def test_masks_beyond_the_checkpoint_are_dropped(tmp_path):
    class Killed(BaseException):
        pass

    def killed_at(i):
        def batches(j):
            if i == j:
                raise Killed
            return toy.batch_of(j)

        return batches

    with pytest.raises(Interrupted):
        go(tmp_path, stop=("search", 3), phases={"search": 9})  # saved at step 4
    with pytest.raises(Killed):
        go(tmp_path, batches=killed_at(8), phases={"search": 9}, checkpoint_seconds=1e9)  # recorded up to step 6
    assert [r["step"] for r in read(tmp_path)] == [1, 2, 4, 6]
    go(tmp_path, phases={"search": 9})
    lines = [json.loads(line) for line in (tmp_path / "masks.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 4, 6, 8, 9]
    assert [r["step"] for r in read(tmp_path)] == [1, 2, 4, 6, 8, 9]


def test_a_phase_done_anew_leaves_the_records_of_later_ones(unbroken, tmp_path):
    """Its checkpoints were lost or removed; the later phases' stay, and so must what they measured."""
    shutil.copytree(unbroken[0], tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "a")
    same(go(tmp_path / "run"), unbroken[1])

    def records(directory):
        return sorted((r["phase"], r["step"], r["loss"]) for r in read(directory))

    assert records(tmp_path / "run") == records(unbroken[0])


def test_seconds_of_all_attempts_add_up(tmp_path, monkeypatch):
    class Clock:
        now = 0.0

    def batches(i):
        Clock.now += 1.0
        return toy.batch_of(i)

    monkeypatch.setattr(runs.time, "monotonic", lambda: Clock.now)
    flags = iter([True, False])
    for stopped in flags:
        with Run(tmp_path, {}) as run:
            run.interrupt.requested = stopped
            try:
                run.phase("a", toy.step, toy.init(), batches, jax.random.key(0), steps=6)
            except Interrupted:
                assert stopped
    with Run(tmp_path, {}) as run:
        assert run.seconds == {"a": 6.0}


def test_signals_are_the_runs_only_inside_it(tmp_path):
    import signal

    before = signal.getsignal(signal.SIGINT)
    with Run(tmp_path, {}):
        assert signal.getsignal(signal.SIGINT) != before
    assert signal.getsignal(signal.SIGINT) == before


# --- the end, and load ---


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
    assert "none of the 1 checkpoints" in str(error.value) and str(copy) in str(error.value)
    with Run(copy, {}) as run:
        (copy / "results.json").unlink()
        structure = Structure.load(copy / "structure.json")
        run.finish(structure, {"params": {"w": np.ones(3, np.float32)}}, {})  # written anew all the same
