"""What is kept of measured latencies: tables, whose they are, and what a second search sees."""

# pyright: reportArgumentType=false, reportOptionalSubscript=false, reportAttributeAccessIssue=false

import json
import os

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dms_jax import UserError
from dms_jax.budgets import table, timing
from dms_jax.budgets.latency import Latency
from tests.fake_device import Device, installed
from tests.measured import perceptron, residual

FLAGS = st.lists(
    st.sampled_from([f"--xla_{c}{sep}{'x' * n}={v}" for c in "ab" for sep in "_-" for n in (3, 150) for v in (0, 1)]),
    max_size=6,
)


def test_a_second_search_measures_nothing(device, folder):
    perceptron().with_resources(Latency())
    many = len(device.pieces), len(device.wholes)
    cost = perceptron().with_resources(Latency()).costs["latency"]
    assert many == (len(device.pieces), len(device.wholes)) and cost.full > 0
    assert many[0] > 5 and len(list((folder / "dms_jax" / "latency").glob("*.json"))) == 1


def test_a_second_search_sees_what_the_first_one_saw_though_its_time_was_over(monkeypatch):
    device, clock = Device(), iter(range(10**6))

    def slow(piece, shapes):
        for _ in range(10):
            next(clock)
        return device.repeated(piece, shapes)

    monkeypatch.setattr(timing, "calls", device.calls)
    monkeypatch.setattr(timing, "repeated", slow)
    monkeypatch.setattr(timing, "now", lambda: float(next(clock)))
    costs = [residual().with_resources(Latency(seconds=seconds)).costs["latency"] for seconds in (100, 100, 900)]
    weights = [cost.predicted.weights for cost in costs]
    assert np.array_equal(weights[0], weights[1]) and costs[0].note == costs[1].note
    assert "no time was left" in costs[0].note and costs[2].note != costs[0].note  # who gives more time gets more


def test_another_batch_or_dtype_is_another_table(device, folder):
    full = [
        perceptron().with_resources(Latency(batch, dtype)).costs["latency"].full
        for batch, dtype in ((None, None), (16, None), (None, "bfloat16"))
    ]
    assert full[1] > 2 * full[0] and len(list((folder / "dms_jax" / "latency").glob("*.json"))) == 3
    assert all(x.dtype == jnp.bfloat16 for piece in device.wholes[-2:] for x in piece.inputs)
    eqns = [operation.eqn for operation in device.wholes[-1].operations]
    assert {v.aval.dtype for e in eqns if e.primitive.name == "dot_general" for v in e.outvars} == {
        jnp.dtype("bfloat16")
    }


def test_what_was_measured_before_an_interruption_stays(monkeypatch, folder):
    device = Device()

    def stopped(piece, shapes):
        if len(device.pieces) == 5:
            raise KeyboardInterrupt
        return device.repeated(piece, shapes)

    monkeypatch.setattr(timing, "calls", device.calls)
    monkeypatch.setattr(timing, "repeated", stopped)
    with pytest.raises(KeyboardInterrupt):
        perceptron().with_resources(Latency())
    again = installed(Device(), monkeypatch)
    perceptron().with_resources(Latency())
    before, after = ({piece.key for piece in each.pieces} for each in (device, again))
    assert len(before) == 5 and after and not before & after


def written(folder):
    (path,) = (folder / "dms_jax" / "latency").glob("*.json")
    return path


def test_a_table_of_another_device_is_refused(device, folder):
    perceptron().with_resources(Latency())
    path = written(folder)
    content = json.loads(path.read_text())
    content["of"]["device"] = "TPU v9"
    path.write_text(json.dumps(content))
    with pytest.raises(
        UserError, match="has times of device 'TPU v9', and here it is .*; remove it, and it is measured"
    ):
        perceptron().with_resources(Latency())


@pytest.mark.parametrize("content", ["", "[]", '{"format": "dms_jax.latency"}', '{"of": {}, "times": {"a": ["x"]}}'])
def test_what_is_no_table_is_refused(device, folder, content):
    perceptron().with_resources(Latency())
    written(folder).write_text(content)
    with pytest.raises(UserError, match="; remove it, and it is measured anew"):
        perceptron().with_resources(Latency())


def test_a_folder_that_cannot_be_written_keeps_nothing(device, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    space = perceptron().with_resources(Latency())
    assert space.measured()["latency"] == space.resources()["latency"] and table.folder().parent.parent.is_file()


@pytest.mark.parametrize("given", ["", "cache", "../cache"])
def test_a_cache_that_is_no_absolute_path_is_none(given, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", given)
    monkeypatch.setenv("HOME", "/home/of/one")
    assert str(table.folder()) == "/home/of/one/.cache/dms_jax/latency"


def test_a_folder_that_cannot_be_read_keeps_nothing(device, monkeypatch, folder):
    stat = os.stat

    def refused(path, *args, **kwargs):
        if str(path).startswith(str(folder)):  # permissions do not stop root
            raise PermissionError(13, "Permission denied", str(path))
        return stat(path, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", refused)
        found = table.Table.of_device(None, None)
    assert found.times == {} and found.path is not None


@given(first=FLAGS, second=FLAGS, dtype=st.sampled_from([None, "bfloat16"]), batch=st.sampled_from([None, 1, 16]))
def test_other_flags_are_another_table_however_long_they_are(first, second, dtype, batch):
    tables = []
    with pytest.MonkeyPatch.context() as patch:
        for flags in (first, second):
            patch.setenv("XLA_FLAGS", " ".join(flags))
            tables.append(table.Table.of_device(dtype, batch))
    one, other = tables
    assert (one.of == other.of) == (one.path == other.path) == (sorted(first) == sorted(second))
    for each in tables:
        each.time("a", lambda: (1.0, 0.0))
        each.save()
        assert table.Table(each.path, each.of).times == {"a": (1.0, 0.0)}
        each.path.unlink()
