"""Several sizes of one network on disk: one file of weights, of which the smaller networks are slices.

structure.json, sizes.json          what was kept of which group, of the largest network and of all
program/program.json                as of one network, and under "sizes" where the slices of each lie
program/params.safetensors          the largest network's parameters, and of the others what is not trained
program/inference.stablehlo, -1 ... one program a size; likewise loss.stablehlo
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dms_jax import saved
from dms_jax.errors import UserError
from dms_jax.nested import Nested, Slices, taken

if TYPE_CHECKING:
    from dms_jax.family import Family


def save(
    family: Family,
    directory: str | os.PathLike[str],
    fn: Callable[..., Any],
    trees: Sequence[Any],
    *,
    shared: bool = True,
    loss: Callable[..., Any] | None = None,
    batch: Any = None,
) -> Path:
    """Write all networks of a family.

    Args:
      family: the networks.
      directory: made if need be.
      fn: of the full network, of inference.
      trees: the parameters of every size.
      shared: whether what is trained are slices of the largest's; else each is written whole.
      loss, batch: as `SearchSpace.save` takes them.
    """
    folder = saved.folder_of(directory)
    arrays, described = {}, {}
    for number, (size, structure) in enumerate(family.structures.items()):
        flat = saved.Flat.of(family.space, trees[number])
        one = saved.programs(family.space, folder, fn, structure, flat, loss=loss, batch=batch, suffix=suffix(number))
        if not number:
            arrays, described = dict(flat.plain), {**one, "sizes": [{"size": size}]}
            continue
        own = [path for path in flat.plain if not (shared and one["trained"][path])]
        arrays |= {own_name(number, path): flat.plain[path] for path in own}
        described["sizes"].append({**one, "size": size, "slices": _listed(family.slices(number)), "own": own})
    saved.write_arrays(folder, arrays)
    saved.write_description(folder, family.space, described)
    Nested(dict(family.structures), shared).write(directory)
    family.largest.save(Path(directory) / "structure.json")
    saved.warn(described["fixed"], stacklevel=4)
    return folder


def suffix(number: int) -> str:
    """Of the programs of a size."""
    return f"-{number}" if number else ""


def own_name(number: int, path: str) -> str:
    """Of an array that one of the smaller networks has for itself."""
    return f"{number}:{path}"


def of_size(described: Mapping[str, Any], number: int) -> dict[str, Any]:
    """The description of one size, as that of a network that is alone."""
    return {**described, **described["sizes"][number], "suffix": suffix(number)}


def arrays_of_size(found: Mapping[str, Any], described: Mapping[str, Any], number: int) -> dict[str, Any]:
    """One network's arrays, of those of the file.

    Raises:
      UserError: the file lacks one.
    """
    one = described["sizes"][number]
    large = {path: array for path, array in found.items() if path in described["trained"]}
    if not number:
        return large
    try:
        small = {path: found[own_name(number, path)] for path in one["own"]}
    except KeyError as error:
        raise UserError(
            f"params.safetensors lacks {error}, which program.json names; save the networks again"
        ) from None
    for path, array in large.items():
        chosen = one["slices"].get(path, {})
        if chosen is not None and path not in small:
            small[path] = taken(array, {int(axis): np.asarray(at) for axis, at in chosen.items()})
    return small


def _listed(slices: Slices) -> dict[str, Any]:
    """As JSON has it."""
    return {
        path: None if chosen is None else {str(axis): at.tolist() for axis, at in chosen.items()}
        for path, chosen in slices.items()
    }
