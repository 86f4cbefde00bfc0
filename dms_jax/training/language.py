"""Next-token prediction: its loss, and how well a network does."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from dms_jax.method.loss import Loss
from dms_jax.training.distillation import TEACHER, Distillation
from dms_jax.training.mesh import batch_sharding, replicated


def language_loss(model: Any, distillation: Distillation | None = None) -> Loss:
    """Mean next-token cross-entropy in nats of windows `batch["tokens"]: [B, T + 1]` int32.

    With distillation it is mixed with the divergence from `batch["teacher_logits"]: [B, T, V]` (see `taught`). The
    metric "nats" is the cross-entropy alone.
    """

    def loss(params: Any, batch: Mapping[str, jax.Array], key: jax.Array):
        tokens, following = batch["tokens"][:, :-1], batch["tokens"][:, 1:]
        logits: Any = model.apply(params, tokens)
        nats = jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, following))
        mixed = nats if distillation is None else distillation.mix(nats, logits, batch[TEACHER])
        return mixed, {"metrics": {"nats": nats}}

    return loss


class Bits(NamedTuple):
    """Mean bits per token (per byte, for models of bytes), its standard error over windows, and the perplexity."""

    value: float
    stderr: float
    perplexity: float


def bits_per_token(
    fn: Callable[[Any, Any], Any], params: Any, batches: Iterable[Mapping[str, Any]], mesh: Mesh | None = None
) -> Bits:
    """Evaluate a network on windows {"tokens": `[B, T + 1]`}, every window counted once.

    Windows are taken as independent for the standard error.

    Args:
      fn: `(params, tokens [B, T]) -> logits [B, T, V]`.
      params: the network's.
      batches: any B, from host memory; every process gives the same.
      mesh: over whose devices the windows are cut; None: the default device, or where the parameters lie.
    """

    def nats(params: Any, tokens: jax.Array) -> jax.Array:
        logits = fn(params, tokens[:, :-1])
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]), axis=-1)

    evaluate = jax.jit(nats, out_shardings=None if mesh is None else replicated(mesh))
    measured = []
    for batch in batches:
        tokens = batch["tokens"]
        if mesh is not None:  # the last window fills up what the devices do not divide, and is then not counted
            filled = np.pad(tokens, ((0, -len(tokens) % mesh.size), (0, 0)), mode="edge")
            tokens = jax.device_put(filled, batch_sharding(mesh))
        measured.append(np.asarray(evaluate(params, tokens), np.float64)[: len(batch["tokens"])])
    windows = np.concatenate(measured) / math.log(2)
    mean = float(np.mean(windows))
    stderr = float(np.std(windows, ddof=1)) / math.sqrt(len(windows)) if len(windows) > 1 else math.nan
    return Bits(mean, stderr, 2.0**mean)
