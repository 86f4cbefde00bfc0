"""Plain training, and a classifier's loss and accuracy: what a search is preceded and followed by."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax

from dms_jax.errors import UserError
from dms_jax.method import weights as weights_of
from dms_jax.method.gradients import in_full, value_and_grad
from dms_jax.method.loss import Loss, joined, outcome
from dms_jax.partition import combine, merged, owned, partition, under_params, without_masks
from dms_jax.training.distillation import TEACHER, Distillation, at_resolution


@flax.struct.dataclass
class TrainState:
    """Everything that plain training carries from step to step.

    Attributes:
      step: int32, steps done.
      params: the network's variables, the whole tree.
      opt_state: the optimizer's, over what is trained of them.
      average: moving averages of all of them, float32 where those are of half precision; None where none is kept.
    """

    step: jax.Array
    params: Any
    opt_state: Any
    average: Any = None

    @property
    def averaged(self) -> Any:
        """The moving average of the variables, in their precision; where none is kept, themselves, as they are used."""
        if self.average is None:
            return weights_of.evaluated(self.opt_state, self.params)
        as_one = lambda mean, leaf: mean if mean.dtype == leaf.dtype else mean.astype(leaf.dtype)  # noqa: E731
        return jax.tree.map(as_one, self.average, self.params)


def init(
    params: Any, optimizer: optax.GradientTransformation, *, trained: Any = under_params, average: bool = False
) -> TrainState:
    """The state before the first step, of copies: a step that donates its state leaves `params` alone.

    Args:
      params: the network's variables, the whole tree; "masks" is ignored.
      optimizer: for what is trained of them.
      trained: which leaves are, as `partition` takes it: a tree of booleans, or a function of paths.
      average: begin a moving average from them.
    """
    params = owned(without_masks(params))
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=owned(weights_of.begun(optimizer, partition(params, trained)[0]), params),
        average=jax.tree.map(in_full, owned(params)) if average else None,
    )


def make_step(
    loss: Loss,
    optimizer: optax.GradientTransformation,
    *,
    trained: Any = under_params,
    accumulate: int = 1,
    average: optax.ScalarOrSchedule | None = None,
) -> Callable[..., tuple[TrainState, dict[str, Any]]]:
    """A plain training step `(state, batch, key) -> (state, metrics)`, to be jitted with `donate_argnums=0`.

    Args:
      loss: as `dms_jax.Search` takes it, so that both train alike.
      optimizer: for what is trained.
      trained: which leaves are, as `partition` takes it.
      accumulate: parts that the batch passes in, one after another (see `dms_jax.method.gradients`).
      average: decay d of the moving average, a <- d a + (1 - d) w after every step, or from the steps done to it
        (`schedules.average_decay`); the state has to hold one (`init(..., average=True)`).
    """

    evaluate = outcome(loss)

    def task(weights: Any, rest: Any, batch: Any, key: jax.Array):
        return evaluate(combine(weights, rest), batch, key)

    slope = value_and_grad(task, 0, accumulate)

    def step(state: TrainState, batch: Any, key: jax.Array) -> tuple[TrainState, dict[str, Any]]:
        weights, rest = partition(state.params, trained)
        (value, (changed, metrics)), gradient = slope(weights, rest, batch, key)
        moved, opt_state = weights_of.moved(optimizer, gradient, state.opt_state, weights, value)
        new = state.replace(  # type: ignore[attr-defined]
            step=state.step + 1,
            params=combine(moved, merged(rest, changed)),
            opt_state=opt_state,
        )
        if average is not None:
            decay = average(state.step) if callable(average) else average
            new = new.replace(average=_averaged(state.average, new.params, decay))
        return new, joined(metrics, {"loss": value})

    return step


def _averaged(average: Any, new: Any, decay: Any) -> Any:
    def one(old: jax.Array, leaf: jax.Array) -> jax.Array:
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):  # a count is not averaged
            return leaf
        # in half precision a decay of .999 is 1, and a small step lost; and d a + (1 - d) a is not a, in none
        leaf = leaf.astype(old.dtype)
        return jnp.where(old == leaf, leaf, old + (1 - decay) * (leaf - old)).astype(old.dtype)

    return jax.tree.map(one, average, new)


def classification_loss(
    model: Any,
    distillation: Distillation | None = None,
    *,
    label_smoothing: float = 0.0,
    resolution: int | None = None,
) -> Loss:
    """Mean cross-entropy of `model(batch["image"], train=True)` against the batch's targets.

    The targets are `batch["target"]`, `[B, classes]` float, where there is one (of mixed images), or else
    `batch["label"]`, `[B]` int, smoothed. BatchNorm statistics are updated; the metric "accuracy" is that of the
    training batch against "label". With a teacher the metric "cross_entropy" is the task's part of the loss.

    Args:
      model: a Flax Linen classifier.
      distillation: mix with the divergence from `batch["teacher_logits"]` (see `taught`).
      label_smoothing: share of a label's weight that is spread over all classes; targets are taken as they are.
      resolution: pixels of a side that the model takes, where the batch's images may be larger for a teacher's sake.

    Raises:
      UserError: when traced: targets, or a teacher, of another number of classes than the model's, or images that are
        smaller than `resolution`.
    """

    def loss(params: Any, batch: Mapping[str, jax.Array], key: jax.Array):
        images = batch["image"] if resolution is None else at_resolution(batch["image"], resolution)
        logits, changed = model.apply(params, images, train=True, mutable=["batch_stats"], rngs={"dropout": key})
        target = _target(batch, logits, label_smoothing)
        value = jnp.mean(optax.softmax_cross_entropy(logits, target))
        metrics = {"accuracy": jnp.mean(jnp.argmax(logits, axis=-1) == batch["label"])}
        if distillation is not None:
            metrics["cross_entropy"] = value
            value = distillation.mix(value, logits, batch[TEACHER])
        return value, {"state": dict(changed), "metrics": metrics}

    return loss


def _target(batch: Mapping[str, jax.Array], logits: jax.Array, label_smoothing: float) -> jax.Array:
    classes = logits.shape[-1]
    if "target" in batch:
        if batch["target"].shape[-1] != classes:
            raise UserError(f"targets of {batch['target'].shape[-1]} classes for a network that tells {classes} apart")
        return batch["target"]
    labels = jax.nn.one_hot(batch["label"], classes)
    return optax.smooth_labels(labels, label_smoothing) if label_smoothing else labels


class Accuracy(NamedTuple):
    """A share of right answers and its standard error sqrt(p (1 - p) / n); the share of labels among the first five.

    `top5` is None where there are fewer than ten classes.
    """

    value: float
    stderr: float
    top5: float | None = None


def accuracy(fn: Callable[[Any, Any], Any], params: Any, batches: Iterable[Mapping[str, Any]]) -> Accuracy:
    """Top-1 and top-5 accuracy over batches of {"image": [B, ...], "label": [B]}, every image counted once.

    Batches may be cut over devices and processes (`shard_batch`); all processes then call this, with as many batches.

    Args:
      fn: `(params, images) -> logits [B, classes]`, of inference.
      params: the classifier's.
      batches: a leaf "weight" `[B]` is 1 for images and 0 for padding, which is not counted.

    Raises:
      ValueError: there are no images.
    """

    @jax.jit
    def count(params: Any, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        logits = fn(params, batch["image"])
        labels = batch["label"]
        counted = batch["weight"] > 0 if "weight" in batch else jnp.ones(labels.shape, bool)
        of = {"all": counted, "right": counted & (jnp.argmax(logits, axis=-1) == labels)}
        if logits.shape[-1] >= 10:
            of["top5"] = counted & jnp.any(jax.lax.top_k(logits, 5)[1] == labels[:, None], axis=-1)
        return {name: jnp.sum(rows.astype(jnp.int32)) for name, rows in of.items()}

    add = jax.jit(lambda total, new: jax.tree.map(jnp.add, total, new))
    totals: list[dict[str, jax.Array]] = []
    for batch in batches:
        new = count(params, batch)
        totals = [*totals[-2:], add(totals[-1], new) if totals else new]
        # not the newest, which keeps the devices busy; but no more than three batches lie on them
        jax.block_until_ready(totals[0])
    total = {name: int(number) for name, number in jax.device_get(totals[-1]).items()} if totals else {"all": 0}
    if not total["all"]:
        raise ValueError("the accuracy over no images is not a number; give at least one batch")
    share, n = total["right"] / total["all"], total["all"]
    return Accuracy(share, math.sqrt(share * (1 - share) / n), total["top5"] / n if "top5" in total else None)
