"""What can be bounded. A resource is one file here with `resource(network) -> Cost | None`, found by itself."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Mapping
from importlib import import_module
from types import ModuleType

from dms_jax.budgets.amounts import Given, amount
from dms_jax.budgets.measured import Measured
from dms_jax.budgets.own import Resource
from dms_jax.budgets.resource import Cost, Network, Sized


def modules() -> dict[str, ModuleType]:
    """{name: module} of every resource in this folder."""
    found = {info.name: import_module(f"{__name__}.{info.name}") for info in pkgutil.iter_modules(__path__)}
    return {name: module for name, module in sorted(found.items()) if callable(getattr(module, "resource", None))}


def usual() -> dict[str, Callable[[Network], Cost | None]]:
    """Those of `makers` that every space has; one with `always = False` is slow, and made when it is asked for."""
    return {name: maker for name, maker in makers().items() if getattr(maker, "always", True)}


def makers() -> dict[str, Callable[[Network], Cost | None]]:
    """{name: maker} of every resource in this folder.

    A maker gives None for a network that has nothing of the kind. One that is an instance of a dataclass has options:
    its fields, "help" in the metadata of each, and "default" where that says more than the value.
    """
    return {name: module.resource for name, module in modules().items()}


def check(budget: Mapping[str, Given]) -> None:
    """Refuse amounts of resources that say their `unit` before they are made: those that take long to measure.

    Args:
      budget: as a search takes it.

    Raises:
      UserError: no positive number, or a unit that the resource does not have.
    """
    known = makers()
    for name, given in budget.items():
        unit = getattr(known.get(name), "unit", None)
        if unit is not None:
            amount(name, given, unit)


__all__ = ["Cost", "Measured", "Network", "Resource", "Sized", "check", "makers", "modules", "usual"]
