"""Weights of others: `load` for the image families (Hugging Face or torchvision), `llama.load` for language models."""

from dms_jax.pretrained.images import arguments, load

__all__ = ["arguments", "load"]
