"""Optimizers as the published recipes have them. Weight decay is on kernels alone: no norm, no bias."""

from __future__ import annotations

from typing import Any

import jax
import optax

NO_KERNELS = ("bias", "scale", "position", "token", "bias_table")
"""Ends of the names of parameters that are no kernels, however many axes they have."""


def sgd(
    schedule: optax.ScalarOrSchedule,
    momentum: float = 0.9,
    nesterov: bool = True,
    weight_decay: float = 0.0,
    clip: float | None = None,
) -> optax.GradientTransformation:
    """SGD with momentum: g <- g + weight_decay w;  v <- momentum v + g;  w <- w - rate v (Nesterov: momentum v + g).

    Args:
      schedule: learning rate, or from a step to it.
      momentum, nesterov: of v.
      weight_decay: added to the gradient, so it is scaled by the learning rate.
      clip: largest norm of the whole gradient; None leaves it.
    """
    return optax.chain(*_clipped(clip), *_decayed(weight_decay), optax.sgd(schedule, momentum, nesterov))


def rmsprop(
    schedule: optax.ScalarOrSchedule,
    decay: float = 0.9,
    momentum: float = 0.9,
    eps: float = 1e-3,
    weight_decay: float = 0.0,
    clip: float | None = None,
) -> optax.GradientTransformation:
    """RMSprop as TensorFlow has it and EfficientNets are trained with (Tan & Le 2019, arXiv 1905.11946).

        g <- g + weight_decay w;  n <- decay n + (1 - decay) g^2;  v <- momentum v + rate g / sqrt(n + eps);  w <- w - v

    It differs from others in that eps is inside the root, n starts at 1, and the rate is inside the momentum.

    Args:
      schedule: learning rate, or from a step to it.
      decay, momentum, eps: as above.
      weight_decay: added to the gradient.
      clip: largest norm of the whole gradient; None leaves it.
    """
    scaled = optax.scale_by_rms(decay, eps, initial_scale=1.0, eps_in_sqrt=True)
    rate = optax.scale_by_learning_rate(schedule)
    return optax.chain(*_clipped(clip), *_decayed(weight_decay), scaled, rate, optax.trace(momentum))


def adamw(
    schedule: optax.ScalarOrSchedule,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.05,
    clip: float | None = None,
) -> optax.GradientTransformation:
    """AdamW (Loshchilov & Hutter 2017, arXiv 1711.05101); the decay is no part of the gradient, but scaled by the rate.

    Args:
      schedule: learning rate, or from a step to it.
      b1, b2, eps: of the moments.
      weight_decay: DeiT's .05 by default.
      clip: largest norm of the whole gradient; None leaves it.
    """
    return optax.chain(*_clipped(clip), optax.adamw(schedule, b1, b2, eps, weight_decay=weight_decay, mask=kernels))


def kernels(params: Any) -> Any:
    """Which parameters weight decay is for: True for arrays of two axes and more but those named below.

    Biases of attention have an axis of heads, and tokens, positions and their tables are no kernels either.
    """

    def one(path: tuple[Any, ...], leaf: Any) -> bool:
        return leaf.ndim > 1 and not str(getattr(path[-1], "key", "")).endswith(NO_KERNELS)

    return jax.tree_util.tree_map_with_path(one, params)


def _clipped(norm: float | None) -> list[optax.GradientTransformation]:
    return [] if norm is None else [optax.clip_by_global_norm(norm)]


def _decayed(weight_decay: float) -> list[optax.GradientTransformation]:
    return [optax.add_decayed_weights(weight_decay, mask=kernels)] if weight_decay else []
