"""Equinox: a module that is its own parameters."""

import inspect
from typing import Any

import jax
import numpy as np

from dms_jax import checks
from dms_jax.adapters import training
from dms_jax.adapters.source import Source, differentiable, framework, leaf_paths
from dms_jax.errors import UserError


def source(module: Any, *inputs: Any, state: Any = None, batched: bool = True, **call: Any) -> Source:
    """Return a module's call in inference mode as a function of the module.

    Args:
        module: an `equinox.Module`, or one that `equinox.filter_eval_shape` made.
        inputs: example arguments, arrays or shapes.
        state: its `equinox.nn.State`, if any; passed after the inputs, and the new one is dropped.
        batched: whether inputs have a leading batch axis over which the module is mapped; it takes them whole if not.
        call: keywords of the call. A required `key` that is not given is None, a constant for modules that split it.

    Returns:
        A source whose parameters are the module itself, or (module, state). Its inexact JAX arrays are trained.

    Raises:
        UserError: no Equinox, no callable Equinox module, or an input without a batch axis.
    """
    eqx = framework("equinox", "equinox")
    title = type(module).__name__
    if not (isinstance(module, eqx.Module) and callable(module)):
        raise UserError(f"expected a callable equinox.Module, not {title}; pass the module itself, not its class")
    if checks.flag("batched", batched) and any(np.ndim(leaf) == 0 for leaf in jax.tree.leaves(inputs)):
        raise UserError(f"{title} is mapped over a batch, but an input is a scalar; add an axis, or pass batched=False")

    def fn(params: Any, *inputs: Any) -> Any:
        network, *states = (params,) if state is None else params

        def one(*example: Any) -> Any:
            return eqx.nn.inference_mode(network)(*example, *states, **call)

        outputs = jax.vmap(one)(*inputs) if batched else one(*inputs)
        return outputs if state is None else outputs[0]

    params = module if state is None else (module, state)
    key = inspect.signature(module.__call__).parameters.get("key")
    if key is not None and key.default is key.empty and "key" not in call:
        call["key"] = None
        try:
            eqx.filter_eval_shape(fn, params, *inputs)
        except Exception:  # modules that split it fail in many ways
            call["key"] = jax.random.key(0)
    trainable = jax.tree.map(lambda leaf: differentiable(leaf) and not isinstance(leaf, np.ndarray), module)
    paths = leaf_paths(module)
    if state is not None:
        trainable, paths = (trainable, jax.tree.map(lambda leaf: False, state)), paths + leaf_paths({"state": state})
    return Source(fn, params, trainable, title, paths, training.equinox(module, state is not None, batched, call))
