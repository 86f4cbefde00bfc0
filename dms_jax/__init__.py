"""Differentiable Model Scaling (DMS) in JAX: fit the width and depth of a network to a budget.

The method is `topk` and `method`; `baselines` stands beside it. A `SearchSpace` reads a network's groups, costs and
slices off its traced program (a Linen module may name its groups: `Searchable`); a `Search` finds a `Structure`;
`shrink` makes the smaller network's parameters. Names are loaded when they are first used: `dms_jax.topk` needs JAX
alone.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dms_jax import baselines, budgets, layers, method, models, topk
    from dms_jax.budgets.own import Resource
    from dms_jax.elements import Elements, Searchable
    from dms_jax.errors import TracingError, UserError
    from dms_jax.family import Family
    from dms_jax.fit import Task, fit
    from dms_jax.fitted import Fitted
    from dms_jax.groups import Group
    from dms_jax.method.importance import Importance
    from dms_jax.method.limits import Limits
    from dms_jax.method.schedule import Schedule
    from dms_jax.method.search import Search
    from dms_jax.method.state import SearchState
    from dms_jax.program.marks import name
    from dms_jax.program.operations import register_operation
    from dms_jax.saved import load
    from dms_jax.shrink import shrink, verify
    from dms_jax.space import SearchSpace
    from dms_jax.structure import Structure

__all__ = [
    "Elements",
    "Family",
    "Fitted",
    "Group",
    "Importance",
    "Limits",
    "Resource",
    "Schedule",
    "Search",
    "SearchSpace",
    "SearchState",
    "Searchable",
    "Structure",
    "Task",
    "TracingError",
    "UserError",
    "baselines",
    "budgets",
    "fit",
    "layers",
    "load",
    "method",
    "models",
    "name",
    "register_operation",
    "shrink",
    "topk",
    "verify",
]

_WHERE = {
    "Elements": "elements",
    "Family": "family",
    "Group": "groups",
    "Importance": "method.importance",
    "Limits": "method.limits",
    "Resource": "budgets.own",
    "Schedule": "method.schedule",
    "Search": "method.search",
    "SearchSpace": "space",
    "name": "program.marks",
    "register_operation": "program.operations",
    "SearchState": "method.state",
    "Searchable": "elements",
    "Structure": "structure",
    "TracingError": "errors",
    "UserError": "errors",
    "Fitted": "fitted",
    "Task": "fit",
    "fit": "fit",
    "load": "saved",
    "shrink": "shrink",
    "verify": "shrink",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'dms_jax' has no attribute {name!r}")
    if name not in _WHERE:
        return import_module(f"dms_jax.{name}")
    found = getattr(import_module(f"dms_jax.{_WHERE[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    def __setattr__(self, name: str, value: Any) -> None:
        # whoever imports `dms_jax.shrink` has Python put the module here: the function of its name goes before
        super().__setattr__(name, getattr(value, name) if name in _WHERE and isinstance(value, ModuleType) else value)


sys.modules[__name__].__class__ = _Package
