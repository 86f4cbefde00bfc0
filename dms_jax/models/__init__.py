"""The model zoo: plain Flax Linen, one file a family; no cost, slicing or search code in it."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from typing import Any

from dms_jax.elements import Searchable
from dms_jax.errors import UserError
from dms_jax.models import efficientnet, llama, mobilenet, resnet, swin, vit, yolov8
from dms_jax.reading import shown

FAMILIES = (resnet, mobilenet, efficientnet, vit, swin, llama, yolov8)
MODELS: dict[str, Callable[..., Searchable]] = {
    name: make for family in FAMILIES for name, make in family.MODELS.items()
}


def create(name: str, **arguments: Any) -> Searchable:
    """Make a model of the zoo.

    Args:
      name: one of `MODELS`, such as "resnet50".
      **arguments: what the family takes: `num_classes`, `dtype` (compute dtype; parameters are float32), ...

    Raises:
      UserError: an unknown name or argument.
    """
    if not isinstance(name, str) or name not in MODELS:
        nearest = ", ".join(get_close_matches(str(name), MODELS, n=6, cutoff=0.0))
        raise UserError(f"unknown model {shown(name)}; the nearest of {len(MODELS)} are {nearest}")
    try:
        return MODELS[name](**arguments)
    except TypeError as error:
        raise UserError(f"model {name!r} cannot be made with {sorted(arguments)}: {error}") from None
