"""Learning from a teacher: the larger network, kept as it was."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from dms_jax.errors import UserError, one_line

TEACHER = "teacher_logits"


@dataclass(frozen=True)
class Distillation:
    """How much a teacher counts.

        kl:    (1 - weight) task + weight KL(teacher || student)
        dist:  task + beta inter + gamma intra

    Attributes:
      weight: of the divergence, in [0, 1]; the task loss has the rest. Of kind "kl" alone.
      temperature: T > 0; softer distributions show more of what the teacher thinks of wrong answers.
      kind: "kl" compares the distributions, "dist" their correlations (Huang et al. 2022, arXiv 2205.10536), which a
        teacher far better than its student suits better.
      beta, gamma: of the correlations between classes and within them, >= 0. Of kind "dist" alone.

    Raises:
      UserError: values outside these ranges, or of the other kind.
    """

    weight: float = 0.5
    temperature: float = 1.0
    kind: Literal["kl", "dist"] = "kl"
    beta: float = 1.0
    gamma: float = 1.0

    def __post_init__(self):
        if not (0 <= self.weight <= 1 and self.temperature > 0):
            raise UserError(
                f"distillation with weight {self.weight} and temperature {self.temperature} is not possible; give a "
                "weight in [0, 1] and a temperature above 0"
            )
        if self.kind not in ("kl", "dist"):
            raise UserError(f"distillation of kind {self.kind!r} is not known; take kl or dist")
        if not (self.beta >= 0 and self.gamma >= 0):
            raise UserError(f"distillation with beta {self.beta} and gamma {self.gamma}: both have to be at least 0")
        idle = {"kl": (self.beta, self.gamma) != (1.0, 1.0), "dist": self.weight != 0.5}
        if idle[self.kind]:
            raise UserError("distillation has a weight (kl) or beta and gamma (dist); give those of its kind alone")

    def mix(self, task: jax.Array, logits: jax.Array, teacher: jax.Array) -> jax.Array:
        """The loss, float32 `[]`, of a task loss and logits `[..., V]` of student and teacher, of the same shape.

        No gradient goes to the teacher.

        Raises:
          UserError: the two tell different numbers of classes apart.
        """
        if logits.shape[-1] != teacher.shape[-1]:
            raise UserError(
                f"the teacher tells {teacher.shape[-1]} classes apart and the student {logits.shape[-1]}; take a "
                "teacher of the same classes"
            )
        teacher = jax.lax.stop_gradient(teacher)
        if self.kind == "dist":
            inter, intra = correlation_losses(teacher, logits, self.temperature)
            return task + self.beta * inter + self.gamma * intra
        divergence = jnp.mean(forward_kl(teacher, logits, self.temperature))
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


def image_teacher(
    model: nn.Module, variables: Any, *, resolution: int, classes: int, name: str = "the teacher"
) -> Callable[[Any, Mapping[str, jax.Array]], jax.Array]:
    """A classifier as `taught` takes it, at a resolution of its own: `(variables, batch) -> logits [B, classes]`.

    Args:
      model: called as `model(images, train=False)`.
      variables: its; only their shapes are looked at.
      resolution: pixels of a side that it takes; images that are larger are made smaller on the device.
      classes: that the student tells apart.
      name: of the teacher, for messages.

    Raises:
      UserError: it does not take such images, or tells another number of classes apart. (From the function, when
        traced: images smaller than `resolution`.)
    """

    def teach(variables: Any, batch: Mapping[str, jax.Array]) -> jax.Array:
        return model.apply(variables, at_resolution(batch["image"], resolution), train=False)  # type: ignore[return-value]

    example = {"image": jax.ShapeDtypeStruct((1, resolution, resolution, 3), jnp.float32)}
    try:
        logits = jax.eval_shape(teach, variables, example)
    except Exception as error:  # whatever a network raises that cannot take them
        raise UserError(f"{name} cannot teach at {resolution} px: {one_line(error)[:300]}") from error
    if logits.shape != (1, classes):
        raise UserError(
            f"{name} tells {logits.shape[-1]} classes apart and the student {classes}; take a teacher of the same "
            "classes"
        )
    return teach


def at_resolution(images: jax.Array, size: int) -> jax.Array:
    """Images `[B, R, R, C]` made smaller: `[B, size, size, C]`, bilinear and antialiased, same dtype.

    So a batch serves two networks of different resolutions: it comes at the larger one. Images of that size already
    are returned as they are.

    Raises:
      UserError: `size` is above R, or images are not square.
    """
    batch, height, width, channels = images.shape
    if height != width or height < size:
        raise UserError(
            f"images of {height} x {width} cannot be made {size} x {size}: load them square, at the larger of the "
            "resolutions of student and teacher"
        )
    if height == size:
        return images
    return jax.image.resize(images, (batch, size, size, channels), "bilinear", antialias=True)


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


def correlation_losses(teacher: jax.Array, student: jax.Array, temperature: float = 1.0) -> tuple[jax.Array, jax.Array]:
    """The two losses of DIST (Huang et al. 2022, arXiv 2205.10536), times T^2.

        inter = T^2 (1 - mean over rows of  r(p_b, q_b)),    intra = T^2 (1 - mean over classes of  r(p_v, q_v))

    with p = softmax(teacher / T), q = softmax(student / T) and r Pearson's correlation: of two rows over all classes,
    and of two classes over all rows. Rows are the examples of the batch, or all tokens of it.

    Args:
      teacher, student: logits `[..., V]`, any float dtype; computed in float32.
      temperature: T > 0.

    Returns:
      inter and intra, each `[]` float32 in [0, 2 T^2].
    """
    p, q = (
        jax.nn.softmax(logits.astype(jnp.float32).reshape(-1, logits.shape[-1]) / temperature, axis=-1)
        for logits in (teacher, student)
    )
    inter, intra = (temperature**2 * (1 - jnp.mean(_correlation(p, q, axis))) for axis in (1, 0))
    return inter, intra


def _correlation(a: jax.Array, b: jax.Array, axis: int) -> jax.Array:
    a, b = (x - jnp.mean(x, axis=axis, keepdims=True) for x in (a, b))
    # A class that gets the same share everywhere (0, say) has no correlation; the bound also keeps its gradient finite.
    scale = [jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=axis), 1e-16)) for x in (a, b)]
    return jnp.sum(a * b, axis=axis) * scale[0] * scale[1]
