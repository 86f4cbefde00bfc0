"""Functions of a small network's parameters as StableHLO: for any batch where no number depends on it but in means."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from dms_jax.errors import UserError, one_line
from dms_jax.program.symbolic import leading, resized
from dms_jax.structure import Structure

if TYPE_CHECKING:
    from dms_jax.space import SearchSpace

PLATFORMS = ("cpu", "cuda", "tpu")


def inference(small: Any, tree: Any, shapes: Any, example: Sequence[Any]) -> tuple[Any, str]:
    """The exported program, for any batch if possible (what has the first input's leading size), or why it is not."""

    small = small.expecting(leading(example))

    def flat(params: Any, *inputs: Any) -> Any:
        return small(tree(params), *inputs)

    return _opened(jax.jit(flat), shapes, example)


def _opened(program: Any, shapes: Any, inputs: Sequence[Any], *rest: Any) -> tuple[Any, str]:
    """`(shapes, *inputs, *rest)`, exported for any batch where that is possible, or why it is not."""
    from dms_jax.elements import portable

    (batch,) = jax.export.symbolic_shape("batch")
    export = jax.export.export(program, platforms=PLATFORMS)
    with portable():
        try:
            return export(shapes, *resized(inputs, batch), *rest), ""
        except Exception as error:  # numbers in it depend on the batch: what fails, and how, is the network's own
            why = f"takes batches of {leading(inputs)} alone, as it was saved: {one_line(error, 300)}"
            return export(shapes, *inputs, *rest), why


def loss_of(space: SearchSpace, loss: Any, structure: Structure, tree: Any, shapes: Any, batch: Any) -> tuple[Any, str]:
    """A loss, exported with its derivative as `inference` is; keys come and go as their data."""
    from dms_jax.method.loss import outcome
    from dms_jax.partition import merged

    if batch is None:
        raise UserError("a loss is saved for batches of one kind: give batch=, arrays or shapes")
    batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct(np.shape(x), jnp.result_type(x)), batch)
    small: Any = space.shrunk(loss, structure)
    evaluate, paths = outcome(small.expecting(leading(batch))), space.parameters.paths

    def flat(params: Any, batch: Any, key: Any) -> Any:
        whole = tree(params)
        value, (changed, metrics) = evaluate(whole, batch, jax.random.wrap_key_data(key))
        rest = space.parameters.partition(whole)[1]
        new = space.parameters.arrays(merged(rest, changed))
        old = space.parameters.arrays(rest)
        pairs = zip(paths, new, old, strict=True)
        state = {p: jax.random.key_data(x) if is_key(x) else x for p, x, y in pairs if x is not None and x is not y}
        return value, state, metrics

    key = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0)))
    return _opened(jax.jit(flat), shapes, (batch,), key)


def write(path: Path, exported: Any, order: int) -> None:
    """Write a program that can be differentiated `order` times."""
    try:
        path.write_bytes(exported.serialize(vjp_order=order))
    except ImportError as error:
        raise UserError("jax.export writes with flatbuffers, which is missing: install dms_jax[export]") from error


def read(path: Path) -> Any:
    """What `write` wrote: its `call`."""
    try:
        return jax.export.deserialize(bytearray(path.read_bytes()))
    except ImportError as error:
        raise UserError("jax.export reads with flatbuffers, which is missing: install dms_jax[export]") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); save the network again") from None


def is_key(leaf: Any) -> bool:
    """Whether an array has typed keys."""
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def as_key(array: Any, impl: str | None) -> Any:
    """Data as keys of a kind; None: it is of none."""
    return array if impl is None or array is None else jax.random.wrap_key_data(array, impl=impl)
