"""Flax NNX: a module that holds its variables."""

from typing import Any

import jax

from dms_jax.adapters import training
from dms_jax.adapters.source import Source, differentiable, framework, inference_keywords, leaf_paths
from dms_jax.errors import UserError


def source(module: Any, *inputs: Any, **call: Any) -> Source:
    """Return a module's call in evaluation mode as a function of its state.

    The module itself is left as it is. A loss takes the same parameters: `nnx.merge(graphdef, params)`, where
    `graphdef = nnx.graphdef(module)` is the module as its owner made it, in training mode for instance.

    Args:
        module: a `flax.nnx.Module`, or `nnx.eval_shape(lambda: Model(...))`.
        inputs: example arguments; only their number matters here.
        call: keywords of the call; those of `INFERENCE` are set where the module takes them and they are not given.

    Returns:
        A source whose parameters are the `nnx.State` of `module`; those in an `nnx.Param` are trained. Keys and counts
        of random streams are leaves, too, which are not.

    Raises:
        UserError: no Flax, no NNX module, other arguments than it takes, or evaluation mode changes what it holds.
    """
    nnx = framework("flax.nnx", "flax")
    title = type(module).__name__
    if not isinstance(module, nnx.Module):
        raise UserError(f"expected a flax.nnx.Module, not {title}; pass the module itself, not its class or its state")
    if not callable(module):
        raise UserError(f"{title} has no __call__; wrap it in a module that has one")
    keywords = inference_keywords(module.__call__, inputs, call, title)

    params = _copy(nnx.state(module))
    evaluated = nnx.clone(module)
    evaluated.eval()
    graphdef, state = nnx.split(evaluated)
    if jax.tree.structure(state) != jax.tree.structure(params):
        raise UserError(f"{title}.eval() adds or removes variables; keep the same ones in both modes")

    def trained(variable: Any) -> Any:
        return jax.tree.map(lambda leaf: isinstance(variable, nnx.Param) and differentiable(leaf), variable)

    def fn(params: Any, *inputs: Any) -> Any:
        return nnx.merge(graphdef, _copy(params))(*inputs, **keywords)

    train = training.nnx(graphdef, _copy, keywords)
    trainable = jax.tree.map(trained, params, is_leaf=lambda node: isinstance(node, nnx.Variable))
    return Source(fn, params, trainable, title, leaf_paths(params, boxed=True), train)


def _copy(state: Any) -> Any:
    """Return the same arrays in new variables: NNX shares and writes to those it is given."""
    return jax.tree.map(lambda leaf: leaf, state)
