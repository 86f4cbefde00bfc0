"""Weights of the Llama family from Hugging Face directories, against logits that transformers computed."""

import json
import shutil
import weakref
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from safetensors.numpy import load_file, save_file

from dms_jax import UserError
from dms_jax.pretrained import llama
from dms_jax.pretrained.llama_configuration import LayerSizes, from_config, to_config
from tests.helpers import FLOAT32_LOGITS
from tests.pretrained.llama_cases import CASES, REFERENCE, SHARDED, tokens

SCALED = [name for name in CASES if name.startswith("llama_") and CASES[name][1].get("rope_parameters")]


def expected(name):
    return np.load(REFERENCE / name / "logits.npy")


@pytest.mark.parametrize("name", CASES)
def test_logits(name):
    model, variables = llama.load(REFERENCE / name)
    logits: Any = model.apply(variables, jnp.asarray(tokens()))
    np.testing.assert_allclose(logits, expected(name), rtol=0, atol=FLOAT32_LOGITS)


@pytest.mark.parametrize("name", [*SCALED, "mistral", "qwen2"])
def test_scaling_and_windows_matter(name):
    """What the comparison above would not notice if the reference did not depend on it."""
    model, variables = llama.load(REFERENCE / name)
    plain = model.clone(rope_scaling=None, window=None)
    difference = np.abs(plain.apply(variables, jnp.asarray(tokens())) - expected(name))
    assert difference.max() > 1e-2


def test_several_shards():
    assert len(list((REFERENCE / SHARDED).glob("*.safetensors"))) > 1


def test_options_and_dtypes():
    model, variables = llama.load(REFERENCE / "llama", dtype="bfloat16", remat=True, search_width=True)
    assert model.remat and model.search_width and model.dtype == "bfloat16"
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("bfloat16")}
    _, kept = llama.load(REFERENCE / "llama", dtype="bfloat16", param_dtype="float32")
    assert {leaf.dtype for leaf in jax.tree.leaves(kept)} == {jnp.dtype("float32")}


def test_one_tensor_at_a_time():
    """When a parameter is placed, no earlier one's array on the host is alive any more."""
    alive, most = [], 0

    def place(path, array):
        nonlocal most
        alive.append(weakref.ref(array))
        most = max(most, sum(ref() is not None for ref in alive))
        return jnp.zeros(())

    _, variables = llama.load(REFERENCE / SHARDED, place=place)
    assert len(alive) == len(flatten_dict(variables["params"])) and most == 1


@pytest.mark.parametrize("name", CASES)
def test_configurations_come_back(name):
    config = json.loads((REFERENCE / name / "config.json").read_text())
    model = from_config(config)
    assert model.kv_heads is not None
    sizes = LayerSizes(model.kv_heads, model.heads // model.kv_heads, model.hidden)
    again = to_config(model, model.width, {0: sizes, 1: sizes})
    assert from_config(again) == model
    if name == "mistral_tied_no_window":
        assert again["model_type"] == "llama"  # the same function
    else:
        assert {key: again[key] for key in again if key in config} == {
            key: config[key] for key in again if key in config
        }


@pytest.fixture
def directory(tmp_path):
    return shutil.copytree(REFERENCE / "llama", tmp_path / "llama")


def changed(directory, change):
    tensors = load_file(directory / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors")
    with pytest.raises(UserError) as error:
        llama.load(directory)
    return str(error.value)


def test_all_that_does_not_fit_is_listed(directory):
    def change(tensors):
        del tensors["model.norm.weight"]
        tensors["model.layers.1.mlp.up_proj.weight"] = np.zeros((12, 15), np.float32)
        tensors["model.layers.0.mlp.up_proj.weight"] = np.zeros((12, 16), np.int8)
        tensors["model.layers.7.mlp.up_proj.weight"] = np.zeros((12, 16), np.float32)

    said = changed(directory, change)
    assert "4 tensors do not fit" in said
    assert "model.norm.weight is missing (norm/scale stays empty)" in said
    assert "model.layers.1.mlp.up_proj.weight has shape (12, 15), the configuration says (12, 16)" in said
    assert "model.layers.0.mlp.up_proj.weight holds I8" in said
    assert "model.layers.7.mlp.up_proj.weight is not used" in said


def test_many_faults_are_counted(directory):
    assert "and 14 more" in changed(
        directory, lambda tensors: tensors.clear() or tensors.update(x=np.zeros(1, np.float32))
    )


def test_what_follows_from_the_rest_may_be_there(tmp_path):
    directory = shutil.copytree(REFERENCE / "qwen2_tied", tmp_path / "tied")
    tensors = load_file(directory / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.zeros(2, np.float32)
    save_file(tensors, directory / "model.safetensors")
    llama.load(directory)


def test_missing_shards(tmp_path):
    directory = shutil.copytree(REFERENCE / SHARDED, tmp_path / "sharded")
    files = sorted(directory.glob("*.safetensors"))
    files[1].unlink()
    with pytest.raises(UserError, match=f"lacks {files[1].name} of {len(files)} weight files"):
        llama.load(directory)


def test_a_cut_off_file(directory):
    file = directory / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(UserError, match="not a whole safetensors file"):
        llama.load(directory)


def test_no_weights_and_no_configuration(directory, tmp_path):
    (directory / "model.safetensors").unlink()
    with pytest.raises(UserError, match="lacks model.safetensors"):
        llama.load(directory)
    (directory / "config.json").write_text("[]")
    with pytest.raises(UserError, match="not a JSON object"):
        llama.load(directory)
    with pytest.raises(UserError, match="cannot be read"):
        llama.load(tmp_path / "nothing")


@pytest.mark.parametrize(
    "different, said",
    [
        ({"model_type": "gpt2"}, "architecture 'gpt2' is not supported; supported: llama, mistral, qwen2, qwen3"),
        ({"hidden_size": None, "vocab_size": None}, "has no vocab_size, hidden_size"),
        ({"hidden_act": "gelu"}, "activation 'gelu'"),
        ({"partial_rotary_factor": 0.5}, "a part \\(0.5\\) of every head"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1.0}}}, "differ between layers"),
        ({"per_layer_config": {"0": {"skip": ["mlp"]}}}, "layer 0: \\['skip'\\]"),
        ({"per_layer_config": {"0": {"intermediate_size": 13}}}, "layer 0: .*hidden=13.* is above"),
    ],
)
def test_what_a_configuration_cannot_say(different, said):
    config = json.loads((REFERENCE / "llama" / "config.json").read_text())
    with pytest.raises(UserError, match=said):
        from_config({**config, **different})


def test_older_configurations():
    """Of transformers 4, with other names and with everything left out that had a default."""
    old = dict(model_type="llama", vocab_size=16, hidden_size=16, intermediate_size=12, num_hidden_layers=2)
    old |= dict(num_attention_heads=4, rope_theta=500.0, rope_scaling={"type": "linear", "factor": 2.5})
    model = from_config(old)
    assert (model.kv_heads, model.head_dim, model.max_positions, model.norm_epsilon) == (4, 4, 2048, 1e-6)
    assert model.rope_theta == 500.0 and dict(model.rope_scaling or {}) == {"rope_type": "linear", "factor": 2.5}
    mistral = from_config({**old, "model_type": "mistral", "num_attention_heads": 8})
    assert (mistral.window, mistral.kv_heads, mistral.window_layers) == (4096, 8, None)
    qwen = {**old, "model_type": "qwen2", "use_sliding_window": True, "max_window_layers": 1, "num_key_value_heads": 2}
    assert from_config(qwen).window_layers == (1,)
    assert from_config({**qwen, "layer_types": ["sliding_attention", "full_attention"]}).window_layers == (0,)
