"""Networks of the zoo with the input that they are for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dms_jax import models
from dms_jax.space import SearchSpace


@dataclass(frozen=True, eq=False)
class Network:
    """One network on one input.

    Attributes:
      title: in tables.
      name, arguments: for `dms_jax.models.create`.
      shape: of an input without the batch: of a picture, or of a text, which has one axis.
    """

    title: str
    name: str
    arguments: Mapping[str, Any]
    shape: tuple[int, ...]

    @property
    def language(self) -> bool:
        """Whether it reads tokens."""
        return len(self.shape) == 1

    @property
    def example(self) -> jax.ShapeDtypeStruct:
        """One input."""
        return jax.ShapeDtypeStruct((1, *self.shape), jnp.int32 if self.language else jnp.float32)

    def made(self) -> Any:
        """The model."""
        return models.create(self.name, **self.arguments)

    def space(self) -> SearchSpace:
        """Its search space."""
        return SearchSpace.from_model(self.made(), self.example)

    def new(self, seed: int) -> dict[str, Any]:
        """Random variables."""
        return new(self.made(), self.example, seed=seed)


def new(model: nn.Module, *example: Any, seed: int) -> dict[str, Any]:
    """Random variables of a model."""
    inputs = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), example)
    variables = jax.jit(model.init)(jax.random.key(seed), *inputs)
    return {name: tree for name, tree in variables.items() if name != "masks"}
