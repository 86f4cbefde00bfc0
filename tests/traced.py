"""A model around one operation, and laws 1 and 2 for any model."""

# Linen's `apply` gives a value or a tuple, options come as dictionaries, and some arguments are wrong on purpose:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportIndexIssue=false, reportOptionalSubscript=false

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import dms_jax
from dms_jax import Searchable, SearchSpace
from tests.counting import multiply_adds, numbers, random_structure, random_variables, shapes
from tests.helpers import FLOAT32_LOGITS


def check(model, *shape, seeds=(0,), dtype=np.float32):
    """Laws 1 and 2 for random structures, the smallest and the full one. Returns the space."""
    x = np.random.default_rng(0).normal(size=shape).astype(dtype)
    if dtype == np.int32:
        x = np.random.default_rng(0).integers(0, 7, shape).astype(dtype)
    space = SearchSpace.from_model(model, jax.ShapeDtypeStruct(x.shape, x.dtype))
    variables = random_variables(space)
    masked = jax.jit(model.apply)
    least = {name: tuple(range(group.size - group.least, group.size)) for name, group in space.groups.items()}
    for kept in (*(random_structure(space.groups, seed) for seed in seeds), least, {}):
        structure = space.structure(kept)
        small = model.clone(structure=structure)
        shrunk = dms_jax.shrink(space, variables, structure)
        made = jax.eval_shape(lambda key, small=small: small.init(key, x), jax.random.key(0))
        assert shapes(shrunk) == shapes({name: tree for name, tree in made.items() if name != "masks"})
        counted = {"macs": multiply_adds(small.apply, shrunk, x), "params": numbers(shrunk["params"])}
        assert space.resources(structure) == counted
        if kept:
            expected = masked({**variables, "masks": space.masks(structure)}, x)
            difference = jnp.max(jnp.abs(expected - jax.jit(small.apply)(shrunk, x)))
            assert difference < FLOAT32_LOGITS * max(1.0, float(jnp.max(jnp.abs(expected))))
    return space


class Model(Searchable):
    """Dense to 6 searched features, something with them, Dense to 3; subclasses say what."""

    size: int = 6

    def dense(self, x, features, name):
        return nn.Dense(features, name=name)(x)

    @nn.compact
    def __call__(self, x):
        group = self.elements("width", self.size)
        return self.dense(self.middle(self.dense(x, group.size, "first"), group), 3, "last")

    def middle(self, x, group):
        return group(x)
