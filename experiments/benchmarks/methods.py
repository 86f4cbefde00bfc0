"""What is compared, by the names that tables give: strategies that search, rules that do not, the full network."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from dms_jax import baselines
from dms_jax.method.dms import DMS
from experiments.benchmarks.settings import CONTROL, Settings

Method = Callable[[float], Settings]
"""Settings at a fraction of the MACs."""
Methods = Mapping[str, Method]
"""By label."""

OURS = DMS.title
NEWER = {baselines.strategies()[name].title: name for name in ("hard_concrete", "soft_l0", "lapsum")}
"""Strategies that came later: `frontier` and the digits alone have rows of theirs."""
SEARCHED = {each.title: name for name, each in baselines.strategies().items() if each.title not in NEWER}
FREE = f"{OURS}, no slack"
"""Its ratios move as they like: nothing but the loss holds the target."""
PAPER = f"{OURS}, the paper's setting"
PAPER_SETTING = {"weight": 1.0, "start_open": False, "ratio_schedule": "constant", "ratio_together": 0.0}
"""Of the paper: the plain loss with a fixed weight, ratios that start at 0, each by itself, at a constant rate."""
RULES = {
    "uniform": "uniform",
    "uniform, by Taylor": "uniform_taylor",
    "uniform, layers too": "uniform_depth",
    "one Taylor threshold": "threshold",
    "knapsack of Taylor importance": "knapsack",
    "random": "random",
    "evolution": "evolution",
}
"""Names of the rules of `experiments.benchmarks.baselines` by label."""


def at(settings: Settings, budget: float) -> Settings:
    """The same settings at another budget: one rule for all."""
    return dataclasses.replace(settings, budget=budget)


def own(name: str) -> dict[str, Any]:
    """How the parameters of a strategy move where nobody says otherwise."""
    strategy = baselines.create(name)
    return {"rate": strategy.rate, "ratio_schedule": strategy.schedule, "ratio_together": strategy.together}


def changed(methods: Methods, label: str, **changes: Any) -> Methods:
    """Methods with other settings, under labels with something added."""

    def method(method: Method, budget: float) -> Settings:
        return dataclasses.replace(method(budget), **changes)

    return {f"{name}{label}": partial(method, made) for name, made in methods.items()}


def slackened(methods: Methods) -> Methods:
    """Methods with ours first as users get it, with the slack around its target, and then without, as `FREE`.

    How it searches was chosen without.
    """
    method, slack = methods[OURS], baselines.create(SEARCHED[OURS]).slack
    return {**changed({OURS: method}, "", slack=slack), FREE: method, **{n: m for n, m in methods.items() if n != OURS}}


def rules(labels: Sequence[str], steps: int, retrain: str = "sliced") -> Methods:
    """Structures without a search."""
    return {label: partial(at, Settings(RULES[label], 1.0, steps, retrain=retrain)) for label in labels}


def unpruned(steps: int, retrain: str = "sliced") -> Methods:
    """The full network, whatever the budget."""
    label = "unpruned, trained on" if steps else "unpruned"
    return {label: lambda budget: Settings(CONTROL, 1.0, steps, retrain=retrain)}
