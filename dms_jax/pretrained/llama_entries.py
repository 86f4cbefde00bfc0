"""The entries of a Hugging Face configuration of the Llama family: types, ranges, and what they say of each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dms_jax.errors import UserError
from dms_jax.reading import Check, Mismatch, flag, listing, mapping, number, optional, record, shown, text, whole

ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}

# What transformers takes where a configuration is silent.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": {"max_position_embeddings": 2048},
    "mistral": {"max_position_embeddings": 131072, "num_key_value_heads": 8, "sliding_window": 4096},
    "qwen2": {"max_position_embeddings": 32768, "num_key_value_heads": 32, "sliding_window": 4096},
    "qwen3": {"max_position_embeddings": 32768, "num_key_value_heads": 32, "sliding_window": 4096, "head_dim": 128},
}

_LAYERS = 512  # at most
_SIZE = whole(1, 2**20)
_HEADS = whole(1, 2**14)
_ROPE = optional(
    record(
        {},
        {
            "rope_theta": optional(number(1, 1e15, above=True)),
            "partial_rotary_factor": optional(number(0, 1, above=True)),
            "rope_type": optional(text(64)),
            "type": optional(text(64)),
            "factor": number(0, 1e6, above=True),
            "low_freq_factor": number(0, 1e6, above=True),
            "high_freq_factor": number(0, 1e6, above=True),
            "attention_factor": optional(number(0, 1e6, above=True)),
            "beta_fast": optional(number(0, 1e6, above=True)),
            "beta_slow": optional(number(0, 1e6, above=True)),
            "original_max_position_embeddings": optional(whole(1, 2**30)),
            "mscale": optional(number(0, 1e6)),
            "mscale_all_dim": optional(number(0, 1e6)),
            "truncate": optional(flag),
            "short_factor": listing(number(0, 1e6, above=True), 1, 2**14),
            "long_factor": listing(number(0, 1e6, above=True), 1, 2**14),
        },
    )
)

# Type and range of every entry that is looked at; the rest of a config.json is not.
_ENTRIES: dict[str, Check] = {
    "vocab_size": whole(1, 2**24),
    "hidden_size": whole(1, 2**18),
    "intermediate_size": _SIZE,
    "num_hidden_layers": whole(1, _LAYERS),
    "num_attention_heads": _HEADS,
    "num_key_value_heads": optional(_HEADS),
    "head_dim": optional(whole(1, 2**14)),
    "hidden_act": text(64),
    "max_position_embeddings": whole(1, 2**30),
    "original_max_position_embeddings": optional(whole(1, 2**30)),
    "rms_norm_eps": number(0, 1, above=True),
    "rope_theta": optional(number(1, 1e15, above=True)),
    "partial_rotary_factor": optional(number(0, 1, above=True)),
    "rope_parameters": _ROPE,
    "rope_scaling": _ROPE,
    "attention_bias": optional(flag),
    "mlp_bias": optional(flag),
    "tie_word_embeddings": optional(flag),
    "use_sliding_window": optional(flag),
    "sliding_window": optional(whole(1, 2**30)),
    "max_window_layers": optional(whole(0, 2**20)),
    "layer_types": optional(listing(text(64), 1, _LAYERS)),
    "per_layer_config": optional(
        mapping(
            record(
                {},
                {"num_attention_heads": _HEADS, "num_key_value_heads": _HEADS, "intermediate_size": _SIZE},
            ),
            _LAYERS,
        )
    ),
}

_NEEDED = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")


def checked(config: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The architecture of a configuration, and all of its entries: those it is silent about as transformers has them.

    Raises:
      UserError: an architecture or an activation that is not supported, or entries that are missing or not possible.
    """
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in ARCHITECTURES:
        raise UserError(f"architecture {shown(kind)} is not supported; supported: {', '.join(ARCHITECTURES)}")
    missing = [key for key in _NEEDED if config.get(key) is None]
    if missing:
        raise UserError(f"the {kind} configuration has no {', '.join(missing)}; give the whole config.json")
    try:
        record({}, _ENTRIES)(dict(config), "")
    except Mismatch as error:
        raise UserError(f"the {kind} configuration is not possible: {error.fault}") from None
    if config.get("hidden_act", "silu") != "silu":
        raise UserError(f"activation {config['hidden_act']!r} is not supported; the family has silu")
    full = {**_DEFAULTS[kind], **config}
    _check_heads(kind, full)
    return kind, full


def _check_heads(kind: str, config: Mapping[str, Any]) -> None:
    """What entries say of each other."""
    heads, kv_heads = config["num_attention_heads"], config.get("num_key_value_heads") or config["num_attention_heads"]
    size = config.get("head_dim") or config["hidden_size"] // heads
    if heads % kv_heads:
        raise UserError(f"the {kind} configuration has {heads} heads, no multiple of its {kv_heads} key/value heads")
    if size < 2 or size % 2:
        raise UserError(f"the {kind} configuration has heads of {size}; rotary positions need an even size")
    types = config.get("layer_types")
    if types is not None and len(types) != config["num_hidden_layers"]:
        raise UserError(
            f"the {kind} configuration has {len(types)} layer_types, and {config['num_hidden_layers']} layers"
        )
