"""What every adapter hands to the engine, and what the adapters share."""

import importlib
import inspect
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from dms_jax.errors import UserError

INFERENCE = {
    "train": False,
    "training": False,
    "is_training": False,
    "deterministic": True,
    "use_running_average": True,
    "update_stats": False,
}
"""Keywords by which a network is told that it does not train, and what to pass."""


@dataclass(frozen=True, eq=False)
class Source:
    """A network as the engine takes it: a function of parameters.

    Attributes:
      fn: (params, *inputs) -> outputs, the inference program; pure.
      params: any pytree of arrays or `jax.ShapeDtypeStruct`s; every other leaf is static.
      trainable: a tree of bool like `params`; False on leaves that are not arrays.
      title: the class name of the model.
      paths: a readable path of every leaf of `params` in the order of `jax.tree.leaves`, for instance
        "encoder/Dense_0/kernel"; no two are equal. None: take them from the tree's key paths.
      train: (params, *inputs, key) -> (outputs, new state as a part of the tree): how the framework makes a call that
        trains. It is read where `fn` leaves arrays unread, and may fail. None: nothing says how.
    """

    fn: Callable[..., Any]
    params: Any
    trainable: Any
    title: str
    paths: tuple[str, ...] | None = None
    train: Callable[..., Any] | None = None


def framework(module: str, package: str) -> Any:
    """Import `module`; a `UserError` names `package` if that fails."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(f"{module} cannot be imported ({error}); run: pip install {package}") from error


def differentiable(leaf: Any) -> bool:
    """Whether `leaf` is an array, or the shape of one, with a floating-point or complex dtype."""
    return hasattr(leaf, "shape") and hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.inexact)


def leaf_paths(tree: Any, boxed: bool = False) -> tuple[str, ...]:
    """Return a distinct path for every leaf of `tree`, in flatten order.

    Args:
        tree: any pytree.
        boxed: whether leaves lie in Flax's boxes (variables, partitioned arrays), whose attribute `value` goes unnamed.
    """
    keys = [path for path, _ in jax.tree_util.tree_flatten_with_path(tree)[0]]
    if boxed:
        keys = [path[:-1] if path[-1:] == (jax.tree_util.GetAttrKey("value"),) else path for path in keys]
    return distinct(jax.tree_util.keystr(path, simple=True, separator="/") for path in keys)


def distinct(names: Iterable[str]) -> tuple[str, ...]:
    """Number the repeats of a name: "a", "a" becomes "a", "a#2"."""
    seen: Counter[str] = Counter()
    result = []
    for name in names:
        seen[name] += 1
        result.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return tuple(result)


def inference_keywords(
    function: Callable[..., Any], inputs: Sequence[Any], call: Mapping[str, Any], title: str
) -> dict[str, Any]:
    """Return `call` with those keywords of `INFERENCE` that `function` takes and neither `inputs` nor `call` gives.

    Raises:
        UserError: if `function` does not take such arguments.
    """
    signature = inspect.signature(function)
    try:
        given = signature.bind_partial(*inputs, **call).arguments
    except TypeError as error:
        raise UserError(f"{title} does not take these arguments: {error}") from error
    more = {name: value for name, value in INFERENCE.items() if name in signature.parameters and name not in given}
    return {**call, **more}
