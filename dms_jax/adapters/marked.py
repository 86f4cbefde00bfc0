"""Linen modules that declare their groups (`dms_jax.Searchable`): the groups get the names they are declared with."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dms_jax.adapters import linen
from dms_jax.elements import declared, naming, portable
from dms_jax.errors import UserError
from dms_jax.program.discovery import Choice, Declared
from dms_jax.structure import Structure


def marked_space(
    make: Any,
    model: Any,
    example: Sequence[Any],
    options: Mapping[str, Any],
    variables: Any,
    call: Mapping[str, Any],
) -> Any:
    """A space of a marked module; see `SearchSpace.from_model`."""
    call = dict(call)
    if "train" in inspect.signature(type(model).__call__).parameters:
        call.setdefault("train", False)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x)), tuple(example))
    with declared() as record:
        made = jax.eval_shape(lambda key, *args: model.init(key, *args, **call), jax.random.key(0), *shapes)
    if not record:
        raise UserError(
            f"{type(model).__name__} declares no groups: derive its modules from dms_jax.Searchable and use "
            "self.elements(name, size), or let dms_jax.SearchSpace.from_linen find them"
        )
    for name in record:
        if any(other.startswith(f"{name}/") for other in record):
            raise UserError(f"group {name!r} has the name of a module that declares groups; rename one of them")
    variables = {name: tree for name, tree in (variables or made).items() if name != "masks"}
    source = linen.source(model, variables, *shapes, **call)

    def forward(params: Any, *args: Any) -> Any:
        with portable():  # no kernel of one device: the space reads the program
            return model.apply(params, *args, **call)

    found = {name: Declared(name, d.size, d.kind, d.least) for name, d in record.items()}
    source = dataclasses.replace(source, fn=forward, train=None)
    space = make(source, shapes, **options, choice=Choice(declared=found), context=naming, model=model)
    space.call = call
    return space


def fresh(space: Any) -> Callable[[Structure, jax.Array], Any]:
    """`(structure, key) -> variables`: new ones of the smaller network, as its own initializers make them."""

    def make(structure: Structure, key: jax.Array) -> Any:
        inputs = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), space.example)
        return jax.jit(space.model.clone(structure=structure).init)(key, *inputs)

    return make


def exact(space: Any) -> Any:
    """The same space, computing in float32: half precision differs by its rounding, however right a structure is."""
    if jnp.dtype(getattr(space.model, "dtype", None) or jnp.float32) == jnp.float32:
        return space
    call = {name: value for name, value in space.call.items() if name != "train"}
    return type(space).from_model(space.model.clone(dtype=jnp.float32), *space.example, **call)
