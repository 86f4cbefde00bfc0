"""Image networks that are there already: a finished run, a structure.json, or the weights of others."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import dms_jax
from dms_jax import models, pretrained
from dms_jax.data import mixing
from dms_jax.elements import Searchable
from dms_jax.errors import UserError
from dms_jax.models.arguments import check_arguments
from dms_jax.pretrained.directory import read_json
from dms_jax.structure import Structure


def network(
    path: Path, name: str | None, *, resolution: int, num_classes: int, dtype: str | None = None
) -> tuple[Searchable, Any]:
    """A network and its variables: of a finished run, or the weights of others for a network of the zoo.

    Args:
      path: the directory of a run or of Hugging Face, or a `.pth` of torchvision.
      name: of the network; a finished run says it itself.
      resolution: pixels of a side, for families whose weights are of one resolution.
      num_classes: that the weights tell apart.
      dtype: of computation, for Hugging Face weights; None is the network's own.

    Raises:
      UserError: neither is there, or it does not fit.
    """
    if (path / "structure.json").exists():
        model, variables = dms_jax.load(path)
        return model, variables  # type: ignore[return-value]
    if name is None:
        raise UserError(f"{path} is no finished run; for Hugging Face weights say of which network they are")
    takes = {f.name for f in dataclasses.fields(models.create(name))}
    offered = {"num_classes": num_classes, "image_size": resolution, "dtype": dtype}
    arguments = {name: value for name, value in offered.items() if name in takes and value is not None}
    arguments = pretrained.arguments(name, path, **arguments)
    return models.create(name, **arguments), pretrained_images(name, path, arguments)


def pretrained_images(name: str, path: Path, arguments: dict[str, Any]) -> Any:
    """Weights of an image network that saw pixels as they are shown here.

    Raises:
      UserError: they do not fit; or they were trained on pixels that were normalised otherwise.
    """
    file = path / "preprocessor_config.json"
    if file.exists():
        said = read_json(file)
        for key, ours in (("image_mean", mixing.MEAN), ("image_std", mixing.STD)):
            theirs = said.get(key)
            if theirs is not None and not np.allclose(theirs, ours, atol=1e-3):
                raise UserError(
                    f"{path} saw pixels with {key} {theirs}, and the image commands show them with {ours.tolist()}: "
                    "it would be measured, and teach, wrongly; take weights trained with ImageNet's"
                )
    return pretrained.load(name, path, **arguments)


class Described(NamedTuple):
    """The network that a structure is of: `size` are pixels of a side that it saw, `counted` those resources are of."""

    name: str
    arguments: dict[str, Any]
    size: int
    counted: int


def described(structure: Structure, path: Path) -> Described:
    """What a structure says of its network.

    Raises:
      UserError: it does not say, or it is no image network.
    """
    try:
        model = dict(structure.model or {})
        shape = model["example"][0]["shape"]
        name, arguments = str(model["name"]), dict(model["arguments"])
        counted = int(shape[1])
        size = int(model.get("resolution", counted))
    except (KeyError, TypeError, ValueError, IndexError):
        raise UserError(
            f"{path} does not say which network of the zoo it is of; write it with imagenet_search"
        ) from None
    check_arguments(name, arguments, str(path))
    if len(shape) != 4 or not 1 <= min(size, counted) <= max(size, counted) <= 4096:
        raise UserError(f"{path} is of {name}, which is no image network of 1 to 4096 pixels a side")
    return Described(name, arguments, size, counted)
