"""How each framework makes a call that trains: read where inference leaves arrays unread, see `Source.train`."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import jax

from dms_jax.adapters.source import INFERENCE

Train: TypeAlias = Callable[..., Any]  # (params, *inputs, key) -> (outputs, new state)


def told(keywords: Mapping[str, Any]) -> dict[str, Any]:
    """Keywords of a call, where those that say that it does not train say that it does."""
    return {name: not value if name in INFERENCE else value for name, value in keywords.items()}


def linen(model: Any, keywords: Mapping[str, Any]) -> Train:
    """With every collection but "params" mutable, and random numbers for whatever asks for them."""

    def train(params: Any, *args: Any) -> Any:
        *inputs, key = args
        rngs = {"params": key, **(keywords.get("rngs") or {})}
        state = [name for name in params if name != "params"]
        return model.apply(params, *inputs, **told(keywords) | {"rngs": rngs, "mutable": state})

    return train


def nnx(graphdef: Any, copy: Callable[[Any], Any], keywords: Mapping[str, Any]) -> Train:
    """In training mode; what is not trained comes back, but for what modules sow."""
    from flax import nnx

    def train(params: Any, *args: Any) -> Any:
        module = nnx.merge(graphdef, copy(params))
        module.train()
        return module(*args[:-1], **told(keywords)), nnx.state(module, nnx.Not((nnx.Param, nnx.Intermediate)))

    return train


def keras(model: Any, keywords: Mapping[str, Any]) -> Train:
    """With training=True."""

    def train(params: Any, *args: Any) -> Any:
        arrays = params["trainable"], params["non_trainable"]
        outputs, state = model.stateless_call(*arrays, *args[:-1], **told(keywords))
        return outputs, {"non_trainable": state}

    return train


_AVERAGE = {"counter", "hidden", "average"}  # what `haiku.ExponentialMovingAverage` keeps


def haiku(transformed: Any, stateful: bool, rng: Sequence[Any], call: Mapping[str, Any]) -> Train:
    """With is_training=True where False was given. Where nothing says how, moving averages say what they are made of.

    Args:
      transformed: with state or without.
      stateful: which of them.
      rng: what `apply` takes where it takes a key, or nothing.
      call: keywords.
    """

    def train(params: Any, *args: Any) -> Any:
        *inputs, key = args
        parts, keywords = (params["params"], params["state"]) if stateful else (params,), told(call)
        if keywords != call:
            outputs = transformed.apply(*parts, *(key for _ in rng), *inputs, **keywords)
            return (outputs[0], {"state": outputs[1]}) if stateful else outputs
        state = params["state"] if stateful else {}
        averages = {name: kept["average"] for name, kept in state.items() if set(kept) == _AVERAGE}
        return {"state": {name: {"hidden": average} for name, average in averages.items()}}

    return train


def equinox(module: Any, stateful: bool, batched: bool, call: Mapping[str, Any]) -> Train:
    """Not in inference mode, with a key, over a batch with the name that the module's norms give it."""
    import equinox as eqx

    takes_key = "key" in inspect.signature(module.__call__).parameters

    def train(params: Any, *args: Any) -> Any:
        *inputs, key = args
        network, *states = params if stateful else (params,)
        network, more = eqx.nn.inference_mode(network, value=False), {"key": key} if takes_key else {}

        def one(*example: Any) -> Any:
            return network(*example, *states, **{**call, **more})

        names = [norm.axis_name for norm in jax.tree.leaves(module, is_leaf=_named) if _named(norm)]
        name, outs = names[0] if names else None, (0, None) if stateful else 0
        return jax.vmap(one, out_axes=outs, axis_name=name)(*inputs) if batched else one(*inputs)

    return train


def _named(module: Any) -> bool:
    return isinstance(getattr(module, "axis_name", None), str)
