"""Small programs as outside users write them, by kind; `test_outsiders` states the laws about each of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dms_jax import SearchSpace
from tests.laws.checking import Case


@dataclass(frozen=True)
class Outsider:
    """A program somebody wrote.

    Attributes:
      fn: `(params, *inputs) -> outputs`.
      shapes: of the parameters: a tree of tuples.
      inputs: shapes of the inputs, or arrays.
      groups: name -> size of every group that has to be found.
      plain: whether the program itself runs at other sizes, and is then the smaller network: it has no number of a
        searched size.
      backward: whether it can be differentiated in reverse.
      inserted: whether it can be with all masks inserted, too (an adaptive loop cannot).
      scale: standard deviation of the parameters.
      options: of `SearchSpace.from_function`.
    """

    fn: Callable[..., Any]
    shapes: Any
    inputs: tuple[Any, ...]
    groups: Mapping[str, int]
    plain: bool = True
    backward: bool = True
    inserted: bool = True
    scale: float = 0.5
    options: Mapping[str, Any] = field(default_factory=dict)

    def case(self) -> Case:
        params = numbers(self.shapes, self.scale)
        inputs = tuple(x if hasattr(x, "dtype") else normal(x, 100 + i) for i, x in enumerate(self.inputs))
        space = SearchSpace.from_function(self.fn, params, *inputs, **self.options)
        return Case(self.fn, space, params, inputs)


Table = dict[str, Outsider]


def program(table: Table, shapes: Any, *inputs: Any, groups: Mapping[str, int], **known: Any) -> Callable[[Any], Any]:
    """Put a function into a table; fields of `Outsider` by name, other keywords are options of the space."""
    fields = {key: known.pop(key) for key in ("plain", "backward", "inserted", "scale") if key in known}

    def add(fn: Callable[..., Any]) -> Callable[..., Any]:
        table[fn.__name__] = Outsider(promoting(fn), shapes, inputs, groups, options=known, **fields)
        return fn

    return add


def promoting(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Users let shapes promote, as JAX does unless it is told not to."""

    @wraps(fn)
    def run(*args: Any) -> Any:
        with jax.numpy_rank_promotion("allow"):
            return fn(*args)

    return run


def normal(shape: tuple[int, ...], seed: int, scale: float = 1.0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape) * scale, jnp.float32)


def numbers(shapes: Any, scale: float = 0.5) -> Any:
    """Random parameters for a tree of shapes."""
    leaves, tree = jax.tree.flatten(shapes, is_leaf=lambda node: isinstance(node, tuple))
    return jax.tree.unflatten(tree, [normal(shape, i + 1, scale) for i, shape in enumerate(leaves)])
