import builtins
import json
import sys
from typing import Any

import numpy as np
import pytest

from dms_jax.errors import UserError
from dms_jax.training.metrics import FILE, MetricsWriter, read


def write_steps(writer, phase, steps):
    for step in steps:
        writer.write(phase, step, {"loss": 1 / (step + 3), "macs": np.float32(step)})


def test_reads_what_was_written(tmp_path):
    with MetricsWriter(tmp_path / "run", tensorboard=False) as writer:
        writer.write("search", 1, {"loss": 0.1, "bad": float("nan"), "worse": float("-inf"), "half": np.float16(0.5)})
        write_steps(writer, "finetune", [2])
    assert read(tmp_path / "run") == [
        {"phase": "search", "step": 1, "loss": 0.1, "bad": None, "worse": None, "half": 0.5},
        {"phase": "finetune", "step": 2, "loss": 0.2, "macs": 2.0},
    ]


@pytest.mark.parametrize("name", ["phase", "step"])
def test_a_metric_called_as_what_every_record_has_is_refused(tmp_path, name):
    with MetricsWriter(tmp_path / "run", tensorboard=False) as writer:
        with pytest.raises(UserError, match=f"a metric is called '{name}', which every record has"):
            writer.write("search", 1, {"loss": 0.5, name: 3.0})
        write_steps(writer, "search", [1])
    assert [record["step"] for record in read(tmp_path / "run")] == [1]


def test_resumed_file_is_that_of_a_run_never_stopped(tmp_path):
    def run(directory, resume_at, parts):
        with MetricsWriter(directory, resume_at=resume_at, tensorboard=False) as writer:
            for phase, steps in parts:
                write_steps(writer, phase, steps)
            return writer.position

    run(tmp_path / "once", 0, [("a", range(3)), ("eval", [3]), ("a", range(3, 6)), ("b", range(2))])
    position = run(tmp_path / "twice", 0, [("a", range(3)), ("eval", [3])])
    run(tmp_path / "twice", position, [("a", range(3, 5)), ("eval", [9]), ("b", [0])])  # after the checkpoint: goes
    run(tmp_path / "twice", position, [("a", range(3, 6)), ("b", range(2))])
    assert (tmp_path / "twice" / FILE).read_bytes() == (tmp_path / "once" / FILE).read_bytes()


@pytest.mark.parametrize("resume_at", [None, 10_000])
def test_torn_last_line_goes(resume_at, tmp_path):
    with MetricsWriter(tmp_path, tensorboard=False) as writer:
        write_steps(writer, "a", range(3))
    whole = (tmp_path / FILE).read_bytes()
    (tmp_path / FILE).write_bytes(whole + b'{"phase": "a", "st')
    assert [r["step"] for r in read(tmp_path)] == [0, 1, 2]
    MetricsWriter(tmp_path, resume_at=resume_at, tensorboard=False).close()
    assert (tmp_path / FILE).read_bytes() == whole


def test_lost_file_begins_anew(tmp_path):
    with MetricsWriter(tmp_path, resume_at=500, tensorboard=False) as writer:
        write_steps(writer, "a", [7])
    assert [r["step"] for r in read(tmp_path)] == [7]


def test_bad_files_are_one_line(tmp_path):
    with pytest.raises(UserError, match="cannot read .*: No such file"):
        read(tmp_path)
    (tmp_path / FILE).write_text('{"step": 1}\nnonsense\n{"step": 2}\n')
    with pytest.raises(UserError, match="line 2 is not JSON: b'nonsense'"):
        read(tmp_path)
    with pytest.raises(UserError, match="cannot write metrics.jsonl in .*: Not a directory"):
        MetricsWriter(tmp_path / FILE / "below")


def test_tensorboard_scalars_and_purge(tmp_path):
    """On a resume, TensorBoard is told to hide later steps of that phase, and of no other."""
    pytest.importorskip("tensorboardX")
    from tensorboardX.proto import event_pb2

    messages: Any = event_pb2  # built at import: no type checker sees its names

    def events(phase):
        for file in sorted((tmp_path / "tensorboard" / phase).iterdir()):
            data = file.read_bytes()
            while data:
                length = int.from_bytes(data[:8], "little")
                yield messages.Event.FromString(data[12 : 12 + length])
                data = data[12 + length + 4 :]

    with MetricsWriter(tmp_path, resume_at=0) as writer:
        write_steps(writer, "a", [1, 2])
    with MetricsWriter(tmp_path) as writer:
        write_steps(writer, "a", [2, 3])
        write_steps(writer, "b", [1])
    scalars = [(e.step, v.tag) for e in events("a") for v in e.summary.value]
    assert sorted(scalars) == sorted((s, f"a/{n}") for s in (1, 2, 2, 3) for n in ("loss", "macs"))
    assert [e.step for e in events("a") if e.session_log.status == messages.SessionLog.START] == [2]
    assert [e.step for e in events("b") if e.session_log.status == messages.SessionLog.START] == []


def test_without_tensorboard_one_line_names_the_extra(tmp_path, monkeypatch, capfd):
    real = builtins.__import__

    def without(name, *rest):
        if name == "tensorboardX":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.delitem(sys.modules, "tensorboardX", raising=False)
    monkeypatch.setattr(builtins, "__import__", without)
    with MetricsWriter(tmp_path) as writer:
        write_steps(writer, "a", [1, 2])
    line = capfd.readouterr().err
    assert line.count("\n") == 1 and "extra `report`" in line
    assert len(read(tmp_path)) == 2
    assert not (tmp_path / "tensorboard").exists()


def test_every_line_is_json(tmp_path):
    with MetricsWriter(tmp_path, tensorboard=False) as writer:
        writer.write("a", 1, {"x": float("inf")})
    json.loads((tmp_path / FILE).read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
