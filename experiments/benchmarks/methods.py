"""What is compared, by the names that tables give: strategies that search, rules that do not, the full network."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from dms_jax import baselines
from dms_jax.method.dms import DMS
from experiments.benchmarks.contest import CONTROL, Settings

Method = Callable[[float], Settings]
"""Settings at a fraction of the MACs."""
Methods = Mapping[str, Method]
"""By label."""

OURS = DMS.title
SEARCHED = {strategy.title: name for name, strategy in baselines.strategies().items()}
RULES = {
    "uniform": "uniform",
    "uniform, by Taylor": "uniform_taylor",
    "uniform, layers too": "uniform_depth",
    "one Taylor threshold": "threshold",
    "random": "random",
}
"""Names of `experiments.benchmarks.selection` by label."""


def at(settings: Settings, budget: float) -> Settings:
    """The same settings at another budget: one rule for all."""
    return dataclasses.replace(settings, budget=budget)


def own(name: str) -> dict[str, Any]:
    """How the parameters of a strategy move where nobody says otherwise."""
    strategy = baselines.create(name)
    return {"rate": strategy.rate, "ratio_schedule": strategy.schedule, "ratio_together": strategy.together}


def rules(labels: Sequence[str], steps: int, retrain: str = "sliced") -> Methods:
    """Structures without a search."""

    def method(name: str, budget: float) -> Settings:
        return Settings(name, budget, steps, retrain=retrain)

    return {label: partial(method, RULES[label]) for label in labels}


def unpruned(steps: int, retrain: str = "sliced") -> Methods:
    """The full network, whatever the budget."""
    label = "unpruned, trained on" if steps else "unpruned"
    return {label: lambda budget: Settings(CONTROL, 1.0, steps, retrain=retrain)}
