"""Networks for other people's tools; tests/pretrained/test_llama_parity.py loads the directories in transformers."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import safe_open

import dms_jax
from dms_jax import SearchSpace, UserError, export, models
from dms_jax.elements import is_portable
from dms_jax.pretrained import llama
from tests.counting import random_structure, random_variables
from tests.helpers import FLOAT32_LOGITS

SMALL: dict[str, Any] = dict(vocabulary=32, width=20, layers=3, heads=4, kv_heads=2, head_dim=4, hidden=9)
TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, 32, (2, 7)), jnp.int32)


def network(kept: Any = None, **arguments: Any) -> tuple[Any, Any]:
    """A network with random weights, shrunk to `kept`: {end of the groups' names: elements}."""
    model = models.create("llama", **{**SMALL, **arguments})
    space = SearchSpace.from_model(model, jax.ShapeDtypeStruct((1, 7), jnp.int32))
    found = {g: elements for g in space.groups for end, elements in (kept or {}).items() if g.endswith(end)}
    structure = space.structure(found)
    return model.clone(structure=structure), dms_jax.shrink(space, random_variables(space), structure)


def config_of(directory: Path):
    return json.loads((directory / "config.json").read_text())


@pytest.mark.parametrize("seed", range(2))
def test_any_structure_comes_back(seed, tmp_path):
    """Written and loaded again: the same logits, whatever is kept; the layers that are left have new numbers."""
    model = models.create("llama", **SMALL, query_key_norm=True, search_width=True)
    space = SearchSpace.from_model(model, jax.ShapeDtypeStruct((1, 7), jnp.int32))
    structure = space.structure(random_structure(space.groups, seed) | {"depth": (0, 2)})
    small: Any = model.clone(structure=structure)
    variables = dms_jax.shrink(space, random_variables(space), structure)
    again, loaded = llama.load(export.huggingface(tmp_path, small, variables))
    assert again.layers == 2
    a, b = jax.jit(again.apply)(loaded, TOKENS), jax.jit(small.apply)(variables, TOKENS)
    np.testing.assert_allclose(a, b, rtol=0, atol=FLOAT32_LOGITS)
    assert sum(x.size for x in jax.tree.leaves(loaded)) == space.resources(structure)["params"]


def test_layers_alike_give_an_ordinary_configuration(tmp_path):
    config = config_of(export.huggingface(tmp_path, *network({"hidden": (1, 4, 5), "heads": (1,), "depth": (0, 2)})))
    assert config["model_type"] == "llama" and config["architectures"] == ["LlamaForCausalLM"]
    assert (config["num_attention_heads"], config["num_key_value_heads"], config["head_dim"]) == (2, 1, 4)
    assert (config["intermediate_size"], config["num_hidden_layers"], config["dtype"]) == (3, 2, "float32")
    assert not {"per_layer_config", "auto_map"} & set(config)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


def test_layers_that_differ_give_a_per_layer_configuration(tmp_path):
    kept = {"layer2/attention/queries": (0,), "layer0/feed_forward/hidden": (1, 4), "depth": (0, 2)}
    config = config_of(export.huggingface(tmp_path, *network(kept)))
    assert config["per_layer_config"] == {"0": {"intermediate_size": 2}, "1": {"num_attention_heads": 2}}
    assert config["allow_global_per_layer_attribute_access"] is True
    module, name = config["auto_map"]["AutoModelForCausalLM"].split(".")
    assert f"class {name}(LlamaForCausalLM)" in (tmp_path / f"{module}.py").read_text()


def test_heads_that_do_not_divide_the_width(tmp_path):
    """transformers' configuration of Llama refuses them, that of Mistral does not."""
    three = {"heads": (0, 1, 2), "queries": (0,)}
    arguments: dict[str, Any] = dict(heads=8, kv_heads=4)
    config = config_of(export.huggingface(tmp_path / "mistral", *network(three, **arguments)))
    assert (config["model_type"], config["num_attention_heads"], config["sliding_window"]) == ("mistral", 3, None)
    arguments |= dict(attention_bias=True, output_bias=True)
    config = config_of(export.huggingface(tmp_path / "biases", *network(three, **arguments)))
    assert (config["model_type"], config["num_attention_heads"]) == ("llama", 1)
    assert config["per_layer_config"]["2"] == {"num_attention_heads": 3, "num_key_value_heads": 3}


def test_windows_follow_their_layers(tmp_path):
    model: dict[str, Any] = dict(attention_bias=True, window=3, window_layers=(1, 2))
    config = config_of(export.huggingface(tmp_path, *network({"depth": (0, 2)}, **model)))
    assert config["layer_types"] == ["full_attention", "sliding_attention"]


def test_shards(tmp_path):
    small, variables = network()
    export.huggingface(tmp_path, small, variables, shard_bytes=3000)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    leaves = jax.tree.leaves(variables)
    assert index["metadata"]["total_size"] == sum(leaf.nbytes for leaf in leaves)
    assert len(index["weight_map"]) == len(leaves) and len(set(index["weight_map"].values())) > 2
    _, loaded = llama.load(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, loaded, variables)
    export.huggingface(tmp_path, small, variables)  # one file now, and no index that hides it
    assert not (tmp_path / "model.safetensors.index.json").exists()


def test_half_precision(tmp_path):
    small, variables = network()
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), variables)
    assert config_of(export.huggingface(tmp_path, small, half))["dtype"] == "bfloat16"
    with safe_open(tmp_path / "model.safetensors", "numpy") as file:
        assert file.metadata() == {"format": "pt"}
        assert {file.get_slice(name).get_dtype() for name in file.keys()} == {"BF16"}
    _, loaded = llama.load(tmp_path)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b.astype(jnp.float32)), loaded, half)


def test_a_tokenizer_is_copied_with_its_special_tokens(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    (source / "tokenizer.json").write_text("{}")
    (source / "tokenizer_config.json").write_text('{"eos_token": "</s>"}')
    (source / "config.json").write_text('{"vocab_size": 32, "eos_token_id": 2, "hidden_size": 999}')
    config = config_of(export.huggingface(tmp_path / "out", *network(), source))
    assert config["eos_token_id"] == 2 and config["hidden_size"] == 20
    assert (tmp_path / "out" / "tokenizer_config.json").read_text() == '{"eos_token": "</s>"}'
    (source / "config.json").write_text('{"vocab_size": 33}')
    with pytest.raises(UserError, match="the tokenizer knows 33 tokens, the network 32"):
        export.huggingface(tmp_path / "out", *network(), source)
    with pytest.raises(UserError, match="holds no tokenizer"):
        export.huggingface(tmp_path / "out", *network(), tmp_path / "out2")


def test_a_tokenizer_object(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    export.huggingface(tmp_path, *network(), words)
    assert tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json")).get_vocab_size() == 2


def test_what_cannot_be_written(tmp_path):
    small, variables = network()
    with pytest.raises(UserError, match="ResNet cannot be written for transformers"):
        export.huggingface(tmp_path, models.create("resnet20"), {})
    with pytest.raises(UserError, match="they have no embedding"):
        export.huggingface(tmp_path, small, {"params": {"norm": variables["params"]["norm"]}})
    with pytest.raises(UserError, match="none of llama, mistral, qwen2, qwen3 has query_key_norm=True"):
        export.huggingface(tmp_path, *network(query_key_norm=True, feed_forward_bias=True))


def test_stablehlo_runs_for_any_batch(tmp_path):
    pytest.importorskip("flatbuffers")
    small, variables = network({"layer2/attention/queries": (0,), "depth": (0, 2)})
    path = export.stablehlo(tmp_path / "model.stablehlo", small, variables, TOKENS)
    program = jax.export.deserialize(bytearray(path.read_bytes()))
    assert set(program.platforms) == {"cpu", "cuda", "tpu"}
    for batch in (1, 3):
        text = jnp.tile(TOKENS[:1], (batch, 1))
        expected = jax.jit(small.apply)(variables, text)
        np.testing.assert_allclose(program.call(text), expected, rtol=0, atol=FLOAT32_LOGITS)


def test_stablehlo_is_traced_without_kernels_of_one_device(tmp_path):
    pytest.importorskip("flatbuffers")
    seen = []

    class Model(models.llama.Llama):
        def __call__(self, tokens):
            seen.append(is_portable())
            return tokens * 1.0

    export.stablehlo(tmp_path / "x", Model(**SMALL), {}, TOKENS)
    assert seen == [True] and not is_portable()
