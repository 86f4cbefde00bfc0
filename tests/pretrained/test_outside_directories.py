"""Hugging Face directories from outside: whatever is changed in one, a network comes back or one line, and soon."""

import json
import os
import shutil
import time
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import jax
import numpy as np
import pytest

from dms_jax import models
from dms_jax.errors import UserError
from dms_jax.pretrained import directory, images, llama
from dms_jax.pretrained.llama_configuration import from_config
from tests.lies import lies

CONFIG = {
    "model_type": "qwen3",
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "hidden_act": "silu",
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {
        "rope_type": "llama3",
        "rope_theta": 10000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    },
    "attention_bias": False,
    "tie_word_embeddings": False,
    "use_sliding_window": True,
    "sliding_window": 8,
    "layer_types": ["sliding_attention", "full_attention"],
    "per_layer_config": {"1": {"intermediate_size": 12, "num_attention_heads": 2, "num_key_value_heads": 1}},
}


@hypothesis.settings(max_examples=400)
@hypothesis.given(lies(CONFIG), st.sampled_from(["llama", "mistral", "qwen2", "qwen3"]))
def test_any_configuration_is_a_network_or_one_line(lie, kind):
    if lie.get("model_type") == "qwen3":
        lie["model_type"] = kind
    began = time.monotonic()
    try:
        model = from_config(lie)
    except UserError as error:
        assert "\n" not in str(error) and len(str(error)) < 600
    else:
        for name in ("vocabulary", "width", "layers", "heads", "hidden", "head_dim", "kv_heads", "max_positions"):
            value = getattr(model, name)
            assert type(value) is int and value > 0, name
        assert model.kv_heads and model.heads % model.kv_heads == 0 and model.head_dim and model.head_dim % 2 == 0
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("layers", [100_000, 10**12, True, "2", 2.0, -1, 0])
def test_layers_that_no_network_has(layers):
    with pytest.raises(UserError, match="num_hidden_layers is"):
        from_config(CONFIG | {"num_hidden_layers": layers, "layer_types": None})


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A small network, its weights in two shards."""
    safetensors = pytest.importorskip("safetensors.numpy")
    path = tmp_path_factory.mktemp("whole")
    plain = {name: value for name, value in CONFIG.items() if name not in ("per_layer_config", "layer_types")}
    (path / "config.json").write_text(json.dumps(plain | {"use_sliding_window": False}))
    model = from_config(json.loads((path / "config.json").read_text()))
    shapes = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 2), np.int32))["params"]
    draw, tensors = np.random.default_rng(0), {}
    for keys, leaf in jax.tree_util.tree_leaves_with_path(shapes):
        tensor = llama.tensor_of(tuple(k.key for k in keys))
        tensors[tensor.name] = draw.normal(size=tensor.stored_shape(leaf.shape)).astype(np.float32)
    names = sorted(tensors)
    shards = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for shard, inside in shards.items():
        safetensors.save_file({name: tensors[name] for name in inside}, path / shard)
    index = {"weight_map": {name: shard for shard, inside in shards.items() for name in inside}}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    return path


def leaves_of(path):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(llama.load(path)[1])]


def test_the_whole_directory_loads(whole):
    assert len(leaves_of(whole)) > 10


@pytest.mark.parametrize("seed", range(40))
def test_a_damaged_directory_is_one_line_or_the_same_network(seed, whole, tmp_path):
    """What is damaged is the header or the files; numbers in the middle of a shard carry no digest."""
    draw = np.random.default_rng(seed)
    path = Path(shutil.copytree(whole, tmp_path / "copy"))
    file = path / draw.choice(sorted(p.name for p in path.iterdir()))
    data = bytearray(file.read_bytes())
    how = draw.choice(["remove", "cut", "empty", "flip", "directory", "pipe", "long"])
    if how in ("remove", "directory", "pipe"):
        file.unlink()
        if how != "remove":
            (file.mkdir if how == "directory" else lambda: os.mkfifo(file))()
    else:
        if how == "flip":
            data[int(draw.integers(min(len(data), 200)))] ^= 1 << int(draw.integers(8))
        elif how == "long":
            data += bytes(draw.integers(0, 256, 50, np.uint8))
        else:
            data = data[: int(draw.integers(len(data))) if how == "cut" else 0]
        file.write_bytes(data)
    began = time.monotonic()
    try:
        found = leaves_of(path)
    except UserError as error:
        assert "\n" not in str(error) and len(str(error)) < 2500
    else:  # an entry that is not looked at, such as the name of an unknown key
        assert [leaf.shape for leaf in found] == [leaf.shape for leaf in leaves_of(whole)]
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/b", "", ".", "..", "x\0", ["x"], 3, None, "\n"])
def test_an_index_names_files_of_its_own_directory_alone(name, whole, tmp_path):
    path = Path(shutil.copytree(whole, tmp_path / "copy"))
    index = json.loads((path / "model.safetensors.index.json").read_text())
    index["weight_map"][next(iter(index["weight_map"]))] = name
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="which is not of|not a text"):
        llama.load(path)


@pytest.mark.parametrize("index", [[], {"weight_map": []}, {"weight_map": {}}, {}, {"weight_map": "x"}])
def test_an_index_that_is_none(index, whole, tmp_path):
    path = Path(shutil.copytree(whole, tmp_path / "copy"))
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="index.json"):
        llama.load(path)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_numbers_that_the_network_cannot_hold(value, whole, tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy")
    path = Path(shutil.copytree(whole, tmp_path / "copy"))
    tensors = safetensors.load_file(path / "model-1.safetensors")
    name = sorted(tensors)[0]
    tensors[name] = tensors[name].astype(np.float64)
    tensors[name].flat[0] = value
    safetensors.save_file(tensors, path / "model-1.safetensors")
    with pytest.raises(UserError, match=f"{name} holds numbers that are not finite as float32"):
        llama.load(path)


def test_a_tensor_that_is_stored_twice(whole, tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy")
    path = Path(shutil.copytree(whole, tmp_path / "copy"))
    both = safetensors.load_file(path / "model-1.safetensors") | safetensors.load_file(path / "model-2.safetensors")
    safetensors.save_file(both, path / "model-2.safetensors")
    with pytest.raises(UserError, match="is in model-1.safetensors and in model-2.safetensors"):
        llama.load(path)


@hypothesis.settings(max_examples=60)
@hypothesis.given(st.data())
def test_configurations_of_image_networks(data):
    family = data.draw(st.sampled_from(sorted(images._FAMILIES.values(), key=lambda f: f.__name__)))
    name = {"resnet": "resnet18", "mobilenet": "mobilenet_v2", "efficientnet": "efficientnet_b0"}.get(
        family.__name__.rpartition(".")[2],
        "swin_tiny" if family.__name__.endswith("swin") else "vit_tiny_patch16_224",
    )
    expected = family.configuration(models.create(name))
    config = {k: sorted(v)[0] if isinstance(v, frozenset) else v for k, v in expected.items()}
    lie = data.draw(lies(json.loads(json.dumps(config)), most=1))
    faults = images._config_faults(lie, expected)
    assert all(len(fault) < 400 and "\n" not in fault for fault in faults)


@pytest.mark.parametrize("content", ["[]", "{", "null", '{"a": NaN}', "\ud800"])
def test_objects_alone(content, tmp_path):
    (tmp_path / "config.json").write_bytes(content.encode(errors="surrogatepass"))
    with pytest.raises(UserError, match="is not a JSON object.*give a Hugging Face model directory"):
        directory.read_json(tmp_path / "config.json")
