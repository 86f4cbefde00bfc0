"""Learning from a teacher: the larger network, kept as it was."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from dms_jax.errors import UserError

TEACHER = "teacher_logits"


@dataclass(frozen=True)
class Distillation:
    """How much a teacher counts.

    Attributes:
      weight: of the divergence, in [0, 1]; the task loss has the rest.
      temperature: T > 0; softer distributions show more of what the teacher thinks of wrong answers.

    Raises:
      UserError: values outside these ranges.
    """

    weight: float = 0.5
    temperature: float = 1.0

    def __post_init__(self):
        if not (0 <= self.weight <= 1 and self.temperature > 0):
            raise UserError(
                f"distillation with weight {self.weight} and temperature {self.temperature} is not possible; give a "
                "weight in [0, 1] and a temperature above 0"
            )

    def mix(self, task: jax.Array, logits: jax.Array, teacher: jax.Array) -> jax.Array:
        """(1 - weight) task + weight mean KL(teacher || student), float32; logits `[..., V]`."""
        divergence = jnp.mean(forward_kl(jax.lax.stop_gradient(teacher), logits, self.temperature))
        return (1 - self.weight) * task + self.weight * divergence


def taught(
    batches: Callable[[int], dict[str, jax.Array]],
    teach: Callable[[Any, dict[str, jax.Array]], jax.Array],
    variables: Any,
) -> Callable[[int], dict[str, jax.Array]]:
    """Add a teacher's logits to every batch, as "teacher_logits".

    The teacher runs as a program of its own, so that its variables are arguments and not constants of the step.

    Args:
      batches: from a step to its batch, on the devices.
      teach: `(variables, batch) -> logits`, of inference.
      variables: the teacher's.
    """
    run = jax.jit(teach)

    def batch(step: int) -> dict[str, jax.Array]:
        plain = batches(step)
        return {**plain, TEACHER: run(variables, plain)}

    return batch


def forward_kl(teacher: jax.Array, student: jax.Array, temperature: float = 1.0) -> jax.Array:
    """KL(teacher || student) of softened distributions, times T^2 (Hinton et al. 2015, arXiv 1503.02531).

        T^2 sum_v p_v (log p_v - log q_v),  p = softmax(teacher / T), q = softmax(student / T)

    Args:
      teacher, student: logits `[..., V]`, any float dtype; computed in float32.
      temperature: T > 0. The factor T^2 keeps the size of the gradient.

    Returns:
      `[...]` float32, >= 0.
    """
    p = jax.nn.log_softmax(teacher.astype(jnp.float32) / temperature, axis=-1)
    q = jax.nn.log_softmax(student.astype(jnp.float32) / temperature, axis=-1)
    return temperature**2 * jnp.sum(jnp.exp(p) * (p - q), axis=-1)
