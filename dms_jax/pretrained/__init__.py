"""Weights from Hugging Face directories: `load` for the image families, `llama.load` for language models."""

from dms_jax.pretrained.images import load

__all__ = ["load"]
