"""Plain training and evaluation of a classifier: what a search is preceded and followed by."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax

from dms_jax.search import Loss


@flax.struct.dataclass
class TrainState:
    """Parameters, the model's other collections (batch_stats), the optimiser's state, and steps done (int32)."""

    step: jax.Array
    params: Any
    model_state: dict[str, Any]
    opt_state: Any

    @property
    def variables(self) -> dict[str, Any]:
        """The model's variables."""
        return {"params": self.params, **self.model_state}


def init(variables: Mapping[str, Any], optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables["params"],
        model_state={name: tree for name, tree in variables.items() if name not in ("params", "masks")},
        opt_state=optimizer.init(variables["params"]),
    )


def make_step(loss: Loss, optimizer: optax.GradientTransformation) -> Callable[..., tuple[TrainState, dict[str, Any]]]:
    """A plain training step `(state, batch, key) -> (state, metrics)`, to be jitted with `donate_argnums=0`.

    Args:
      loss: as `dms_jax.Search` takes it, so that both train alike.
      optimizer: for the parameters.
    """

    def step(state: TrainState, batch: Any, key: jax.Array) -> tuple[TrainState, dict[str, Any]]:
        def task(params: Any):
            return loss({"params": params, **state.model_state}, batch, key)

        (value, (changed, metrics)), gradient = jax.value_and_grad(task, has_aux=True)(state.params)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        new = TrainState(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            model_state={**state.model_state, **changed},
            opt_state=opt_state,
        )
        return new, {**metrics, "loss": value}

    return step


def classification_loss(model: nn.Module, *, label_smoothing: float = 0.0) -> Loss:
    """Mean cross-entropy of `model(batch["image"], train=True)` against `batch["label"]` (int, `[B]`).

    BatchNorm statistics are updated; the metric "accuracy" is that of the training batch.
    """

    def loss(variables: dict[str, Any], batch: Mapping[str, jax.Array], key: jax.Array):
        logits, changed = model.apply(
            variables, batch["image"], train=True, mutable=["batch_stats"], rngs={"dropout": key}
        )
        labels = jax.nn.one_hot(batch["label"], logits.shape[-1])
        labels = optax.smooth_labels(labels, label_smoothing) if label_smoothing else labels
        accuracy = jnp.mean(jnp.argmax(logits, axis=-1) == batch["label"])
        return jnp.mean(optax.softmax_cross_entropy(logits, labels)), (dict(changed), {"accuracy": accuracy})

    return loss


class Accuracy(NamedTuple):
    """A share of right answers, and its standard error sqrt(p (1 - p) / n)."""

    value: float
    stderr: float


def accuracy(model: nn.Module, variables: Any, batches: Iterable[Mapping[str, Any]]) -> Accuracy:
    """Top-1 accuracy over batches of {"image": [B, ...], "label": [B]}, every image counted once.

    Raises:
      ValueError: there are no images.
    """

    @jax.jit
    def right(variables: Any, batch: Mapping[str, jax.Array]) -> jax.Array:
        logits: Any = model.apply(variables, batch["image"], train=False)
        return jnp.sum(jnp.argmax(logits, axis=-1) == batch["label"])

    counts = [(right(variables, batch), len(batch["label"])) for batch in batches]
    total = sum(n for _, n in counts)
    if not total:
        raise ValueError("the accuracy over no images is not a number; give at least one batch")
    share = sum(int(count) for count, _ in counts) / total
    return Accuracy(share, math.sqrt(share * (1 - share) / total))
