"""What the documents on reliability and security promise of run directories, each with drawn cases."""

import contextlib
import io
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from dms_jax.errors import UserError
from dms_jax.training.histories import Recorded, difference
from dms_jax.training.runs import Run
from tests.faults import job
from tests.faults.directories import MOMENTS, final, finish, records, templates, unbroken

LAST = len(MOMENTS) - 1
STOPPED = 3  # in the search, after some steps


@pytest.fixture
def copy(tmp_path):
    def of(number, seed=0):
        return Path(shutil.copytree(templates() / f"run-{seed}-{number}", tmp_path / f"run-{seed}-{number}"))

    return of


def said(directory):
    """Run the job to its end, unbroken as it would have been: what it said on stderr."""
    told = io.StringIO()
    with contextlib.redirect_stderr(told):
        job.go(directory)
    same_weights(directory)
    return told.getvalue()


def same_weights(directory):
    for a, b in zip(jax.tree.leaves(final(directory)), jax.tree.leaves(unbroken()[0]), strict=True):
        assert a.tobytes() == b.tobytes()


def steps(directory, phase):
    return sorted((p for p in (directory / "checkpoints" / phase).iterdir()), key=lambda p: int(p.name))


# --- checkpoints say whose they are ---


@pytest.mark.parametrize("phase", ["pretrain", "search"])
def test_a_step_of_another_seed_is_named_and_not_used(copy, phase):
    directory, stranger = copy(STOPPED), copy(STOPPED, seed=1)
    newest = steps(stranger, phase)[-1]
    there = directory / "checkpoints" / phase / newest.name
    shutil.rmtree(there)
    shutil.copytree(newest, there)
    with pytest.raises(UserError, match="it is another job's"):
        job.go(directory)


def test_the_checkpoint_before_a_stranger_is_used(tmp_path):
    with pytest.raises(Exception, match="stopped"):
        job.go(tmp_path / "run", stop=("search", 5), save=0.0)
    with pytest.raises(Exception, match="stopped"):
        job.go(tmp_path / "other", seed=1, stop=("search", 5), save=0.0)
    before, newest = steps(tmp_path / "run", "search")[-2:]
    stranger = steps(tmp_path / "other", "search")[-1]
    assert stranger.name == newest.name
    shutil.rmtree(newest)
    shutil.copytree(stranger, newest)
    told = said(tmp_path / "run")
    assert f"checkpoint {newest.name} in" in told and "it is another job's" in told
    assert f"using the one of step {before.name}" in told


@pytest.mark.parametrize("others", ["pretrain", "search", "final"])
@pytest.mark.parametrize("phase", ["pretrain", "search"])
def test_another_phase_laid_in_is_not_used(copy, phase, others):
    directory = copy(LAST)
    if others == phase:
        pytest.skip("is its own")
    shutil.rmtree(directory / "checkpoints" / phase)
    shutil.copytree(directory / "checkpoints" / others, directory / "checkpoints" / phase)
    (directory / "results.json").unlink()
    with pytest.raises(UserError, match=f"it is of phase '{others}'"):
        job.go(directory)


# --- a configuration that is lost ---


@pytest.mark.parametrize("damage", [None, b"", b"{", b"\xff", b"[]", b'{"a": NaN}', b"\x00" * 50, "cut"])
@pytest.mark.parametrize("moment", [0, 2, 3, LAST])
def test_a_lost_configuration_is_built_again_from_a_checkpoint(copy, moment, damage):
    directory = copy(moment)
    path = directory / "config.json"
    whole = path.read_bytes()
    path.unlink() if damage is None else path.write_bytes(whole[:-9] if damage == "cut" else damage)
    with pytest.raises(UserError, match="holds another job .*seed 0 there, 1 asked"):
        Run(directory, job.config(1))
    assert "it is built again from" in said(directory)
    assert path.read_bytes() == whole


# --- history ---


@pytest.mark.parametrize("seed", range(12))
def test_records_that_are_lost_are_told(copy, seed):
    draw, directory = np.random.default_rng(seed), copy((3, LAST)[seed % 2])
    (directory / "results.json").unlink(missing_ok=True)
    path = directory / ("metrics.jsonl", "masks.jsonl")[seed % 3 == 0]
    lines = path.read_bytes().splitlines(keepends=True)
    number = int(draw.integers(len(lines) - 1))
    kinds = {0: b"\xff\xfe" + lines[number], 1: b"nonsense\n", 2: b"", 3: lines[number][:-5] + b"\n"}
    kind = seed % 4
    lines[number] = kinds[kind]
    path.write_bytes(b"".join(lines))
    told = said(directory)
    if kind == 2:
        assert f"{path} lacks 1 of the " in told and "up to step" in told
    else:
        assert f"1 line of {path} cannot be read (line {number + 1}, " in told
        assert ("after step" in told or "from the first step on" in told) and "Traceback" not in told


@pytest.mark.parametrize("phase", ["pretrain", "search"])
def test_checkpoints_of_a_phase_that_are_gone_are_told(copy, phase):
    directory = copy(LAST)
    (directory / "results.json").unlink()
    shutil.rmtree(directory / "checkpoints" / phase)
    count = sum(json.loads(line)["phase"] == phase for line in records(directory)["metrics.jsonl"])
    told = said(directory)
    assert f"no checkpoint of {phase} in {directory} was saved or is left: it starts again from step 0" in told
    assert f"its {count} records, up to step {job.PHASES[phase]}, are dropped and made again" in told
    assert records(directory) == unbroken()[1]


def _other_number(lines, number, strangers):
    record = json.loads(lines[number])
    record |= {"masks": {"g": "010203"}} if "masks" in record else {"loss": 0.123}
    lines[number] = json.dumps(record).encode() + b"\n"


def _swapped(lines, number, strangers):
    lines[number], lines[number - 1] = lines[number - 1], lines[number]


def _twice(lines, number, strangers):
    lines.insert(number, lines[number])


def _strangers(lines, number, strangers):
    lines[:] = strangers


def _a_space_more(lines, number, strangers):
    lines[number] = lines[number].replace(b"}\n", b" }\n")


@pytest.mark.parametrize("change", [_other_number, _swapped, _twice, _strangers, _a_space_more])
@pytest.mark.parametrize("file", ["metrics.jsonl", "masks.jsonl"])
@pytest.mark.parametrize("moment", [STOPPED, LAST])
def test_records_that_are_others_are_told_with_the_step(copy, change, file, moment):
    directory, stranger = copy(moment), copy(moment, seed=1)
    lines = (directory / file).read_bytes().splitlines(keepends=True)
    number = len(lines) - 1
    known = [json.loads(line) for line in lines]
    change(lines, number, (stranger / file).read_bytes().splitlines(keepends=True))
    (directory / file).write_bytes(b"".join(lines))
    told = said(directory)
    assert told.count(file) == (2 if change is _strangers and file == "metrics.jsonl" else 1)  # of pretrain as well
    same = {_swapped: number - 1, _twice: number + 1, _strangers: 0}.get(change, number)
    last = [r["step"] for r in known[:same] if r["phase"] == "search"]
    since = f"after step {last[-1]}" if last else "from the first one on"
    assert f"{directory / file} does not hold the records of search up to step" in told
    assert f"it differs {since}; the weights are not affected" in told
    assert ({"metrics.jsonl", "masks.jsonl"} - {file}).pop() not in told


@pytest.mark.parametrize("count", [1, 2, 63, 64, 65, 66, 200, 1000, 4097])
def test_a_difference_is_found_within_a_thirty_second_of_a_phase(count):
    draw = np.random.default_rng(count)
    lines = [(3 * i, draw.bytes(9)) for i in range(1, count + 1)]
    saved = json.loads(json.dumps(Recorded.of(lines).saved()))
    assert difference(saved, lines) is None and len(saved["marks"]) <= 65
    for at in draw.integers(count, size=9):
        others = [(step, line + b"x" * int(i == at)) for i, (step, line) in enumerate(lines)]
        for changed in (others, lines[:at] + lines[at + 1 :], lines[:at]):
            found = difference(saved, changed)
            assert found is not None and found <= 3 * at and found // 3 >= at - max(count / 32, 1)
    assert difference(saved, [*lines, (3 * count, b"more")]) == 3 * count


@pytest.mark.parametrize("moment", [STOPPED, LAST])
def test_records_of_a_phase_that_no_job_has_are_told(copy, moment):
    directory = copy(moment)
    with (directory / "metrics.jsonl").open("a") as end:
        end.write('{"phase": "another", "step": 1}\n')
    said(directory)
    assert "holds records of phase 'another', which this job does not have" in said(directory)


# --- finished ---


@pytest.mark.parametrize("seed", range(10))
def test_a_damaged_result_is_made_again(copy, seed):
    draw, directory = np.random.default_rng(seed), copy(LAST)
    inside = [p for p in (directory / "checkpoints" / "final").rglob("*") if p.is_file() and p.stat().st_size > 40]
    file = [directory / "structure.json", directory / "results.json", *inside][seed % (len(inside) + 2)]
    data = bytearray(file.read_bytes())
    if seed % 2:
        del data[int(draw.integers(1, len(data) - 3)) :]
    else:
        data[int(draw.integers(len(data) // 2))] ^= 0x81
    file.write_bytes(data)
    told = said(directory)
    if file.name not in ("_CHECKPOINT_METADATA", "commit_success.txt"):  # which hold nothing that is restored
        assert "what is missing is made again" in told
    assert job.go(directory)["params"] is None  # and now it is finished


@pytest.mark.parametrize("content", ['{"reed": 0, "steps": 14}', '{"seed": 1, "steps": 14}', '{"steps": 14}', "{}"])
def test_results_that_are_others_are_made_again(copy, content):
    directory = copy(LAST)
    path = directory / "results.json"
    whole = path.read_bytes()
    path.write_text(content)
    assert "they were saved with another results.json" in said(directory)
    assert path.read_bytes() == whole and job.go(directory)["params"] is None


# --- links ---


@pytest.mark.parametrize(
    "name",
    ["lock", "checkpoints", "tensorboard", "metrics.jsonl", "masks.jsonl", "checkpoints/search", "checkpoints/final"],
)
@pytest.mark.parametrize("moment", [None, 3, LAST])
def test_links_are_not_written_through(copy, tmp_path, name, moment):
    victim = tmp_path / "victim"
    (victim.mkdir if name not in ("lock", "metrics.jsonl", "masks.jsonl") else victim.touch)()
    if moment is None:
        directory = tmp_path / "run"
        (directory / name).parent.mkdir(parents=True)
    else:
        directory = copy(moment)
        path = directory / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    (directory / name).symlink_to(victim)
    with pytest.raises(UserError, match="is a symbolic link, which is not followed"):
        job.go(directory)
    assert victim.stat().st_size == 0 or not list(victim.iterdir())


@pytest.mark.parametrize("name", ["config.json", "seconds.json", "structure.json", "results.json"])
def test_a_link_at_the_place_of_a_file_that_is_replaced_is_replaced(copy, tmp_path, name):
    directory, victim = copy(2), tmp_path / "victim"
    path = directory / name
    victim.write_bytes(path.read_bytes() if path.exists() else b"{}")
    before = victim.read_bytes()
    path.unlink(missing_ok=True)
    path.symlink_to(victim)
    for part in ("config.json.part", "results.json.part", "structure.part"):  # names that could be guessed
        (directory / part).symlink_to(victim)
    with contextlib.redirect_stderr(io.StringIO()):
        finish(directory)
    assert victim.read_bytes() == before
