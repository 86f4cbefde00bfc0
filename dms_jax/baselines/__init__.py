"""What stands beside the method: other strategies, other measures, and structures without a search.

A file here with a `Strategy` is a strategy of the command line, by the name of the file; a function of `Evidence`, or
an `Importance`, in a file here is a measure, by its own name. `uniform`, `threshold`, `knapsack` and `random` make a
structure without a search. All strategies have the same loss, balance, multiplier, target and final projection,
and those with ratios the same slack.
"""

from __future__ import annotations

import inspect
import pkgutil
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

from dms_jax.baselines.knapsack import knapsack
from dms_jax.baselines.structures import random, threshold, uniform
from dms_jax.errors import UserError
from dms_jax.method import dms, importance
from dms_jax.method.importance import Importance
from dms_jax.method.strategy import Strategy


@cache
def strategies() -> dict[str, type[Strategy]]:
    """The names of `--strategy`: the method, and one a file."""
    found: dict[str, type[Strategy]] = {}
    for module in (dms, *_files()):
        for value in vars(module).values():
            if isinstance(value, type) and issubclass(value, Strategy) and value.__module__ == module.__name__:
                name = module.__name__.rpartition(".")[2]
                if name in found:
                    raise TypeError(f"{module.__name__} has two strategies; give each a file of its own")
                found[name] = value
    return found


@cache
def importances() -> dict[str, Importance]:
    """The names of `--importance`."""
    found: dict[str, Importance] = {}
    for module in (importance, *_files()):
        for name, value in vars(module).items():
            if isinstance(value, Importance):
                found[name] = value
            elif inspect.isfunction(value) and value.__module__ == module.__name__ and _takes_evidence(value):
                found[name] = Importance(value)
    return found


def create(name: str, **knobs: Any) -> Strategy:
    """A strategy by its name.

    Args:
      name: one of `strategies()`.
      **knobs: its rate, schedule and so on, as `Strategy` has them; None is the strategy's own.

    Raises:
      UserError: no such strategy, or knobs that it cannot have.
    """
    if name not in strategies():
        raise UserError(f"unknown strategy {name!r}; there are {', '.join(strategies())}")
    return strategies()[name](**{knob: value for knob, value in knobs.items() if value is not None})


def _files() -> list[ModuleType]:
    return [import_module(f"{__name__}.{file.name}") for file in pkgutil.iter_modules(__path__)]


def _takes_evidence(function: Any) -> bool:
    parameters = list(inspect.signature(function).parameters.values())
    return len(parameters) == 1 and parameters[0].annotation in ("Evidence", importance.Evidence)


__all__ = ["create", "importances", "knapsack", "random", "strategies", "threshold", "uniform"]
