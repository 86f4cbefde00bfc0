"""Runs any jitted training step: devices, checkpoints, metrics, progress, interruption. Knows no method."""

from dms_jax.errors import Interrupted
from dms_jax.training.checkpoints import CheckpointError, Checkpoints, Restored
from dms_jax.training.interrupt import InterruptFlag
from dms_jax.training.loop import NonFiniteLoss, run_phase
from dms_jax.training.mesh import batch_sharding, make_mesh, place, replicate, replicated, shard_batch, shardings
from dms_jax.training.metrics import MetricsWriter
from dms_jax.training.progress import Progress

__all__ = [
    "CheckpointError",
    "Checkpoints",
    "InterruptFlag",
    "Interrupted",
    "MetricsWriter",
    "NonFiniteLoss",
    "Progress",
    "Restored",
    "batch_sharding",
    "make_mesh",
    "place",
    "replicate",
    "replicated",
    "run_phase",
    "shard_batch",
    "shardings",
]
