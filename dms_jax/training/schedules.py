"""Learning rates over steps: cosine, a line, steps down, exponential, each with a linear warm-up; decay of averages.

All of them count in steps; `steps_of` makes steps of the epochs that recipes are written in.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
import optax

from dms_jax.errors import UserError


def steps_of(epochs: float, examples: int, batch: int) -> int:
    """Steps that see every one of `examples` examples `epochs` times, `batch` a step; rounded up.

    Raises:
      UserError: a negative number of epochs, no examples, or an empty batch.
    """
    if epochs < 0 or examples < 1 or batch < 1:
        raise UserError(f"{epochs} epochs of {examples} examples in batches of {batch} are not possible")
    # epochs such as 2.4 are no binary fractions: a product a hair above a whole number is that number
    return int(-(-round(epochs * examples, 6) // batch))


def cosine(peak: float, steps: int, warmup: int = 0, end: float = 0.0) -> optax.Schedule:
    """Up to `peak` in `warmup` steps, then half a cosine down to `end` at step `steps`.

    Raises:
      UserError: no step is left after the warm-up.
    """
    if not 0 <= warmup < steps:
        raise UserError(f"a schedule of {steps} steps with {warmup} of warm-up: at least one step must follow")
    return _warm(optax.cosine_decay_schedule(peak, steps - warmup, alpha=end / peak), peak, warmup)


def linear(peak: float, steps: int, warmup: int = 0, end: float = 0.0) -> optax.Schedule:
    """Up to `peak` in `warmup` steps, then in a straight line down to `end` at step `steps`.

    Raises:
      UserError: no step is left after the warm-up.
    """
    if not 0 <= warmup < steps:
        raise UserError(f"a schedule of {steps} steps with {warmup} of warm-up: at least one step must follow")
    return _warm(optax.linear_schedule(peak, end, steps - warmup), peak, warmup)


def step(peak: float, drops: Sequence[int], factor: float = 0.1, warmup: int = 0) -> optax.Schedule:
    """Up to `peak` in `warmup` steps, then times `factor` at every one of `drops`, which count from the first step.

    Raises:
      UserError: drops that do not come after the warm-up, in ascending order.
    """
    if list(drops) != sorted(set(drops)) or any(drop <= warmup for drop in drops):
        raise UserError(f"drops at steps {list(drops)} must ascend and come after the {warmup} steps of warm-up")
    late = {drop - warmup: factor for drop in drops}
    return _warm(optax.piecewise_constant_schedule(peak, late), peak, warmup)


def exponential(peak: float, every: float, factor: float = 0.97, warmup: int = 0) -> optax.Schedule:
    """Up to `peak` in `warmup` steps, then times `factor` every `every` steps at once, counted from the first step.

        peak factor^floor(s / every)

    EfficientNets train with .97 every 2.4 epochs: `every=2.4 * examples / batch`, no whole number of steps.
    """
    if every <= 0:
        raise UserError(f"a learning rate that falls every {every} steps is not possible; give a number above 0")

    def late(count):  # from the end of the warm-up
        return peak * factor ** jnp.floor((count + warmup) / every)

    return _warm(late, peak, warmup)


def average_decay(decay: float = 0.9999) -> optax.Schedule:
    """Decay of a moving average that begins quickly: min(decay, (1 + s) / (10 + s)) after s steps.

    Without it an average of .9999 still holds a third of the first, random weights after 10,000 steps.
    """
    return lambda count: jnp.minimum(decay, (1 + count) / (10 + count))


def _warm(late: optax.Schedule, peak: float, warmup: int) -> optax.Schedule:
    if not warmup:
        return late
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), late], [warmup])
