"""A network of the catalogue, and what builds them: random values for any tree of parameters, random inputs."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dms_jax.adapters.source import Source, differentiable, leaf_paths

SCALES = ("scale", "gamma", "norm", "alpha", "weight_scale")
"""Names of leaves that multiply."""

VARIANCES = ("var", "variance", "moving_variance", "var_ema")
"""Names in the paths of running variances."""


@dataclass(frozen=True)
class Network:
    """A network of some framework, small and with random parameters.

    Attributes:
      name: its key in the catalogue.
      framework: "linen", "nnx", "equinox", "keras", "haiku" or "jax".
      fn: (params, *inputs) -> outputs, inference.
      params: a tree of random arrays; leaves that are not arrays are static.
      inputs: small arrays that `fn` takes.
      trainable: a tree of bool like `params`.
      paths: readable names of the leaves, or None.
      train: (params, *inputs, key) -> (outputs, state), the training program: dropout and batch statistics. `state`
        holds the new values of leaves that are not trained, at their places in a part of the tree, or is {}. None for
        networks that do the same in training.
    """

    name: str
    framework: str
    fn: Callable[..., Any]
    params: Any
    inputs: tuple[Any, ...]
    trainable: Any
    paths: tuple[str, ...] | None = None
    train: Callable[..., Any] | None = None


def from_source(
    name: str,
    framework: str,
    source: Source,
    inputs: tuple[Any, ...],
    train: Callable[..., Any] | None = None,
    out_axis: int = -1,
) -> Network:
    """Return the network of `source` with random parameters; `out_axis` is where kernels have their outputs."""
    params = fill(source.params, paths=source.paths, out_axis=out_axis)
    train = None if train is None else relaxed(train)
    return Network(name, framework, relaxed(source.fn), params, inputs, source.trainable, source.paths, train)


def plain(fn: Callable[..., Any], shapes: Any, *inputs: Any, train: Callable[..., Any] | None = None) -> Network:
    """Return a network of plain JAX, named like `fn`, for a tree of tuples that are shapes."""
    structs = jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32), shapes, is_leaf=lambda node: isinstance(node, tuple)
    )
    params = fill(structs)
    trainable = jax.tree.map(differentiable, params)
    train = None if train is None else relaxed(train)
    return Network(fn.__name__, "jax", relaxed(fn), params, inputs, trainable, None, train)


def relaxed(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let `function` add a bias of shape [N] to [B, N]: the tests' settings forbid it, frameworks do it."""

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        with jax.numpy_rank_promotion("allow"):
            return function(*args, **kwargs)

    return wrapped


def fill(params: Any, seed: int = 0, paths: tuple[str, ...] | None = None, out_axis: int = -1) -> Any:
    """Return a tree like `params` with random values that hide no error: no zeros, no ones, no symmetry.

    Kernels are normal with variance 1 / inputs, scales and variances uniform in (0.5, 1.5), other vectors uniform in
    +-(0.1, 0.5). Leaves that are no floating-point arrays stay, or are zeros (key 0) where only shapes are given.

    Args:
        params: any pytree of arrays or `jax.ShapeDtypeStruct`s.
        seed: of the values.
        paths: the names of its leaves, which tell scales and variances; None takes them from the tree.
        out_axis: the axis of kernels that counts outputs; all others count inputs.
    """
    rng = np.random.default_rng(seed)
    leaves, treedef = jax.tree.flatten(params)
    names = leaf_paths(params, boxed=True) if paths is None else paths
    return treedef.unflatten(
        [_draw(rng, name, leaf, out_axis) for name, leaf in zip(names, leaves, strict=True)],
    )


def _draw(rng: np.random.Generator, path: str, leaf: Any, out_axis: int) -> Any:
    if not differentiable(leaf):
        if not isinstance(leaf, jax.ShapeDtypeStruct):
            return leaf
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return jax.random.key(0) if is_key else jnp.zeros(leaf.shape, leaf.dtype)
    *_, last = parts = path.split("/")
    positive = last in SCALES or (last == "weight" and len(leaf.shape) == 1) or any(part in VARIANCES for part in parts)
    if positive:
        values = rng.uniform(0.5, 1.5, leaf.shape)
    elif len(leaf.shape) < 2:
        values = rng.uniform(0.1, 0.5, leaf.shape) * rng.choice([-1, 1], leaf.shape)
    else:
        # Keras stores depthwise kernels as [height, width, channels, 1]
        outputs = leaf.shape[-2] if "depthwise" in path and leaf.shape[-1] == 1 else leaf.shape[out_axis]
        values = rng.normal(size=leaf.shape) / np.sqrt(np.prod(leaf.shape) / outputs)
    return jnp.asarray(values, leaf.dtype)


def images(batch: int, size: int, channels: int = 3, first: bool = False) -> np.ndarray:
    """Return images, float32 [B, H, W, C], or [B, C, H, W] with `first`."""
    shape = (batch, channels, size, size) if first else (batch, size, size, channels)
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


def vectors(*shape: int) -> np.ndarray:
    """Return standard normal values, float32."""
    return np.random.default_rng(2).normal(size=shape).astype(np.float32)


def tokens(batch: int, length: int, vocabulary: int) -> np.ndarray:
    """Return tokens below `vocabulary`, int32 [B, T]."""
    return np.random.default_rng(3).integers(0, vocabulary, size=(batch, length), dtype=np.int32)
