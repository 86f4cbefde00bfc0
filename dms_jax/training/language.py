"""Next-token prediction: its loss, and how well a network does."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from dms_jax.search import Loss
from dms_jax.training.distillation import TEACHER, Distillation


def language_loss(model: nn.Module, distillation: Distillation | None = None) -> Loss:
    """Mean next-token cross-entropy in nats of windows `batch["tokens"]: [B, T + 1]` int32.

    With distillation it is mixed with the divergence from `batch["teacher_logits"]: [B, T, V]` (see `taught`). The
    metric "nats" is the cross-entropy alone.
    """

    def loss(variables: dict[str, Any], batch: Mapping[str, jax.Array], key: jax.Array):
        tokens, following = batch["tokens"][:, :-1], batch["tokens"][:, 1:]
        logits: Any = model.apply(variables, tokens)
        nats = jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, following))
        mixed = nats if distillation is None else distillation.mix(nats, logits, batch[TEACHER])
        return mixed, ({}, {"nats": nats})

    return loss


class Bits(NamedTuple):
    """Mean bits per token (per byte, for models of bytes), its standard error over windows, and the perplexity."""

    value: float
    stderr: float
    perplexity: float


def bits_per_token(model: nn.Module, variables: Any, batches: Iterable[Mapping[str, Any]]) -> Bits:
    """Evaluate a network on windows {"tokens": `[B, T + 1]`}, every window counted once.

    Windows are taken as independent for the standard error.
    """

    @jax.jit
    def nats(variables: Any, tokens: jax.Array) -> jax.Array:
        logits: Any = model.apply(variables, tokens[:, :-1])
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]), axis=-1)

    windows = jnp.concatenate([nats(variables, batch["tokens"]) for batch in batches]) / math.log(2)
    mean = float(jnp.mean(windows))
    stderr = float(jnp.std(windows, ddof=1)) / math.sqrt(len(windows)) if len(windows) > 1 else math.nan
    return Bits(mean, stderr, 2.0**mean)
