"""Differentiable model scaling in JAX: fit the width and depth of a network to a budget.

The method is `topk`, `importance`, `resources` and `search`. A model declares its element groups (`Searchable`,
`Elements`); a `SearchSpace` reads everything else off its traced program; a `Search` finds a `Structure`; `shrink`
makes the smaller network's variables.
"""

from typing import TYPE_CHECKING, Any

from dms_jax import importance, layers, models, resources, strategies, topk
from dms_jax.elements import Elements, Searchable
from dms_jax.errors import TracingError, UserError
from dms_jax.groups import Group
from dms_jax.projection import Limits
from dms_jax.search import Schedule, Search, SearchState
from dms_jax.shrink import shrink, verify
from dms_jax.space import SearchSpace
from dms_jax.structure import Structure

if TYPE_CHECKING:
    from dms_jax.training.runs import load

__all__ = [
    "Elements",
    "Group",
    "Limits",
    "Schedule",
    "Search",
    "SearchSpace",
    "SearchState",
    "Searchable",
    "Structure",
    "TracingError",
    "UserError",
    "importance",
    "layers",
    "load",
    "models",
    "resources",
    "shrink",
    "strategies",
    "topk",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name == "load":  # reads checkpoints: Orbax is imported only by those who load
        from dms_jax.training.runs import load

        return load
    raise AttributeError(f"module 'dms_jax' has no attribute {name!r}")
