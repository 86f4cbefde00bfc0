"""A strategy whose parameters another optimizer moves: plain gradient descent shows what the gradient is."""

import dataclasses
from typing import Any

import optax

from dms_jax.method.dms import DMS
from dms_jax.method.strategy import Strategy


def moved_by(optimizer: optax.GradientTransformation, strategy: Strategy | None = None) -> Strategy:
    """The same strategy with this optimizer."""

    strategy = strategy or DMS()

    base: Any = type(strategy)

    class Moved(base):
        def optimizer(self, layout, steps):
            return optimizer

    return Moved(**{field.name: getattr(strategy, field.name) for field in dataclasses.fields(strategy)})
