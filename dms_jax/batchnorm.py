"""BatchNorms of inference multiplied into the convolutions and dense layers before them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.ad_checkpoint import checkpoint_name

from dms_jax.models.depthwise import DepthwiseConv

Path = tuple[str, ...]

_LAYERS = (nn.Conv, nn.Dense, DepthwiseConv)
_TAG = "dms_jax.batchnorm:"


class Fused(nn.Module):
    """A network of inference whose BatchNorms are in the layers before them; made by `fuse_batchnorm`.

    It is called as the network is. `init` makes no variables for it.

    Attributes:
      model: the network.
      fused: paths of layers and of the BatchNorms that they took in.
    """

    model: nn.Module
    fused: tuple[tuple[Path, Path], ...]

    def setup(self) -> None:
        nn.share_scope(self, self.model)

    def __call__(self, *inputs: Any, **call: Any) -> Any:
        layers, norms = {layer for layer, _ in self.fused}, {norm for _, norm in self.fused}

        def intercept(function: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
            module: Any = context.module
            if context.method_name == "__call__" and module.path in norms:
                return args[0]
            out = function(*args, **kwargs)
            if context.method_name == "__call__" and module.path in layers and not _has_bias(module):
                bias = module.get_variable("params", "bias").astype(out.dtype)
                out = out + jnp.expand_dims(bias, tuple(range(out.ndim - 1)))
            return out

        with nn.intercept_methods(intercept):
            return self.model(*inputs, **call)  # type: ignore[operator]  # every network can be called


def fuse_batchnorm(
    model: nn.Module, variables: Mapping[str, Any], *example: Any, **call: Any
) -> tuple[Fused, dict[str, Any]]:
    """Multiply every BatchNorm of inference into the convolution or dense layer whose output it alone reads.

    With s = scale / sqrt(var + eps), the layer's kernel becomes kernel * s and its bias (bias - mean) * s + shift. The
    network computes the same, to rounding, with as many multiply-adds; every such BatchNorm of C channels loses 2 C
    parameters, and a layer that had no bias gets one of C.

        fused, variables = fuse_batchnorm(model, variables, images)
        logits = fused.apply(variables, images)

    A BatchNorm that follows no such layer, or a layer whose output has other readers or that runs more than once, stays
    as it is.

    Args:
      model: a Linen network.
      variables: {"params": ..., "batch_stats": ...}, float arrays, without masks.
      *example: its positional arguments, arrays or `jax.ShapeDtypeStruct`.
      **call: keyword arguments of the model in inference, such as train=False.

    Returns:
      The network and its variables: without those of the fused BatchNorms, and with a bias in every layer before one.
    """
    found = _pairs(model, variables, example, call)
    leaves: dict[Path, Any] = dict(flatten_dict(dict(variables)))
    for layer, norm, epsilon in found:
        scale, shift = (leaves.pop(("params", *norm, name), default) for name, default in (("scale", 1), ("bias", 0)))
        mean, var = (leaves.pop(("batch_stats", *norm, name)) for name in ("mean", "var"))
        factor = scale * jax.lax.rsqrt(var + epsilon)
        kernel, bias = (("params", *layer, name) for name in ("kernel", "bias"))
        leaves[bias] = (leaves.get(bias, 0) - mean) * factor + shift
        leaves[kernel] = leaves[kernel] * jnp.expand_dims(factor, tuple(range(leaves[kernel].ndim - 1)))
    return Fused(model, tuple((layer, norm) for layer, norm, _ in found)), unflatten_dict(leaves)


@dataclass
class _Seen:
    """Layers and BatchNorms in the order they ran."""

    layers: list[Path] = field(default_factory=list)
    norms: list[tuple[Path, float]] = field(default_factory=list)


def _pairs(model: nn.Module, variables: Any, example: Any, call: Any) -> list[tuple[Path, Path, float]]:
    """Layers, the BatchNorms that alone read them, and their epsilons."""
    seen = _Seen()

    def run(variables: Any, *inputs: Any) -> Any:
        with nn.intercept_methods(partial(_tagged, seen)):
            return model.apply(variables, *inputs, **call)

    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(jnp.shape(x), x.dtype), (variables, *example))
    program = jax.make_jaxpr(run)(*shapes)
    once = {path for path, n in Counter(seen.layers).items() if n == 1}
    once |= {path for path, n in Counter(path for path, _ in seen.norms).items() if n == 1}
    made = ((seen.layers[layer], *seen.norms[norm]) for layer, norm in _alone(program.jaxpr))
    return [(layer, norm, epsilon) for layer, norm, epsilon in made if layer in once and norm in once]


def _tagged(seen: _Seen, function: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
    """Name the outputs of layers and the inputs of BatchNorms in the program."""
    module: Any = context.module
    if context.method_name != "__call__":
        return function(*args, **kwargs)
    if isinstance(module, nn.BatchNorm) and module.axis in (-1, (-1,)):
        seen.norms.append((module.path, module.epsilon))
        tagged = checkpoint_name(args[0], f"{_TAG}norm:{len(seen.norms) - 1}")
        return function(tagged, *args[1:], **kwargs)
    out = function(*args, **kwargs)
    if isinstance(module, _LAYERS):
        seen.layers.append(module.path)
        out = checkpoint_name(out, f"{_TAG}layer:{len(seen.layers) - 1}")
    return out


def _alone(jaxpr: Any) -> list[tuple[int, int]]:
    """Numbers of layers and of the BatchNorms that are the only readers of their outputs."""
    readers = Counter(id(v) for eqn in jaxpr.eqns for v in eqn.invars) + Counter(id(v) for v in jaxpr.outvars)
    layers: dict[int, int] = {}
    pairs = []
    for eqn in jaxpr.eqns:
        kind, _, number = str(eqn.params.get("name", "")).removeprefix(_TAG).partition(":")
        if eqn.primitive.name != "name" or not str(eqn.params["name"]).startswith(_TAG):
            continue
        if kind == "layer":
            layers[id(eqn.outvars[0])] = int(number)
        elif (layer := layers.get(id(eqn.invars[0]))) is not None and readers[id(eqn.invars[0])] == 1:
            pairs.append((layer, int(number)))
    return pairs


def _has_bias(module: Any) -> bool:
    return getattr(module, "use_bias", False)
