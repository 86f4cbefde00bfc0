"""The full network's parameters in program.json, where they are plain containers: its function is then enough."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax

from dms_jax.errors import UserError
from dms_jax.programs import is_key

if TYPE_CHECKING:
    from dms_jax.space import SearchSpace


def template(space: SearchSpace) -> dict[str, Any] | None:
    """Shapes of the full network's parameters and inputs; None where they are no plain containers of whole arrays."""
    p = space.parameters
    kinds = [[(type(k).__name__, getattr(k, "key", getattr(k, "idx", None))) for k in keys] for keys in p.keys]
    plain = all(
        (kind == "DictKey" and isinstance(key, str)) or kind == "SequenceKey" for keys in kinds for kind, key in keys
    )
    inputs = all(hasattr(x, "shape") for x in space.example)
    arrays = len(p) == len(jax.tree.leaves(p.template)) and not any(map(is_key, p.shapes))
    if p.stacked or not (plain and inputs and arrays):
        return None
    leaves = [
        {"keys": [key for _, key in keys], "shape": list(s.shape), "dtype": str(s.dtype), "path": path, "trained": t}
        for keys, s, path, t in zip(kinds, p.shapes, p.paths, p.trained, strict=True)
    ]
    return {"leaves": leaves, "inputs": [{"shape": list(x.shape), "dtype": str(x.dtype)} for x in space.example]}


def space_of(full: Mapping[str, Any] | None, folder: Path, fn: Callable[..., Any]) -> SearchSpace:
    """The space of a function whose parameters are plain containers, from what `template` made."""
    from dms_jax.space import SearchSpace

    if full is None:
        raise UserError(
            f"{folder} is of parameters that are no plain containers, or are laid out in rows (`unroll=`): give "
            "fn=SearchSpace.from_..., not a function"
        )
    params: Any = {}
    for leaf in full["leaves"]:
        node = params
        for key in leaf["keys"][:-1]:
            node = node.setdefault(key, {})
        node[leaf["keys"][-1]] = jax.ShapeDtypeStruct(tuple(leaf["shape"]), leaf["dtype"])
    inputs = [jax.ShapeDtypeStruct(tuple(x["shape"]), x["dtype"]) for x in full["inputs"]]
    paths = [leaf["path"] for leaf in full["leaves"]]
    trained = {leaf["path"]: leaf["trained"] for leaf in full["leaves"]}
    return SearchSpace.from_function(fn, _sequences(params), *inputs, paths=paths, trainable=trained.__getitem__)


def _sequences(node: Any) -> Any:
    """Dictionaries whose keys are numbers as lists."""
    if not isinstance(node, dict):
        return node
    inner = {key: _sequences(child) for key, child in node.items()}
    return [inner[i] for i in range(len(inner))] if inner and all(isinstance(k, int) for k in inner) else inner
