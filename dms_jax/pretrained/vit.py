"""ViT and DeiT as `transformers` stores them.

`ViTForImageClassification` holds ViT, and DeiT without distillation; `DeiTForImageClassificationWithTeacher` holds DeiT
with a distillation token and two heads.
"""

from __future__ import annotations

from typing import Any

from dms_jax.models.vit import VisionTransformer
from dms_jax.pretrained.tensors import LEAVES, number

_TOKENS = {"class_token": "cls_token", "distillation_token": "distillation_token", "position": "position_embeddings"}

_INSIDE = {
    ("norm1",): "layernorm_before",
    ("attention", "query"): "attention.attention.query",
    ("attention", "key"): "attention.attention.key",
    ("attention", "value"): "attention.attention.value",
    ("attention", "out"): "attention.output.dense",
    ("norm2",): "layernorm_after",
    ("mlp", "fc1"): "intermediate.dense",
    ("mlp", "fc2"): "output.dense",
}


def tensor_name(module: tuple[str, ...], leaf: str, model: VisionTransformer) -> str:
    """Where a leaf is stored."""
    base = "deit" if model.distilled else "vit"
    if not module:
        return f"{base}.embeddings.{_TOKENS[leaf]}"
    outside = {
        "patch": f"{base}.embeddings.patch_embeddings.projection",
        "norm": f"{base}.layernorm",
        "classifier": "cls_classifier" if model.distilled else "classifier",
        "distillation_classifier": "distillation_classifier",
    }
    if module[0] in outside:
        return f"{outside[module[0]]}.{LEAVES[leaf]}"
    return f"{base}.encoder.layer.{number(module[0])}.{_INSIDE[module[1:]]}.{LEAVES[leaf]}"


def configuration(model: VisionTransformer) -> dict[str, Any]:
    """What config.json has to say."""
    return {
        "model_type": "deit" if model.distilled else "vit",
        "hidden_size": model.embed,
        "num_hidden_layers": model.depth,
        "num_attention_heads": model.heads,
        "intermediate_size": model.embed * model.mlp_ratio,
        "image_size": model.image_size,
        "patch_size": model.patch_size,
        "hidden_act": "gelu",
        "qkv_bias": True,
        "layer_norm_eps": model.epsilon,
    }


def example(model: VisionTransformer) -> tuple[int, ...]:
    """The shape of an input."""
    return 1, model.image_size, model.image_size, 3
