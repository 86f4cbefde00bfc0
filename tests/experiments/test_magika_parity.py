"""Magika itself, by ONNX Runtime, beside its network in plain JAX. Skipped where either cannot be had."""

import importlib
import warnings
import zipfile
from collections import Counter
from pathlib import Path

import jax
import numpy as np
import pytest

from dms_jax.errors import UserError
from experiments import magika_files, magika_network
from tests.helpers import FLOAT32_LOGITS

with warnings.catch_warnings(action="ignore"):  # theirs
    onnx = pytest.importorskip("onnx", exc_type=ImportError)
    runtime = pytest.importorskip("onnxruntime", exc_type=ImportError)

LAYER = "jax2tf_get_logits_/pjit_get_logits_/MagikaV2"


@pytest.fixture(scope="module")
def wheel():
    try:
        return magika_network.WHEEL.path()
    except UserError as error:
        pytest.skip(f"the wheel cannot be had: {error}")


@pytest.fixture(scope="module")
def tokens(wheel):
    """Of modules of the standard library, of pictures of bytes, and of bytes that are no file."""
    seen = magika_network.load(wheel).preprocessing
    library = sorted(Path(importlib.__file__).parents[1].glob("*.py"))[:24]
    found = [magika_files.read_tokens(str(path), seen, Counter()) for path in library]
    draw = np.random.default_rng(0)
    noise = draw.integers(0, 257, (8, seen.begin + seen.end))
    return np.stack([*(one for one in found if one is not None), *noise]).astype(np.int32)


def theirs(model, tokens):
    """Logits and probabilities."""
    model.graph.output.append(onnx.helper.make_tensor_value_info(f"{LAYER}/Dense_1/AddV2:0", 1, None))
    session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    probabilities, logits = session.run(None, {"bytes": tokens})
    return logits, probabilities


@pytest.fixture(scope="module")
def model(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return onnx.load_model_from_string(archive.read("magika/models/standard_v3_3/model.onnx"))


def with_exact_sums(model):
    """The same graph, the mean and the variance over positions computed in float64."""
    norm, changed = f"{LAYER}/LayerNorm_0", onnx.ModelProto()
    changed.CopyFrom(model)
    graph = changed.graph
    wide = {
        f"{norm}/{name}" for name in ("Sum", "Square", "Sum_1", "truediv", "truediv_1", "Square_1", "Sub", "Maximum")
    }
    inside = {output for node in graph.node if node.name in wide for output in node.output}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    nodes, cast = [], {}
    for node in graph.node:
        node = onnx.NodeProto.FromString(node.SerializeToString())
        for i, name in enumerate(node.input):
            if node.name in wide and name not in inside and not name.startswith("const_"):
                if name not in cast:
                    cast[name] = f"{name}/wide"
                    if name in constants:
                        array = onnx.numpy_helper.to_array(constants[name]).astype(np.float64)
                        graph.initializer.append(onnx.numpy_helper.from_array(array, cast[name]))
                    else:
                        nodes.append(onnx.helper.make_node("Cast", [name], [cast[name]], to=onnx.TensorProto.DOUBLE))
                node.input[i] = cast[name]
            elif node.name not in wide and name in inside:
                nodes.append(onnx.helper.make_node("Cast", [name], [f"{name}/narrow"], to=onnx.TensorProto.FLOAT))
                node.input[i] = f"{name}/narrow"
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    return changed


def test_the_network_is_theirs(wheel, model, tokens):
    """They subtract the square of a mean from a mean of squares, in float32: with these sums exact, all agrees."""
    ours = np.asarray(jax.jit(magika_network.network)(magika_network.load(wheel).params, tokens))
    logits, probabilities = theirs(with_exact_sums(model), tokens)
    np.testing.assert_allclose(ours, logits, rtol=0, atol=FLOAT32_LOGITS)
    np.testing.assert_allclose(jax.nn.softmax(ours), probabilities, rtol=0, atol=FLOAT32_LOGITS)
    rounded, probabilities = theirs(model, tokens)
    np.testing.assert_allclose(ours, rounded, rtol=0, atol=5e-2)
    np.testing.assert_allclose(jax.nn.softmax(ours), probabilities, rtol=0, atol=5e-3)
    clear = np.sort(probabilities)[:, -1] - np.sort(probabilities)[:, -2] > 1e-2
    np.testing.assert_array_equal(ours.argmax(1)[clear], rounded.argmax(1)[clear])
    assert clear.sum() > 20


def test_every_number_of_the_file_is_read(wheel, model):
    """But shapes, indices and constants of the operations."""
    read = sum(np.size(leaf) for leaf in jax.tree.leaves(magika_network.load(wheel).params))
    stored = [onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer]
    assert sum(array.size for array in stored) == 784_519
    assert read == sum(array.size for array in stored if array.dtype == np.float32 and array.size > 1)
