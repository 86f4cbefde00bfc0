"""Flax Linen: a module and its variables."""

from functools import partial
from typing import Any

import jax

from dms_jax.adapters import training
from dms_jax.adapters.source import Source, differentiable, framework, inference_keywords, leaf_paths
from dms_jax.errors import UserError

MORE = ("mutable", "capture_intermediates")  # with these, `apply` returns variables beside the outputs


def source(model: Any, variables: Any, *inputs: Any, **call: Any) -> Source:
    """Return `model.apply` as a function of all its variables.

    Args:
        model: a `flax.linen.Module`, not bound.
        variables: what `model.init` or `jax.eval_shape(model.init, ...)` returned: a mapping from collections to trees
            of arrays or shapes.
        inputs: example arguments; only their number matters here.
        call: keywords of `model.apply`; those of `INFERENCE` are set where the model takes them and they are not given.

    Returns:
        A source whose parameters are `variables` as plain dictionaries; the collection "params" is trained and goes
        unnamed in the paths.

    Raises:
        UserError: Flax is missing, `model` is no Linen module, `variables` has no "params", the model does not take
            these arguments, or `call` makes `apply` return more than the outputs.
    """
    nn, core = framework("flax.linen", "flax"), framework("flax.core", "flax")
    title = type(model).__name__
    if not isinstance(model, nn.Module):
        raise UserError(f"expected a flax.linen.Module, not {title}; pass the module and what its init returned")
    if not hasattr(variables, "keys") or "params" not in variables:
        had = ", ".join(map(str, variables)) if hasattr(variables, "keys") else type(variables).__name__
        raise UserError(f'no collection "params" in the variables of {title} ({had}); pass all that init returned')
    if more := [name for name in MORE if call.get(name, False)]:
        raise UserError(f"{title} would return more than its outputs; leave out {' and '.join(more)}")

    method = call.get("method") or "__call__"
    function = getattr(model, method) if isinstance(method, str) else partial(method, model)
    own = {name: call.pop(name) for name in ("rngs", "method", *MORE) if name in call}
    keywords = own | inference_keywords(function, inputs, call, title)

    params = core.unfreeze(variables)
    trainable = {
        name: jax.tree.map(differentiable if name == "params" else lambda leaf: False, tree)
        for name, tree in params.items()
    }
    paths = tuple(path.removeprefix("params/") for path in leaf_paths(params, boxed=True))

    def fn(params: Any, *inputs: Any) -> Any:
        return model.apply(params, *inputs, **keywords)

    return Source(fn, params, trainable, title, paths, training.linen(model, keywords))
