"""Haiku: a transformed function and its parameters."""

import inspect
from collections.abc import Mapping
from typing import Any

import jax

from dms_jax.adapters import training
from dms_jax.adapters.source import Source, differentiable, framework, leaf_paths
from dms_jax.errors import UserError


def source(transformed: Any, params: Any, *inputs: Any, **call: Any) -> Source:
    """Return `transformed.apply` without randomness as a function of parameters, and of state if there is one.

    Args:
        transformed: what `haiku.transform` or `haiku.transform_with_state` returned, without `apply`'s rng or with it.
        params: what `init` returned, or its shapes; with state, the pair of both or {"params": ..., "state": ...}.
        inputs: example arguments; not read here.
        call: keywords of the function, for instance is_training=False; none is added.

    Returns:
        A source with the parameters as `init` gave them, or {"params": ..., "state": ...}; state is not trained.

    Raises:
        UserError: Haiku is missing, `transformed` is no transformed function, or `params` does not go with it.
    """
    hk = framework("haiku", "dm-haiku")
    if not isinstance(transformed, hk.Transformed | hk.TransformedWithState):
        name = getattr(transformed, "__name__", type(transformed).__name__)
        raise UserError(f"expected a function transformed by haiku, not {name}; pass haiku.transform({name})")
    stateful = isinstance(transformed, hk.TransformedWithState)
    if stateful and isinstance(params, tuple | list) and len(params) == 2:
        params = {"params": params[0], "state": params[1]}
    if not isinstance(params, Mapping) or (stateful and set(params) != {"params", "state"}):
        wanted = "the pair (params, state)" if stateful else "the parameters"
        raise UserError(f"{wanted} that init returned must come second, not {type(params).__name__}")

    rng = (None,) if "rng" in inspect.signature(transformed.apply).parameters else ()

    def fn(params: Any, *inputs: Any) -> Any:
        if not stateful:
            return transformed.apply(params, *rng, *inputs, **call)
        return transformed.apply(params["params"], params["state"], *rng, *inputs, **call)[0]

    trained = jax.tree.map(differentiable, params["params"] if stateful else params)
    trainable = {"params": trained, "state": jax.tree.map(lambda leaf: False, params["state"])} if stateful else trained
    paths = tuple(path.removeprefix("params/") if stateful else path for path in leaf_paths(params))
    modules = list(params["params"] if stateful else params)
    title = modules[0].split("/")[0] if modules else "haiku network"
    return Source(fn, params, trainable, title, paths, training.haiku(transformed, stateful, rng, call))
