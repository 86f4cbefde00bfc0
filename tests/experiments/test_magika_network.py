"""Magika in plain JAX: what it computes, what it sees of a file, and wheels that do not hold it."""

import subprocess
import sys
import types

import hypothesis
import jax
import numpy as np
import pytest
from hypothesis import strategies as st

from dms_jax import SearchSpace
from dms_jax.errors import UserError
from experiments import magika_network
from experiments.magika_network import Preprocessing, network
from tests.experiments import magika_cases as cases
from tests.helpers import FLOAT32_LOGITS


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return magika_network.load(cases.wheel(tmp_path_factory.mktemp("wheel") / "a.whl"))


def gelu(x):
    return x * (0.5 * (1 + np.tanh(0.7978846 * (x + 0.044715 * x**3))))


def normalized(x, axis):
    return (x - x.mean(axis, keepdims=True)) / np.sqrt(x.var(axis, keepdims=True) + 1e-6)


def by_the_graph(stored, tokens):
    """Logits in float64, node by node as the ONNX file has them: one-hot vectors, channels first."""
    a = {name: array.astype(np.float64) for name, array in stored.items()}
    x = gelu(np.eye(257)[tokens] @ a["embed", "kernel"] + a["embed", "bias"])
    x = x.reshape(len(tokens), cases.POSITIONS, 4 * cases.WIDTH)
    x = normalized(x, 1) * a["norm_positions", "scale"] + a["norm_positions", "bias"]
    x, kernel = x.transpose(0, 2, 1), a["conv", "kernel"][..., 0]
    windows = np.lib.stride_tricks.sliding_window_view(x, cases.TAPS, axis=2)
    x = gelu(np.einsum("bipk,oik->bop", windows, kernel) + a["conv", "bias"]).max(axis=2)
    x = normalized(x, 1) * a["norm", "scale"] + a["norm", "bias"]
    return x @ a["out", "kernel"] + a["out", "bias"]


def test_it_computes_what_the_graph_says(original):
    tokens = np.random.default_rng(1).integers(0, 257, (3, 32))
    np.testing.assert_allclose(
        jax.jit(network)(original.params, tokens), by_the_graph(cases.arrays(), tokens), atol=FLOAT32_LOGITS
    )


def test_both_widths_are_searched_as_it_is(original):
    space = SearchSpace.from_function(network, original.params, np.zeros((1, 32), np.int32))
    assert sorted(group.size for group in space.groups.values()) == [cases.WIDTH, cases.FEATURES]
    assert space.resources()["macs"] == 4 * 5 * 4 * cases.WIDTH * cases.FEATURES + cases.FEATURES * len(cases.TYPES)
    assert space.resources()["params"] == sum(np.size(leaf) for leaf in jax.tree.leaves(original.params))
    few = space.structure({name: range(1, group.size, 2) for name, group in space.groups.items()})
    assert space.verify(original.params, few, np.random.default_rng(2).integers(0, 257, (4, 32))) < FLOAT32_LOGITS


BLANKS = st.text(" \t\n\r\x0b\x0c", max_size=5).map(str.encode)


@hypothesis.given(BLANKS, st.binary(max_size=60), BLANKS)
def test_a_file_is_seen_from_both_ends_without_its_blanks(before, middle, after):
    seen = Preprocessing(begin=16, end=12, block=40, padding=256, least=8)
    content = before + middle + after
    first, last = content[:40], content[max(len(content) - 40, 0) :]
    tokens = seen.tokens(first, last)
    head = list(first.lstrip())[:16]
    tail = list(last.rstrip())[-12:]
    if len(head) < 8:
        assert tokens is None
        return
    assert tokens is not None and tokens.dtype == np.int16
    assert tokens.tolist() == head + [256] * (16 - len(head)) + [256] * (12 - len(tail)) + tail


def test_types_by_extension(original):
    assert original.types == cases.TYPES
    assert original.extensions == {
        "c": "c",
        "html": "html",
        "htm": "html",
        "json": "json",
        "py": "python",
        "txt": "txt",
    }
    assert original.preprocessing == Preprocessing(16, 16, 64, 256, 8)
    assert magika_network.extensions_of({"a": ["m", "x"], "b": ["m"]}) == {"x": "a"}


def without(name):
    return cases.model({key: array for key, array in cases.arrays().items() if key != name})


def reshaped(name, shape):
    return cases.model(cases.arrays() | {name: np.zeros(shape, np.float32)})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (lambda: without(("conv", "bias")), "the ONNX file is not Magika's .'const_fold_opt__209'"),
        (lambda: b"nothing", "the ONNX file is not Magika's"),
        (lambda: reshaped(("conv", "kernel"), (12, 20, 5, 1)), r"conv/kernel of the ONNX file is \(5, 20, 12\), not"),
        (lambda: reshaped(("conv", "kernel"), (12, 20)), "the ONNX file is not Magika's|of the ONNX file is"),
        (lambda: reshaped(("out", "kernel"), (12, 4)), r"out/kernel of the ONNX file is \(12, 4\), not \(12, 5\)"),
    ],
)
def test_an_onnx_file_of_something_else_is_one_line(content, said, tmp_path):
    with pytest.raises(UserError, match=said) as error:
        magika_network.load(cases.wheel(tmp_path / "a.whl", content()))
    assert "\n" not in str(error.value)


def test_a_wheel_of_something_else_is_one_line(tmp_path, monkeypatch):
    other = tmp_path / "b.whl"
    other.write_bytes(b"PK")
    for config in ({"beg_size": 3}, cases.CONFIG | {"mid_size": 8}, cases.CONFIG | {"padding_token": 255}):
        with pytest.raises(UserError, match="config.min.json"):
            magika_network.load(cases.wheel(tmp_path / "a.whl", config=config))
    with pytest.raises(UserError, match="b.whl holds no Magika"):
        magika_network.load(other)
    with pytest.raises(UserError, match="b.whl is another file than the wheel magika==1.0.3 for manylinux_2_28_x86_64"):
        magika_network.WHEEL.path(other)
    with pytest.raises(UserError, match="cannot be read"):
        magika_network.WHEEL.path(tmp_path / "missing.whl")


def test_without_onnx_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UserError, match=r"with onnx, which is missing: install dms_jax\[magika\]"):
        magika_network.load(cases.wheel(tmp_path / "a.whl", b""))


def test_the_wheel_is_brought_once(tmp_path, monkeypatch):
    made = cases.wheel(tmp_path / "made.whl")
    calls = []

    def pip(command, **options):
        calls.append(command)
        to = command[command.index("--dest") + 1]
        if len(calls) == 1:
            return types.SimpleNamespace(returncode=1, stdout="", stderr="ERROR: no network\n")
        with open(f"{to}/a.whl", "wb") as file:
            file.write(made.read_bytes())
        return types.SimpleNamespace(returncode=0, stdout="", stderr="")

    monkeypatch.setattr(subprocess, "run", pip)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    cases.known(monkeypatch, made)
    with pytest.raises(UserError, match="pip cannot download magika==1.0.3: ERROR: no network; .*give --wheel PATH$"):
        magika_network.WHEEL.path()
    kept = magika_network.WHEEL.path()
    assert kept == magika_network.WHEEL.path() and kept.read_bytes() == made.read_bytes() and len(calls) == 2
    kept.write_bytes(b"damaged")
    assert magika_network.WHEEL.path().read_bytes() == made.read_bytes() and len(calls) == 3
    assert [path.name for path in kept.parent.iterdir()] == [kept.name]  # no parts
    assert magika_network.WHEEL.path(made) == made
