"""Data: arrays and pipelines whose batch of any step is a function of (seed, step) alone."""

from dms_jax.data.batching import batches

__all__ = ["batches"]
