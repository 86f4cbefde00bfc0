"""BatchNorms of inference multiplied into the convolutions and dense layers before them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core import meta, unfreeze
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.ad_checkpoint import checkpoint_name

from dms_jax.adapters import linen
from dms_jax.errors import UserError
from dms_jax.models.depthwise import DepthwiseConv

Path = tuple[str, ...]

# subclasses may do anything with a kernel
_LAYERS = (nn.Conv, nn.Dense, DepthwiseConv)
_OWN_PRODUCTS = ("dot_general", "dot_general_cls", "conv_general_dilated", "conv_general_dilated_cls")
_TAG = "dms_jax.batchnorm:"


class Fused(nn.Module):
    """A network of inference whose BatchNorms are in the layers before them; made by `fuse_batchnorm`.

    It is called as the network is. `init` makes no variables for it.

    Attributes:
      model: the network.
      fused: path of a layer, path of the BatchNorm that it took in, and the dtype of what that returned.
    """

    model: nn.Module
    fused: tuple[tuple[Path, Path, str], ...]

    def __call__(self, *inputs: Any, **call: Any) -> Any:
        layers, norms = {layer for layer, *_ in self.fused}, {norm: dtype for _, norm, dtype in self.fused}

        def intercept(function: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
            module: Any = context.module
            if context.method_name == "__call__" and module.path in norms:
                _check_inference(module, args, kwargs)
                return args[0].astype(norms[module.path])
            out = function(*args, **kwargs)
            if context.method_name == "__call__" and module.path in layers and not _has_bias(module):
                bias = module.get_variable("params", "bias").astype(out.dtype)
                out = out + jnp.expand_dims(bias, tuple(range(out.ndim - 1)))
            return out

        with nn.intercept_methods(intercept):  # of the network by itself: its paths are those without this one
            return self.model.clone(parent=None).apply(self.variables, *inputs, **call)


def fuse_batchnorm(
    model: nn.Module, variables: Mapping[str, Any], *example: Any, **call: Any
) -> tuple[Fused, dict[str, Any]]:
    """Multiply every BatchNorm of inference into the convolution or dense layer whose output it alone reads.

    With s = scale / sqrt(var + eps), the layer's kernel becomes kernel * s and its bias (bias - mean) * s + shift. The
    network computes the same, to rounding, with as many multiply-adds; every such BatchNorm of C channels loses 2 C
    parameters, and a layer that had no bias gets one of C.

        fused, variables = fuse_batchnorm(model, variables, images)
        logits = fused.apply(variables, images)

    A BatchNorm stays as it is where it follows no such layer; where the layer's output has other readers; where the
    variables of either are read more than once (it runs twice, or they are tied to others) or changed on the way
    (weight normalization); and inside `nn.remat`, `nn.scan` and `nn.jit`.

    Args:
      model: a Linen network.
      variables: {"params": ..., "batch_stats": ...}, float arrays, without masks.
      *example: its positional arguments, arrays or `jax.ShapeDtypeStruct`; others are taken as they are.
      **call: keyword arguments of the model; those that say that it does not train need not be given.

    Returns:
      The network and its variables, without boxes of partitioning: without those of the fused BatchNorms, and with a
      bias in every layer before one. A kernel keeps its dtype.

    Raises:
      UserError: no Linen network, variables that lack what it reads, or a call that trains.
    """
    if isinstance(model, Fused):
        return model, dict(variables)
    source = linen.source(model, variables, *example, **call)
    leaves: dict[Path, Any] = dict(flatten_dict(meta.unbox(unfreeze(source.params))))
    found = _pairs(source.fn, leaves, example)
    for layer, (norm, epsilon, _) in found:
        scale, shift = (leaves.pop(("params", *norm, name), default) for name, default in (("scale", 1), ("bias", 0)))
        mean, var = (leaves.pop(("batch_stats", *norm, name)) for name in ("mean", "var"))
        factor = scale * jax.lax.rsqrt(var + epsilon)
        kernel, bias = (("params", *layer, name) for name in ("kernel", "bias"))
        leaves[bias] = (leaves.get(bias, 0) - mean) * factor + shift
        scaled = leaves[kernel] * jnp.expand_dims(factor, tuple(range(leaves[kernel].ndim - 1)))
        leaves[kernel] = scaled.astype(leaves[kernel].dtype)
    return Fused(model, tuple((layer, norm.path, norm.dtype) for layer, norm in found)), unflatten_dict(leaves)


class _Norm(NamedTuple):
    """A BatchNorm: its path, its epsilon, and the dtype of what it returns."""

    path: Path
    epsilon: float
    dtype: str


@dataclass
class _Seen:
    """Layers and BatchNorms in the order they ran, and the variables that the network was given."""

    given: Mapping[Path, Any]
    layers: list[Path] = field(default_factory=list)
    norms: list[_Norm] = field(default_factory=list)

    def is_given(self, module: Any, *names: tuple[str, str]) -> bool:
        """Whether variables of a module are those that the network was given, as it was given them."""
        return all(
            module.get_variable(collection, name) is self.given.get((collection, *module.path, name))
            for collection, name in names
        )


def _pairs(fn: Any, leaves: Mapping[Path, Any], example: tuple[Any, ...]) -> list[tuple[Path, _Norm]]:
    """Layers, and the BatchNorm after each that it can take in."""
    seen, names = _Seen({}), list(leaves)
    inputs, tree = jax.tree.flatten(example)
    arrays = [i for i, x in enumerate(inputs) if hasattr(x, "dtype")]

    def run(values: list[Any], given: list[Any]) -> Any:
        seen.given = dict(zip(names, values, strict=True))
        whole = [*inputs]
        for i, x in zip(arrays, given, strict=True):
            whole[i] = x
        with nn.intercept_methods(partial(_tagged, seen)):
            return fn(unflatten_dict(seen.given), *jax.tree.unflatten(tree, whole))

    shapes = [jax.ShapeDtypeStruct(jnp.shape(x), x.dtype) for x in (*leaves.values(), *(inputs[i] for i in arrays))]
    jaxpr = jax.make_jaxpr(run)(shapes[: len(names)], shapes[len(names) :]).jaxpr
    readers = Counter(id(v) for eqn in jaxpr.eqns for v in eqn.invars) + Counter(id(v) for v in jaxpr.outvars)
    tied = {name[1:-1] for name, v in zip(names, jaxpr.invars, strict=False) if readers[id(v)] > 1}
    pairs = ((seen.layers[layer], seen.norms[norm]) for layer, norm in _alone(jaxpr, readers))
    return [(layer, norm) for layer, norm in pairs if not tied & {layer, norm.path}]


def _tagged(seen: _Seen, function: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
    """Name the outputs of layers and the inputs of BatchNorms in the program."""
    module: Any = context.module
    if context.method_name != "__call__":
        return function(*args, **kwargs)
    if type(module) is nn.BatchNorm:
        _check_inference(module, args, kwargs)
        return _tagged_norm(seen, function, args, kwargs, module)
    out = function(*args, **kwargs)
    if type(module) in _LAYERS and seen.is_given(module, ("params", "kernel")):
        if all(getattr(module, name, None) is None for name in _OWN_PRODUCTS):
            seen.layers.append(module.path)
            out = checkpoint_name(out, f"{_TAG}layer:{len(seen.layers) - 1}")
    return out


def _tagged_norm(seen: _Seen, function: Any, args: Any, kwargs: Any, module: Any) -> Any:
    if not module.has_variable("batch_stats", "mean"):
        raise UserError(
            f"the variables have no batch_stats of {_title(module)}; pass all that init returned, or that training left"
        )
    if module.axis not in (-1, (-1,)) or not seen.is_given(module, ("batch_stats", "mean"), ("batch_stats", "var")):
        return function(*args, **kwargs)
    number = len(seen.norms)
    out = function(checkpoint_name(args[0], f"{_TAG}norm:{number}"), *args[1:], **kwargs)
    seen.norms.append(_Norm(module.path, module.epsilon, str(out.dtype)))
    return out


def _alone(jaxpr: Any, readers: Mapping[int, int]) -> list[tuple[int, int]]:
    """Numbers of layers and of the BatchNorms that are the only readers of their outputs."""
    layers: dict[int, int] = {}
    pairs = []
    for eqn in jaxpr.eqns:
        if eqn.primitive.name != "name" or not str(eqn.params["name"]).startswith(_TAG):
            continue
        kind, _, number = str(eqn.params["name"]).removeprefix(_TAG).partition(":")
        if kind == "layer":
            layers[id(eqn.outvars[0])] = int(number)
        elif (layer := layers.get(id(eqn.invars[0]))) is not None and readers[id(eqn.invars[0])] == 1:
            pairs.append((layer, int(number)))
    return pairs


def _check_inference(module: Any, args: Any, kwargs: Any) -> None:
    """Refuse a BatchNorm that normalizes by the batch: it is no linear map of its own.

    Raises:
      UserError: it does.
    """
    said = kwargs.get("use_running_average", args[1] if len(args) > 1 else None)
    if not (module.use_running_average if said is None else said):
        raise UserError(
            f"{_title(module)} normalizes by the statistics of the batch, as in training; call the network as in "
            "inference, with train=False say"
        )


def _title(module: Any) -> str:
    return "/".join(module.path) or "the BatchNorm"


def _has_bias(module: Any) -> bool:
    return getattr(module, "use_bias", False)
