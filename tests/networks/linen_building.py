"""A Linen module -> a network of the catalogue."""

from typing import Any

import flax.linen as nn
import jax

from dms_jax.adapters import linen as adapter
from tests.networks.network import Network, from_source, relaxed


def build(name: str, model: nn.Module, *inputs: Any, train: dict[str, Any] | None = None) -> Network:
    """Return the network of `model`, which trains with the keywords `train` if there are any."""
    off: dict[str, Any] = {key: not value for key, value in (train or {}).items()}
    shapes: Any = relaxed(jax.eval_shape)(lambda key: model.init(key, *inputs, **off), jax.random.key(0))

    def training(params: Any, *inputs: Any, key: Any) -> Any:
        state = [name for name in params if name != "params"]
        return model.apply(params, *inputs, **(train or {}), rngs={"dropout": key}, mutable=state)

    source = adapter.source(model, shapes, *inputs)
    return from_source(f"linen_{name}", "linen", source, inputs, training if train else None)
