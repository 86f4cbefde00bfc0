"""Swin as `transformers.SwinForImageClassification` stores it."""

from __future__ import annotations

from typing import Any

from dms_jax.models.swin import Swin
from dms_jax.pretrained.tensors import LEAVES, number

_OUTSIDE = {
    "patch": "swin.embeddings.patch_embeddings.projection",
    "patch_norm": "swin.embeddings.norm",
    "norm": "swin.layernorm",
    "classifier": "classifier",
}

_INSIDE = {
    ("norm1",): "layernorm_before",
    ("attention",): "attention.self",
    ("attention", "query"): "attention.self.query",
    ("attention", "key"): "attention.self.key",
    ("attention", "value"): "attention.self.value",
    ("attention", "out"): "attention.output.dense",
    ("norm2",): "layernorm_after",
    ("mlp", "fc1"): "intermediate.dense",
    ("mlp", "fc2"): "output.dense",
}

_LEAVES = {**LEAVES, "bias_table": "relative_position_bias_table"}


def tensor_name(module: tuple[str, ...], leaf: str, model: Swin) -> str:
    """Where a leaf is stored."""
    return f"{_module(module)}.{_LEAVES[leaf]}"


def _module(module: tuple[str, ...]) -> str:
    if module[0] in _OUTSIDE:
        return _OUTSIDE[module[0]]
    stage = number(module[0]) - 1
    if module[0].startswith("merging"):  # stored with the stage before
        return f"swin.encoder.layers.{stage}.downsample.{module[1]}"
    return f"swin.encoder.layers.{stage}.blocks.{number(module[1])}.{_INSIDE[module[2:]]}"


def configuration(model: Swin) -> dict[str, Any]:
    """What config.json has to say."""
    return {
        "model_type": "swin",
        "embed_dim": model.embed,
        "depths": model.blocks,
        "num_heads": model.heads,
        "window_size": model.window,
        "patch_size": model.patch_size,
        "mlp_ratio": 4.0,
        "hidden_act": "gelu",
        "qkv_bias": True,
        "use_absolute_embeddings": False,
        "layer_norm_eps": 1e-5,
    }


def example(model: Swin) -> tuple[int, ...]:
    """The shape of an input."""
    size = model.window * model.patch_size * 2 ** (len(model.blocks) - 1)
    return 1, size, size, 3
