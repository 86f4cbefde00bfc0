"""A network for other people's tools: a Hugging Face directory, a StableHLO program, or without BatchNorms."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax.traverse_util import flatten_dict

from dms_jax import files
from dms_jax.batchnorm import fuse_batchnorm
from dms_jax.elements import portable
from dms_jax.errors import UserError
from dms_jax.models.llama import Llama
from dms_jax.pretrained.directory import read_json
from dms_jax.pretrained.llama import ParamPath, tensor_of
from dms_jax.pretrained.llama_configuration import LayerSizes, to_config
from dms_jax.reading import record, whole

__all__ = ["SHARD_BYTES", "fuse_batchnorm", "huggingface", "stablehlo"]

SHARD_BYTES = 5 * 10**9
"""The size of one weight file, about; a tensor is never cut."""

_TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.model"),
    *("vocab.json", "merges.txt", "chat_template.jinja", "generation_config.json"),
)
_SPECIAL = ("bos_token_id", "eos_token_id", "pad_token_id")

# transformers 5 has the per-layer configuration, but its own Llama, Mistral and Qwen classes still make all layers from
# the global one; they fail to load such weights. Its rule for such cases is code beside the weights.
_PER_LAYER_CODE = '''"""Layers of different sizes: every one is made from its own configuration, `per_layer_config`."""

from transformers import {base}


class PerLayer{base}({base}):
    def __init__(self, config):
        super().__init__(config)
        layers = self.model.layers
        for i, own in enumerate(config.per_layer_config):
            layers[i] = type(layers[i])(own, i)
        self.post_init()
'''


def huggingface(
    directory: str | os.PathLike[str],
    model: nn.Module,
    variables: Mapping[str, Any],
    tokenizer: str | os.PathLike[str] | Any = None,
    *,
    shard_bytes: int = SHARD_BYTES,
) -> Path:
    """Write a network of the Llama family as transformers loads it: safetensors, config.json, tokenizer.

    Layers that all have the same sizes give an ordinary configuration, which every serving engine runs. Layers that
    differ give transformers' per-layer configuration and a class of twelve lines that follows it:
    `AutoModelForCausalLM.from_pretrained(directory, trust_remote_code=True)`, transformers 5.15 or later. Layers that
    are gone are left out and the others numbered anew.

    Args:
      directory: made if it is not there; what it has under the same names is written over.
      model: the network the variables are of; its own sizes are read off the variables.
      variables: {"params": ...}, without masks; float32 or bfloat16. Read back from the device one shard at a time.
      tokenizer: a Hugging Face directory, whose tokenizer files and special tokens are copied; a
        `tokenizers.Tokenizer`; or None.
      shard_bytes: the size of one weight file, about.

    Returns:
      The directory.

    Raises:
      UserError: variables of another model, no architecture that computes this network, or a tokenizer that knows more
        tokens than the vocabulary has.
    """
    if not isinstance(model, Llama):
        raise UserError(f"{type(model).__name__} cannot be written for transformers; the Llama family can")
    params: dict[ParamPath, Any] = dict(flatten_dict(variables["params"]))
    layers = _layer_sizes(params)
    config = to_config(model, params[("embedding",)].shape[1], layers)
    config["dtype"] = str(params[("embedding",)].dtype)
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    config |= _write_tokenizer(directory, tokenizer, model.vocabulary)
    (directory / "config.json").unlink(missing_ok=True)  # written last: where it is, all else is
    if "per_layer_config" in config:
        (base,) = config["architectures"]
        config["auto_map"] = {"AutoModelForCausalLM": f"modeling_per_layer.PerLayer{base}"}
        files.write(directory / "modeling_per_layer.py", _PER_LAYER_CODE.format(base=base).encode())
    numbers = {old: new for new, old in enumerate(layers)}
    _write_weights(directory, {path: tensor_of(path, numbers).name for path in params}, params, shard_bytes)
    files.write(directory / "config.json", (json.dumps(config, indent=2) + "\n").encode())
    return directory


def stablehlo(
    path: str | os.PathLike[str],
    model: nn.Module,
    variables: Mapping[str, Any],
    *example: Any,
    platforms: tuple[str, ...] = ("cpu", "cuda", "tpu"),
    **call: Any,
) -> Path:
    """Write the inference program with its weights inside, for any batch size and without this library.

        run = jax.export.deserialize(Path(path).read_bytes())
        logits = run.call(inputs)

    Args:
      path: of the file.
      model: the network.
      variables: its variables, without masks. They become constants of the program.
      *example: its positional arguments, arrays or `jax.ShapeDtypeStruct`; the first axis of each is the batch and left
        open, the others are fixed.
      platforms: where the program is to run.
      **call: keyword arguments of the model, such as train=False.

    Returns:
      The path.

    Raises:
      UserError: flatbuffers is missing, which jax.export writes with.
    """
    (batch,) = jax.export.symbolic_shape("batch")
    inputs = [jax.ShapeDtypeStruct((batch, *x.shape[1:]), x.dtype) for x in example]
    with portable():
        program = jax.jit(lambda *x: model.apply(variables, *x, **call))
        exported = jax.export.export(program, platforms=platforms)(*inputs)
    try:
        data = exported.serialize()
    except ImportError as error:
        raise UserError("jax.export writes with flatbuffers, which is missing: install dms_jax[export]") from error
    path = Path(path)
    path.write_bytes(data)
    return path


def _layer_sizes(params: Mapping[ParamPath, Any]) -> dict[int, LayerSizes]:
    numbers = sorted(int(path[0].removeprefix("layer")) for path in params if path[1:] == ("attention", "query"))
    if ("embedding",) not in params:
        raise UserError("these are not variables of a Llama: they have no embedding")
    return {
        i: LayerSizes(
            kv_heads=params[(f"layer{i}", "attention", "query")].shape[1],
            queries=params[(f"layer{i}", "attention", "query")].shape[2],
            hidden=params[(f"layer{i}", "feed_forward", "gate")].shape[1],
        )
        for i in numbers
    }


def _write_weights(directory: Path, names: Mapping[ParamPath, str], params: Mapping[ParamPath, Any], most: int) -> None:
    try:
        from safetensors.numpy import save_file
    except ImportError as error:
        raise UserError("weights are written with safetensors, which is missing: install dms_jax[hub]") from error
    shards = list(_shards(names, params, most))
    index: dict[str, str] = {}
    for number, paths in enumerate(shards):
        name = "model.safetensors"
        if len(shards) > 1:
            name = f"model-{number + 1:05}-of-{len(shards):05}.safetensors"
        tensors = {names[p]: np.ascontiguousarray(tensor_of(p).to_stored(np.asarray(params[p]))) for p in paths}
        part = directory / f"{name}.{secrets.token_hex(8)}{files.PART}"
        save_file(tensors, part, metadata={"format": "pt"})
        os.replace(part, directory / name)
        index |= dict.fromkeys(tensors, name)
    total = sum(leaf.size * leaf.dtype.itemsize for leaf in params.values())
    where = directory / "model.safetensors.index.json"
    if len(shards) > 1:
        content = {"metadata": {"total_size": total}, "weight_map": index}
        files.write(where, (json.dumps(content, indent=2) + "\n").encode())
    else:
        where.unlink(missing_ok=True)  # of an earlier export: it would hide the file just written


def _shards(
    names: Mapping[ParamPath, str], params: Mapping[ParamPath, Any], most: int
) -> Iterator[tuple[ParamPath, ...]]:
    shard, size = [], 0
    for path in names:
        own = params[path].size * params[path].dtype.itemsize
        if shard and size + own > most:
            yield tuple(shard)
            shard, size = [], 0
        shard.append(path)
        size += own
    yield tuple(shard)


def _write_tokenizer(directory: Path, tokenizer: Any, vocabulary: int) -> dict[str, Any]:
    """Copy or save a tokenizer; returns the special tokens for config.json."""
    if tokenizer is None:
        return {}
    if not isinstance(tokenizer, str | os.PathLike):
        _fits(tokenizer.get_vocab_size(), vocabulary)
        tokenizer.save(str(directory / "tokenizer.json"))
        return {}
    source = Path(tokenizer)
    found = [source / name for name in _TOKENIZER_FILES if (source / name).exists()]
    if not any(file.name.startswith("tokenizer.") or file.name == "vocab.json" for file in found):
        raise UserError(f"{source} holds no tokenizer (tokenizer.json, tokenizer.model or vocab.json)")
    said = record({}, {"vocab_size": whole(0, 2**24)})
    config = read_json(source / "config.json", said) if (source / "config.json").exists() else {}
    _fits(config.get("vocab_size", 0), vocabulary)
    for file in found:
        if file.resolve() != (directory / file.name).resolve():
            shutil.copyfile(file, directory / file.name)
    return {key: config[key] for key in _SPECIAL if key in config}


def _fits(tokens: int, vocabulary: int) -> None:
    if tokens > vocabulary:
        raise UserError(f"the tokenizer knows {tokens} tokens, the network {vocabulary}: it is another network's")
