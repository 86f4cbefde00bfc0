"""A model around one operation, and laws 1 and 2 for any model."""

# Linen's `apply` gives a value or a tuple, options come as dictionaries, and some arguments are wrong on purpose:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportIndexIssue=false, reportOptionalSubscript=false

import flax.linen as nn
import jax
import numpy as np

import dms_jax
from dms_jax import Searchable, SearchSpace
from tests.counting import multiply_adds, numbers, random_structure, random_variables, shapes
from tests.helpers import FLOAT32_LOGITS
from tests.laws.checking import Case, folded_is_inserted


def check(model, *shape, seeds=(0,), dtype=np.float32, differentiable=True):
    """Laws 1, 2 and 8 for random structures, the smallest and the full one. Returns the space.

    The module with its masks, the engine's masks, the engine's small network and the small module agree.
    """
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
        assert counted.items() <= space.resources(structure).items()
        if kept:
            masks = space.masks(structure)
            expected = np.asarray(masked({**variables, "masks": space.collection(space.flat(masks))}, x))
            tolerance = FLOAT32_LOGITS * max(1.0, float(np.max(np.abs(expected))))
            for found in (
                jax.jit(small.apply)(shrunk, x),
                jax.jit(space.shrunk(space.fn, structure))(shrunk, x),
                jax.jit(space.masked(space.fn))(variables, masks, x),
            ):
                assert np.max(np.abs(expected - np.asarray(found))) < tolerance
    if differentiable:
        folded_is_inserted(Case(space.fn, space, variables, (x,)))
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
