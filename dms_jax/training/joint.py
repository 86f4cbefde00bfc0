"""One loss of several nested networks, which share their weights: what trains a `Family` together.

Of every step the largest network and the smallest learn, and one drawn of those between (the sandwich rule of Yu and
Huang 2019, arXiv 1903.05134); where there is only one between, always that one. The largest learns from the data, and
teaches the others with its own answers, without a program or a batch of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import optax

from dms_jax.errors import UserError
from dms_jax.family import Family
from dms_jax.method.loss import Loss, joined, outcome
from dms_jax.partition import merged
from dms_jax.training.distillation import TEACHER, Distillation

Answers: TypeAlias = Callable[[Any, Any, jax.Array], jax.Array]

DRAW = 0x517E  # folded into the key: which network is drawn is nothing of the loss's own randomness


@dataclass(frozen=True, eq=False)
class Lessons:
    """How the largest network teaches the others.

    Attributes:
      answers: `(params, batch, key) -> logits [..., V]`, of the full network's parameters, as in training. Where the
        loss computes the same, XLA computes it once.
      learn: `(params, batch, logits, key)` -> what a loss returns: the loss of a smaller network, with those logits.
    """

    answers: Answers
    learn: Callable[[Any, Any, jax.Array, jax.Array], Any]

    @staticmethod
    def in_batch(answers: Answers, loss: Loss) -> Lessons:
        """For a loss that reads `batch["teacher_logits"]`, such as `language_loss` and `classification_loss`."""
        return Lessons(answers, lambda params, batch, logits, key: loss(params, {**batch, TEACHER: logits}, key))

    @staticmethod
    def mixed(answers: Answers, loss: Loss, distillation: Distillation) -> Lessons:
        """For any loss: mixed with the divergence of a smaller network's answers from the largest one's."""

        def learn(params: Any, batch: Any, logits: jax.Array, key: jax.Array) -> Any:
            value, (state, metrics) = outcome(loss)(params, batch, key)
            own = answers(params, batch, key)
            if jnp.shape(own) != jnp.shape(logits):
                raise UserError(f"`teach` returns {list(jnp.shape(own))}, and of the largest {list(jnp.shape(logits))}")
            return distillation.mix(value, own, logits), {"state": state, "metrics": metrics}

        return Lessons(answers, learn)


def joint_loss(family: Family, loss: Loss, lessons: Lessons | None = None) -> Loss:
    """The mean loss of the largest network, the smallest, and one drawn of those between.

        L(W) = mean over i in {1, k, n} of L_i(W[i]),     k drawn uniformly in 2 ... n - 1

    with W[i] the slices of network i: every weight gets the sum of the gradients of those that have it.

    Args:
      family: n networks; their parameters are as `family.init` makes them.
      loss: of the full network; it is run at every size.
      lessons: None: every network learns from the data alone.

    Returns:
      A loss of the parameters of all sizes, for `supervised.make_step` with `family.trained(params)`, or any other
      training. One program has every network once. Its metrics are those of the largest network, and "loss_largest"
      and "loss_smallest"; its state is that of the networks of the step.
    """
    space, structures = family.space, list(family.structures.values())
    first = outcome(space.shrunk(loss, structures[0]))
    answers = None if lessons is None else space.shrunk(lessons.answers, structures[0])
    learn = [_learning(space.shrunk(loss if lessons is None else lessons.learn, s), lessons) for s in structures[1:]]

    def smaller(number: int, params: Any, batch: Any, logits: Any, key: jax.Array) -> tuple[jax.Array, Any]:
        small = family.params(params, family.sizes[number])
        value, (changed, _) = learn[number - 1](small, (batch, logits), key)
        return value, merged(params["own"][number], changed)

    def run(params: Any, batch: Any, key: jax.Array) -> Any:
        large = family.params(params, family.sizes[0])
        value, (changed, metrics) = first(large, batch, key)
        own = {0: merged(params["own"][0], changed)}
        if len(structures) == 1:
            return value, {"state": {"own": (own[0],)}, "metrics": metrics}
        logits = None if answers is None else jax.lax.stop_gradient(answers(large, batch, key))
        values = [value]
        last, own[len(learn)] = smaller(len(learn), params, batch, logits, key)
        values.append(last)
        between = range(1, len(learn))
        if between:
            middle, new = _drawn(smaller, between, params, batch, logits, key)
            values.append(middle)
            own |= dict(zip(between, new, strict=True))
        more = {"loss_largest": value, "loss_smallest": last}
        state = {"own": tuple(own[i] for i in range(len(structures)))}
        return sum(values) / len(values), {"state": state, "metrics": joined(metrics, more)}

    return run


def of_weights(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """An optimizer of the largest network's parameters as one of those of all sizes.

    It sees the tree that it sees when one network is trained: what it tells apart by paths or by a tree of labels
    (`optax.masked`, `optax.multi_transform`) stays the same.
    """
    inner = optax.with_extra_args_support(optimizer)

    def update(updates: Any, state: Any, params: Any = None, **more: Any) -> tuple[Any, Any]:
        changed, state = inner.update(updates["weights"], state, None if params is None else params["weights"], **more)
        return {**updates, "weights": changed}, state

    return optax.GradientTransformationExtraArgs(lambda params: inner.init(params["weights"]), update)


def _learning(small: Any, lessons: Lessons | None) -> Any:
    """A smaller network's loss, of `(params, (batch, logits), key)`."""
    if lessons is None:
        return outcome(lambda params, batch, key: small(params, batch[0], key))
    return outcome(lambda params, batch, key: small(params, *batch, key))


def _drawn(
    smaller: Callable[..., Any], between: range, params: Any, batch: Any, logits: Any, key: jax.Array
) -> tuple[jax.Array, tuple[Any, ...]]:
    """The loss of one network between the largest and the smallest, and what is not trained of all of those."""
    own = tuple(params["own"][i] for i in between)

    def of(number: int) -> Callable[..., Any]:
        def branch(params: Any, batch: Any, logits: Any, key: jax.Array) -> Any:
            value, new = smaller(number, params, batch, logits, key)
            kept = tuple(params["own"][i] for i in between)
            return value, tuple(new if i == number else old for i, old in zip(between, kept, strict=True))

        return branch

    if len(own) == 1:
        return of(between[0])(params, batch, logits, key)
    chosen = jax.random.randint(jax.random.fold_in(key, DRAW), (), 0, len(own))
    return jax.lax.switch(chosen, [of(i) for i in between], params, batch, logits, key)
