"""What can be bounded. A resource is one file here with a function `resource(network) -> Resource`, found by itself."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from importlib import import_module

from dms_jax.budgets.resource import Network, Resource


def makers() -> dict[str, Callable[[Network], Resource]]:
    """{name: maker} of every resource in this folder."""
    modules = {info.name: import_module(f"{__name__}.{info.name}") for info in pkgutil.iter_modules(__path__)}
    return {
        name: module.resource for name, module in sorted(modules.items()) if callable(getattr(module, "resource", None))
    }


__all__ = ["Network", "Resource", "makers"]
