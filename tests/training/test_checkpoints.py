import asyncio
import json
import os
import resource
import shutil
import subprocess
import sys
import threading
import types
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from dms_jax import files
from dms_jax.errors import UserError
from dms_jax.training import CheckpointError, Checkpoints, failed_writes, make_mesh, replicate
from tests.faults.moments import environment

EXAMPLE = {
    "w": jnp.zeros((40, 30)),
    "n": jnp.int32(0),
    "half": jnp.zeros(7, jnp.bfloat16),
    "host": np.zeros(3),
}


def state_at(step):
    draw = np.random.default_rng(step)
    w = jnp.asarray(draw.normal(size=(40, 30)), jnp.float32)
    return {"w": w, "n": jnp.int32(step), "half": w[0, :7].astype(jnp.bfloat16), "host": draw.normal(size=3)}


def assert_is(restored, step):
    assert restored is not None
    assert restored.step == step
    assert restored.meta == {"phase": "search", "of": [step]}
    for name, leaf in state_at(step).items():
        assert type(restored.state[name]) is type(leaf)
        assert restored.state[name].dtype == leaf.dtype
        np.testing.assert_array_equal(restored.state[name], leaf)


@pytest.fixture(scope="module")
def two_whole(tmp_path_factory):
    directory = tmp_path_factory.mktemp("two_whole")
    with Checkpoints(directory) as checkpoints:
        for step in (10, 20):
            checkpoints.save(step, state_at(step), {"phase": "search", "of": [step]})
    return directory


@pytest.fixture
def copy(two_whole, tmp_path):
    return Path(shutil.copytree(two_whole, tmp_path / "copy"))


def restore(directory):
    lines = []
    with Checkpoints(directory, report=lines.append) as checkpoints:
        return checkpoints.restore(EXAMPLE), lines


def files_of(directory, step="20"):
    return sorted(p for p in (directory / step).rglob("*") if p.is_file())


def flipped(data: bytes, at: float) -> bytes:
    i = min(int(at * len(data)), len(data) - 1)
    return data[:i] + bytes([data[i] ^ 0x10]) + data[i + 1 :]


HARMS = {
    "removed": None,
    "emptied": lambda data: b"",
    "cut in half": lambda data: data[: len(data) // 2],
    "cut by a byte": lambda data: data[:-1],
    "flipped first": lambda data: flipped(data, 0.0),
    "flipped middle": lambda data: flipped(data, 0.5),
    "flipped last": lambda data: flipped(data, 1.0),
    "longer": lambda data: data + b"\0",
}


def test_newest_comes_back_and_the_oldest_goes(two_whole, tmp_path):
    restored, lines = restore(two_whole)
    assert_is(restored, 20)
    assert lines == []
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, state_at(step))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["2", "3"]


@pytest.mark.parametrize("harm", HARMS)
def test_harmed_files_give_the_same_numbers_or_the_checkpoint_before(harm, two_whole, tmp_path, capfd):
    fell_back = 0
    for number, file in enumerate(files_of(two_whole)):
        directory = Path(shutil.copytree(two_whole, tmp_path / str(number)))
        target = directory / file.relative_to(two_whole)
        if HARMS[harm] is None:
            target.unlink()
        else:
            target.write_bytes(HARMS[harm](target.read_bytes()))
        restored, lines = restore(directory)
        if lines:
            assert_is(restored, 10)
            assert len(lines) == 1 and "checkpoint 20 in" in lines[0] and "using the one of step 10" in lines[0]
            assert "\n" not in lines[0]
            fell_back += 1
        else:
            assert_is(restored, 20)
    assert fell_back >= len(files_of(two_whole)) - 4  # the markers and time stamps of Orbax hold nothing restored
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("step", ["10", "20"])
def test_a_pipe_in_the_place_of_any_file_is_not_waited_for(step, two_whole, tmp_path):
    for number, file in enumerate(files_of(two_whole, step)):
        directory = Path(shutil.copytree(two_whole, tmp_path / str(number)))
        place = directory / file.relative_to(two_whole)
        place.unlink()
        os.mkfifo(place)
        found = []
        thread = threading.Thread(target=lambda to=directory, found=found: found.append(restore(to)), daemon=True)
        thread.start()
        thread.join(60)
        assert found, f"waits at {file}"
        ((restored, lines),) = found
        assert_is(restored, 20 if step == "10" else 10)
        assert len(lines) == 1 and f"checkpoint {step} in" in lines[0]


def test_every_byte_of_array_data_counts(two_whole, tmp_path):
    """Orbax alone returns other numbers here, silently."""
    largest = max(files_of(two_whole), key=lambda p: p.stat().st_size)
    for at in np.linspace(0, 1, 12):
        directory = Path(shutil.copytree(two_whole, tmp_path / str(at)))
        target = directory / largest.relative_to(two_whole)
        target.write_bytes(flipped(target.read_bytes(), at))
        restored, lines = restore(directory)
        assert_is(restored, 10)
        assert f"({largest.relative_to(two_whole / '20')} is not what was written)" in lines[0]


def test_a_harmed_checkpoint_is_set_aside_and_its_step_saved_again(copy):
    shutil.rmtree(copy / "20" / "state")
    with Checkpoints(copy, report=lambda line: None) as checkpoints:
        assert_is(checkpoints.restore(EXAMPLE), 10)
        assert (copy / "20.not-whole").is_dir()
        checkpoints.save(20, state_at(20), {"phase": "search", "of": [20]})
    restored, lines = restore(copy)
    assert_is(restored, 20)
    assert lines == []


def test_an_unfinished_write_is_reported_and_dropped(copy):
    (copy / "20").rename(copy / "20.orbax-checkpoint-tmp")
    (copy / "20.orbax-checkpoint-tmp" / "digests.json").unlink()
    restored, lines = restore(copy)
    assert_is(restored, 10)
    assert lines == [f"checkpoint 20 in {copy} was never finished; using the one of step 10"]
    assert [p.name for p in copy.iterdir()] == ["10"]


def test_nothing_but_an_unfinished_write_starts_again_and_says_so(tmp_path):
    (tmp_path / "5.orbax-checkpoint-tmp").mkdir()
    restored, lines = restore(tmp_path)
    assert restored is None
    assert lines == [f"checkpoint 5 in {tmp_path} was never finished; starting from the first step"]
    assert restore(tmp_path) == (None, [])


def test_an_empty_directory_has_no_checkpoint(tmp_path):
    assert restore(tmp_path / "new") == (None, [])


def test_a_checkpoint_without_its_step(copy):
    (copy / "20").rename(copy / "30")
    restored, lines = restore(copy)
    assert_is(restored, 10)
    assert "(it was saved as step 20)" in lines[0]
    (copy / "10").rename(copy / "step")
    assert restore(copy) == (None, [])  # no checkpoint by name


def test_none_whole_is_an_error_each_time(copy):
    for step in ("10", "20"):
        (copy / step / "meta" / "metadata").write_text("{")
    for _ in range(2):
        with pytest.raises(CheckpointError, match="none of the 2 checkpoints .* is whole .step 20: meta/metadata") as e:
            restore(copy)
        assert "remove the directory to start again" in str(e.value) and "\n" not in str(e.value)
        assert isinstance(e.value, UserError) and isinstance(e.value, ValueError)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"w": jnp.zeros((40, 31))}, r"state\['w'\] is float32 \[40, 30\] there and float32 \[40, 31\] here"),
        ({"half": jnp.zeros(7)}, r"state\['half'\] is bfloat16 \[7\] there and float32 \[7\] here"),
        ({"more": jnp.zeros(2)}, r"state\['more'\] is absent there and float32 \[2\] here"),
        ({"w": None}, r"state\['w'\] is float32 \[40, 30\] there and absent here"),
    ],
)
def test_another_structure_is_an_error_that_names_the_leaf(change, message, two_whole):
    with Checkpoints(two_whole) as checkpoints, pytest.raises(CheckpointError, match=message):
        checkpoints.restore(EXAMPLE | change)


def test_restores_to_the_shardings_asked_for(two_whole):
    mesh = make_mesh()
    halves = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    example = replicate({k: v for k, v in EXAMPLE.items() if k != "host"}, mesh) | {"host": EXAMPLE["host"]}
    example["w"] = jax.ShapeDtypeStruct((40, 30), jnp.float32, sharding=halves)
    with Checkpoints(two_whole) as checkpoints:
        restored = checkpoints.restore(example)
    assert_is(restored, 20)
    assert restored is not None
    assert restored.state["w"].sharding == halves
    assert len(restored.state["n"].devices()) == mesh.size


def test_donating_the_state_during_the_write_does_no_harm(tmp_path):
    spoil = jax.jit(lambda tree: jax.tree.map(lambda x: x * 0 - 1, tree), donate_argnums=0)
    state = {"w": jnp.arange(2_000_000.0)}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state)
        for _ in range(5):
            state = spoil(state)
        restored = checkpoints.restore(state)
    assert restored is not None
    np.testing.assert_array_equal(restored.state["w"], np.arange(2_000_000.0, dtype=np.float32))


def test_an_optimizer_state_with_its_empty_parts(tmp_path):
    state = toy.init()
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state)
        restored = checkpoints.restore(jax.eval_shape(toy.init))
    assert restored is not None
    assert jax.tree.structure(restored.state) == jax.tree.structure(state)
    assert restored.state.empty.shape == (0, 5)


def test_an_older_step_cannot_follow(copy):
    with Checkpoints(copy) as checkpoints:
        for step in (15, 20):
            with pytest.raises(CheckpointError, match=f"checkpoint {step} cannot follow checkpoint 20 in"):
                checkpoints.save(step, state_at(step))
    assert_is(restore(copy)[0], 20)


def test_what_cannot_be_written_is_one_line(tmp_path, monkeypatch, capfd):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot make the directory of .*/file/checkpoints: .*Not a directory"):
        Checkpoints(tmp_path / "file" / "checkpoints")

    def full(descriptor, data):
        raise OSError(28, "No space left on device")

    checkpoints = Checkpoints(tmp_path / "full")
    with monkeypatch.context() as patch:
        patch.setattr(files, "write_all", full)
        checkpoints.save(1, state_at(1))
        with pytest.raises(CheckpointError, match="cannot write checkpoint 1 in .*No space left on device"):
            checkpoints.wait()
    checkpoints.save(1, state_at(1), {"phase": "search", "of": [1]})
    checkpoints.close()
    assert_is(restore(tmp_path / "full")[0], 1)
    assert "Traceback" not in capfd.readouterr().err


def test_typed_keys_come_back(tmp_path):
    state = {"key": jax.random.key(3), "keys": jax.random.split(jax.random.key(4, impl="rbg"), 2)}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state)
    for example in (state, jax.eval_shape(lambda: state)):
        with Checkpoints(tmp_path) as checkpoints:
            restored = checkpoints.restore(example)
        assert restored is not None
        for name, key in state.items():
            assert restored.state[name].dtype == key.dtype
            assert (jax.random.key_data(restored.state[name]) == jax.random.key_data(key)).all()


@pytest.mark.parametrize("limit", [0, 3_000, 100_000])
def test_a_quota_on_what_orbax_writes_is_one_line_with_the_cause(limit, tmp_path, capfd):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    state = {"w": jnp.asarray(np.random.default_rng(0).normal(size=(500, 500)), jnp.float32)}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state)
        checkpoints.wait()
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
        try:
            with pytest.raises(CheckpointError, match="cannot write checkpoint 2 in .*File too large") as error:
                checkpoints.save(2, state)
                checkpoints.wait()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert len(str(error.value)) < 600 and "\n" not in str(error.value)
        restored = checkpoints.restore(state)
        assert restored is not None  # what was kept before; or what could be written to its end after all
        np.testing.assert_array_equal(restored.state["w"], state["w"])
        checkpoints.save(3, state)  # and there is room again


FULL = """
import resource, sys, tempfile
import jax, numpy as np
from dms_jax.errors import exit_on_user_error
from dms_jax.training.checkpoints import Checkpoints

def main():
    draw = np.random.default_rng(int(sys.argv[1]))
    state = {str(i): draw.normal(size=int(draw.integers(30_000, 200_000))) for i in range(int(draw.integers(2, 12)))}
    with Checkpoints(tempfile.mkdtemp(dir=sys.argv[2])) as checkpoints:
        checkpoints.save(1, state)
        checkpoints.wait()
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(draw.integers(1_000, 150_000)), resource.RLIM_INFINITY))
        checkpoints.save(2, state)

exit_on_user_error(main)()
"""


@pytest.mark.parametrize("seed", range(3))
def test_many_arrays_without_room_are_one_line_too(seed, tmp_path):
    ended = subprocess.run(
        [sys.executable, "-P", "-c", FULL, str(seed), str(tmp_path)], env=environment(), capture_output=True, text=True
    )
    said = ended.stderr.strip().splitlines()
    assert ended.returncode == 2 and len(said) == 1 and "File too large" in said[0], ended.stderr


def test_only_calls_of_a_loop_that_a_failed_write_closed_are_dropped(monkeypatch):
    told = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: told.append(unraisable.exc_value))
    failed_writes.silence()
    failed_writes.silence()
    loop = asyncio.new_event_loop()
    loop.close()

    def report(raising, about):
        try:
            raising()
        except Exception as error:
            above = error.__traceback__ and error.__traceback__.tb_next
            trace = above and above.tb_next
            seen: Any = types.SimpleNamespace(
                exc_type=type(error), exc_value=error, exc_traceback=trace, object=about, err_msg=None
            )
            sys.unraisablehook(seen)

    report(lambda: loop.call_soon_threadsafe(print), None)
    report(lambda: loop.call_soon_threadsafe(print), "something else")
    report(lambda: {}["x"], None)
    assert [type(error) for error in told] == [RuntimeError, KeyError]


def test_what_a_checkpoint_does_not_hold(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(TypeError, match=r"state\['k'\] is a float"):
            checkpoints.save(1, {"k": 1.0})
        with pytest.raises(TypeError, match="not JSON serializable"):
            checkpoints.save(1, state_at(1), {"x": jnp.ones(1)})
        with pytest.raises(TypeError, match="a state without a single number"):
            checkpoints.save(1, {"k": jnp.zeros((0, 3))})
    with pytest.raises(ValueError, match="keep=1: at least 2"):
        Checkpoints(tmp_path, keep=1)


def test_the_default_report_is_one_line_on_stderr(copy, capfd):
    data = json.loads((copy / "20" / "digests.json").read_text())
    (copy / "20" / "digests.json").write_text(json.dumps(data | {"meta/metadata": "[red]0"}))
    with Checkpoints(copy) as checkpoints:
        checkpoints.restore(EXAMPLE)
    assert capfd.readouterr().err.splitlines() == [
        f"warning: checkpoint 20 in {copy} is not whole (meta/metadata is not what was written); "
        "using the one of step 10"
    ]
