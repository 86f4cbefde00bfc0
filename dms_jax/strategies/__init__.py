"""Ways to turn structure parameters and importance into masks; a `Search` takes any of them.

`DMS` is the method; the others are its rivals, under the same loss, balance, multiplier, target and final projection.
`uniform`, `threshold` and `random` make a structure without a search.
"""

from __future__ import annotations

from dms_jax.errors import UserError
from dms_jax.strategies.fixed import random, threshold, uniform
from dms_jax.strategies.layout import Layout
from dms_jax.strategies.ratios import DMS, GradientEstimated, RawDMS
from dms_jax.strategies.selection import MultipleElement, SingleNumber
from dms_jax.strategies.simplex import CappedSimplex, capped_simplex
from dms_jax.strategies.strategy import Context, Decision, Strategy
from dms_jax.strategies.threshold import Iterative, thresholded

STRATEGIES: dict[str, type[Strategy]] = {
    "dms": DMS,
    "dms_raw": RawDMS,
    "multiple": MultipleElement,
    "single": SingleNumber,
    "gradient_estimated": GradientEstimated,
    "capped_simplex": CappedSimplex,
    "iterative": Iterative,
}
"""The names of `--strategy`."""


def create(name: str, rate: float | None = None) -> Strategy:
    """A strategy by its name.

    Args:
      name: one of `STRATEGIES`.
      rate: mean learning rate of Adam on the structure parameters, times the steps after the warm-up; None is the
        strategy's.

    Raises:
      UserError: no such strategy, or a rate that is not above 0.
    """
    if name not in STRATEGIES:
        raise UserError(f"unknown strategy {name!r}; there are {', '.join(STRATEGIES)}")
    if rate is None:
        return STRATEGIES[name]()
    if not 0 < rate < float("inf"):
        raise UserError(f"a rate of {rate} for the structure parameters is not possible; give a number above 0")
    return STRATEGIES[name](rate)


__all__ = [
    "STRATEGIES",
    "CappedSimplex",
    "Context",
    "DMS",
    "Decision",
    "GradientEstimated",
    "Iterative",
    "Layout",
    "MultipleElement",
    "RawDMS",
    "SingleNumber",
    "Strategy",
    "capped_simplex",
    "create",
    "random",
    "threshold",
    "thresholded",
    "uniform",
]
