"""Hugging Face configurations of the Llama family <-> `dms_jax.models.llama.Llama`.

A network whose layers differ uses transformers' per-layer configuration: "per_layer_config" maps the number of a layer
to what is different there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dms_jax import checks
from dms_jax.errors import UserError
from dms_jax.models import rotary
from dms_jax.models.llama import Llama
from dms_jax.pretrained import llama_entries
from dms_jax.pretrained.llama_entries import ARCHITECTURES
from dms_jax.reading import shown
from dms_jax.structure import Structure


@dataclass(frozen=True)
class LayerSizes:
    """What one layer has of the groups of `Llama`."""

    kv_heads: int
    queries: int
    hidden: int


def from_config(config: Mapping[str, Any], **options: Any) -> Llama:
    """Make the network that a configuration describes.

    Args:
      config: the contents of a config.json, of transformers 4 or 5.
      **options: attributes of `Llama` that a configuration says nothing about: dtype, remat, search_width.

    Returns:
      A `Llama`. If the layers differ ("per_layer_config"), its `structure` says so.

    Raises:
      UserError: an architecture or a feature that is not supported, or a size that is missing.
    """
    kind, full = llama_entries.checked(config)
    theta, scaling = _rope(full)
    attention_bias = True if kind == "qwen2" else kind != "mistral" and bool(full.get("attention_bias"))
    window, window_layers = _window(kind, full)
    size = full.get("head_dim") or full["hidden_size"] // full["num_attention_heads"]
    rotary.check(size, theta, scaling, full["max_position_embeddings"])
    model = Llama(
        vocabulary=full["vocab_size"],
        width=full["hidden_size"],
        layers=full["num_hidden_layers"],
        heads=full["num_attention_heads"],
        kv_heads=full.get("num_key_value_heads") or full["num_attention_heads"],
        head_dim=size,
        hidden=full["intermediate_size"],
        rope_theta=theta,
        rope_scaling=scaling,
        max_positions=full["max_position_embeddings"],
        norm_epsilon=full["rms_norm_eps"] if "rms_norm_eps" in full else 1e-6,
        window=window,
        window_layers=window_layers,
        attention_bias=attention_bias,
        output_bias=attention_bias and kind != "qwen2",
        feed_forward_bias=kind == "llama" and bool(full.get("mlp_bias")),
        query_key_norm=kind == "qwen3",
        tied=bool(full.get("tie_word_embeddings", False)),
        **options,
    )
    return model.clone(structure=_structure(model, full)) if full.get("per_layer_config") else model


def to_config(model: Llama, width: int, layers: Mapping[int, LayerSizes]) -> dict[str, Any]:
    """Describe a network, which may be a shrunk one, for transformers.

    A `llama` without biases whose width is no multiple of its heads is written as a `mistral` without a window: the
    same function, and its configuration may have any number of heads.

    Args:
      model: the network; its `structure` is not looked at.
      width: of the residual stream, as it is.
      layers: number of every layer that is left -> its sizes.

    Returns:
      The contents of config.json. Layers are numbered anew, from 0.

    Raises:
      UserError: no supported architecture has this network's combination of features.
    """
    sizes = list(layers.values())
    kind = architecture(model)
    largest = LayerSizes(*(max((getattr(s, name) for s in sizes), default=1) for name in LayerSizes.__annotations__))
    if kind == "llama" and width % (largest.kv_heads * largest.queries):
        if model.attention_bias or model.feed_forward_bias:
            largest = LayerSizes(1, 1, largest.hidden)  # every layer then says how many heads it has
        else:
            kind = "mistral"
    windowed = [model.window is not None and (model.window_layers is None or i in model.window_layers) for i in layers]
    config = {
        "architectures": [ARCHITECTURES[kind]],
        "model_type": kind,
        "vocab_size": model.vocabulary,
        "hidden_size": width,
        "intermediate_size": largest.hidden,
        "num_hidden_layers": len(layers),
        "num_attention_heads": largest.kv_heads * largest.queries,
        "num_key_value_heads": largest.kv_heads,
        "head_dim": model.head_dim or model.width // model.heads,
        "hidden_act": "silu",
        "max_position_embeddings": model.max_positions,
        "rms_norm_eps": model.norm_epsilon,
        "rope_parameters": {"rope_type": "default", **(model.rope_scaling or {}), "rope_theta": model.rope_theta},
        "tie_word_embeddings": model.tied,
    }
    config |= _features(kind, model, windowed)
    different = {str(i): _difference(s, largest) for i, s in enumerate(sizes) if s != largest}
    if different:
        config |= {"per_layer_config": different, "allow_global_per_layer_attribute_access": True}
    return config


def architecture(model: Llama) -> str:
    """The architecture of transformers that computes this network: "llama", "mistral", "qwen2" or "qwen3".

    Raises:
      UserError: there is none.
    """
    biases = (model.attention_bias, model.output_bias, model.feed_forward_bias)
    everywhere = model.window_layers is None or len(model.window_layers) == model.layers
    if model.query_key_norm and biases in ((False, False, False), (True, True, False)):
        return "qwen3"
    if not model.query_key_norm and biases == (True, False, False):
        return "qwen2"
    if not model.query_key_norm and model.window is None and model.attention_bias == model.output_bias:
        return "llama"
    if not model.query_key_norm and not any(biases) and everywhere:
        return "mistral"
    raise UserError(
        f"none of {', '.join(ARCHITECTURES)} has query_key_norm={model.query_key_norm}, window={model.window} in "
        f"layers {model.window_layers or 'all'}, and biases of query/key/value, output and FFN {biases}; dms_jax alone "
        "can save and load it"
    )


def _features(kind: str, model: Llama, windowed: Sequence[bool]) -> dict[str, Any]:
    """What one architecture has and others do not."""
    if kind == "llama":
        return {"attention_bias": model.attention_bias, "mlp_bias": model.feed_forward_bias}
    if kind == "mistral":
        return {"sliding_window": model.window}
    kinds = ["sliding_attention" if inside else "full_attention" for inside in windowed]
    features = {"use_sliding_window": any(windowed), "sliding_window": model.window, "layer_types": kinds}
    return features | ({"attention_bias": model.attention_bias} if kind == "qwen3" else {})


def _difference(sizes: LayerSizes, usual: LayerSizes) -> dict[str, int]:
    own = {
        "num_attention_heads": (sizes.kv_heads * sizes.queries, usual.kv_heads * usual.queries),
        "num_key_value_heads": (sizes.kv_heads, usual.kv_heads),
        "intermediate_size": (sizes.hidden, usual.hidden),
    }
    return {key: here for key, (here, there) in own.items() if here != there}


def _rope(config: Mapping[str, Any]) -> tuple[float, dict[str, Any] | None]:
    """theta and scaling, from "rope_parameters" (transformers 5) or "rope_theta" and "rope_scaling" (4)."""
    given = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    if any(isinstance(value, Mapping) for value in given.values()):
        raise UserError("rotary positions that differ between layers are not supported")
    theta = float(given.pop("rope_theta", None) or config.get("rope_theta") or 10000.0)
    partial = given.pop("partial_rotary_factor", None) or config.get("partial_rotary_factor") or 1.0
    if partial != 1.0:
        raise UserError(f"rotary positions over a part ({partial}) of every head are not supported")
    kind = given.pop("rope_type", None) or given.pop("type", None) or "default"
    given.pop("type", None)
    if kind == "default":
        return theta, None
    old = config.get("original_max_position_embeddings")
    if old is not None:
        given.setdefault("original_max_position_embeddings", old)
    return theta, {"rope_type": kind, **given}


def _window(kind: str, config: Mapping[str, Any]) -> tuple[int | None, tuple[int, ...] | None]:
    """The window, and the layers that have it (None: all)."""
    if kind == "llama" or (kind != "mistral" and not config.get("use_sliding_window", False)):
        return None, None
    window = config["sliding_window"]
    if window is None or kind == "mistral":
        return window, None
    types = config.get("layer_types")
    if types is None:
        first = config.get("max_window_layers")
        first = 28 if first is None else first
        return window, tuple(range(first, config["num_hidden_layers"]))
    unknown = set(types) - {"sliding_attention", "full_attention"}
    if unknown:
        raise UserError(f"layers of type {', '.join(sorted(unknown))} are not supported")
    return window, tuple(i for i, name in enumerate(types) if name == "sliding_attention")


def _structure(model: Llama, config: Mapping[str, Any]) -> Structure:
    """What layers have that differ: the first so many elements of the full network's."""
    kept: dict[str, tuple[int, ...]] = {}
    usual = {key: config.get(key) for key in ("num_attention_heads", "num_key_value_heads", "intermediate_size")}
    usual["num_key_value_heads"] = model.kv_heads
    full = LayerSizes(model.kv_heads or model.heads, model.heads // (model.kv_heads or model.heads), model.hidden)
    for key, difference in config["per_layer_config"].items():
        if not checks.digits(key) or int(key) >= config["num_hidden_layers"]:
            raise UserError(f"per_layer_config has layer {shown(key)}; there are {config['num_hidden_layers']} layers")
        if set(difference) - set(usual):
            raise UserError(f"per_layer_config of layer {key}: {sorted(difference)}; supported: {', '.join(usual)}")
        here = {**usual, **difference}
        kv_heads = here["num_key_value_heads"]
        if here["num_attention_heads"] % kv_heads:
            raise UserError(f"per_layer_config of layer {key}: {here} has no whole number of queries a key/value head")
        sizes = LayerSizes(kv_heads, here["num_attention_heads"] // kv_heads, here["intermediate_size"])
        if any(getattr(sizes, name) > getattr(full, name) for name in LayerSizes.__annotations__):
            raise UserError(f"per_layer_config of layer {key}: {sizes} is above the configuration's own {full}")
        layer = f"layer{int(key)}"
        if full.kv_heads > 1:
            kept[f"{layer}/attention/heads"] = tuple(range(sizes.kv_heads))
        if full.queries > 1:
            kept[f"{layer}/attention/queries"] = tuple(range(sizes.queries))
        kept[f"{layer}/feed_forward/hidden"] = tuple(range(sizes.hidden))
    return Structure(kept)
