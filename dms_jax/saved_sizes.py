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

from dms_jax import reading, saved
from dms_jax.errors import UserError, shortened
from dms_jax.nested import AGAIN, FILE, MOST, Nested, Slices, taken
from dms_jax.reading import flag, listing, mapping, optional, record, text, whole

if TYPE_CHECKING:
    from dms_jax.family import Family

_SLICES = mapping(optional(mapping(listing(whole(0)))))
_TEXTS = mapping(text())
_SIZES = listing(
    record(
        {
            "own": listing(text()),
            "slices": _SLICES,
            "loss": flag,
            "fixed": _TEXTS,
            "keys": _TEXTS,
            "trained": mapping(flag),
        }
    ),
    1,
    MOST,
)


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
            arrays, described = dict(flat.plain), {**one, "sizes": []}
        own = [path for path in flat.plain if number and not (shared and one["trained"][path])]
        arrays |= {own_name(number, path): flat.plain[path] for path in own}
        described["sizes"].append({**one, "size": size, "slices": _listed(family.slices(number)), "own": own})
    sizes = Nested(dict(family.structures), shared)
    saved.write_arrays(folder, arrays)
    saved.write_description(folder, family.space, {**described, "identity": sizes.identity})
    sizes.write(directory)
    family.largest.save(Path(directory) / "structure.json")
    saved.warn(described["fixed"], stacklevel=4)
    return folder


def suffix(number: int) -> str:
    """Of the programs of a size."""
    return f"-{number}" if number else ""


def own_name(number: int, path: str) -> str:
    """Of an array that one of the smaller networks has for itself."""
    return f"{number}:{path}"


def described(content: Mapping[str, Any], folder: Path, sizes: Nested | None, number: int) -> dict[str, Any]:
    """What program.json says of one size; of a network that is alone, all of it.

    Args:
      content: of program.json.
      folder: that it lies in.
      sizes: what sizes.json beside the folder says; None: there is none.
      number: the place of the size.

    Raises:
      UserError: the two files are not of the same networks.
    """
    if sizes is None and "identity" not in content:
        return dict(content)
    if sizes is None:
        raise UserError(f"{folder.parent} lacks {FILE}, which says of which sizes its programs are; {AGAIN}")
    try:
        if content.get("identity") != sizes.identity:
            raise reading.Mismatch(f"it is not of the networks that {FILE} names")
        _SIZES(content.get("sizes"), "sizes")
    except reading.Mismatch as error:
        raise UserError(
            f"{folder / 'program.json'} does not fit {FILE}: {shortened(error.fault, 200)}; {AGAIN}"
        ) from None
    one = content["sizes"][number]
    return {**content, **one, "large": list(content["trained"]), "number": number, "suffix": suffix(number)}


def arrays(found: Mapping[str, Any], described: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """One network's arrays, of those of the file.

    Args:
      found: path -> array, of params.safetensors.
      described: the network, as `described` gives it.
      folder: of the file.

    Raises:
      UserError: the file is of other networks.
    """
    if "large" not in described:
        return dict(found)
    own, slices = set(described["own"]), described["slices"]
    try:
        small = {path: found[own_name(described["number"], path)] for path in own}
        for path in described["large"]:
            chosen = slices.get(path, {})
            if chosen is not None and path not in own:
                small[path] = taken(found[path], {int(axis): np.asarray(at) for axis, at in chosen.items()})
    except (KeyError, IndexError):
        raise UserError(
            f"{folder / 'params.safetensors'} is of other networks than program.json beside it; {AGAIN}"
        ) from None
    return small


def _listed(slices: Slices) -> dict[str, Any]:
    """As JSON has it."""
    return {
        path: None if chosen is None else {str(axis): at.tolist() for axis, at in chosen.items()}
        for path, chosen in slices.items()
    }
