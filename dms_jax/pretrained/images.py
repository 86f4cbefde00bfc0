"""Weights of the image families: a Hugging Face directory (config.json, safetensors), or torchvision's state dicts."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from dms_jax import models, reading
from dms_jax.errors import UserError
from dms_jax.models.efficientnet import EfficientNet
from dms_jax.models.mobilenet import MobileNetV2
from dms_jax.models.resnet import ResNet
from dms_jax.models.swin import Swin
from dms_jax.models.vit import VisionTransformer
from dms_jax.pretrained import efficientnet, mobilenet, resnet, swin, torchvision, vit
from dms_jax.pretrained.directory import (
    DTYPES,
    HINT,
    StoredTensor,
    finite,
    read_json,
    read_tensors,
    stored_tensors,
    tensors_of,
)

# Each family says `tensor_name(module, leaf, model)`: where a leaf of a module is stored; `configuration(model)`: what
# config.json has to say where it says anything; `example(model)`: the shape of an input.
_FAMILIES: dict[type[nn.Module], ModuleType] = {
    ResNet: resnet,
    MobileNetV2: mobilenet,
    EfficientNet: efficientnet,
    VisionTransformer: vit,
    Swin: swin,
}

# Follow from the rest: counters of BatchNorm, and tables that older versions of transformers wrote out.
_DERIVED = ("num_batches_tracked", "relative_position_index")

# How many leading axes of a kernel are inputs, where it is not all but the last.
_READS = {"query": 1, "key": 1, "value": 1}


def load(name: str, path: str | os.PathLike[str], **arguments: Any) -> dict[str, Any]:
    """Load the weights of a network of the zoo.

    Args:
      name: as in `dms_jax.models.create`, such as "resnet50".
      path: a Hugging Face directory: config.json, and model.safetensors or the shards of model.safetensors.index.json.
        Or a file with a state dict of torchvision's ResNet, MobileNetV2 or EfficientNet: `.safetensors`, or `.pth`,
        which is read with PyTorch (`dms_jax[torch]`); the latter two with `symmetric=True, epsilon=1e-5`, as
        torchvision computes.
      **arguments: as in `dms_jax.models.create`, such as `num_classes=1001`; the variables are for this network. Where
        config.json calls the first of one class too many "background", that class is left out.

    Returns:
      {"params": ..., "batch_stats": ...} (the latter where there is BatchNorm), float32, on the default device.

    Raises:
      UserError: an unknown name, a family that is not read, no such directory, missing shards; or anything that does
        not fit: entries of config.json, tensors that are missing, not used, or of another shape or type, all listed.
    """
    model, path = models.create(name, **arguments), Path(path)
    family = _FAMILIES.get(type(model))
    if family is None:
        known = ", ".join(known.__name__ for known in _FAMILIES)
        raise UserError(f"{name!r} is of no family whose weights are read here: {known} (language models: llama.load)")
    leaves = _leaves(model, family.example(model))
    source = _torchvision(path, model) if torchvision.is_file(path) else _hugging_face(path, model, family)
    wanted = {leaf: source.tensor_name(leaf[1:-1], leaf[-1], model) for leaf in leaves}
    first = source.first
    shapes = {leaf: stored_shape(leaf, shape) for leaf, shape in leaves.items()}
    shapes |= {leaf: (shape[0] + first, *shape[1:]) for leaf, shape in shapes.items() if leaf[1] == CLASSIFIER}
    faults = [*source.faults, *_tensor_faults(shapes, wanted, source.stored)]
    if faults:
        raise UserError(f"{path} does not fit {name}, {len(faults)} faults: {'; '.join(faults)}")
    paths = {key: leaf for leaf, key in wanted.items()}
    filled = {}
    for key, array in source.read(paths):
        leaf = paths[key]
        array = finite(array[first:] if leaf[1] == CLASSIFIER else array, np.float32, key)
        filled[leaf] = from_stored(array, leaf, leaves[leaf])
    return unflatten_dict({leaf: jnp.asarray(filled[leaf]) for leaf in leaves})


def arguments(name: str, path: str | os.PathLike[str], **given: Any) -> dict[str, Any]:
    """What `load(name, path, ...)` needs besides, so that the network computes as the one whose weights they are.

    Args:
      name, path: as `load` takes them; nothing is read.
      **given: arguments of the network that are known.

    Returns:
      These, and `symmetric=True, epsilon=1e-5` (or 1e-3) for a state dict of torchvision's MobileNetV2 or EfficientNet.
    """
    if not torchvision.is_file(Path(path)):
        return given
    return {**torchvision.convention(models.create(name, **given)), **given}


class _Source(NamedTuple):
    """Where weights come from.

    Attributes:
      stored: what there is.
      read: from names to these and their arrays.
      tensor_name: `(module, leaf, model) -> name`.
      faults: why the network is not the one that is stored.
      first: the class that the network's first one is; 1 where the file has a "background" before it.
    """

    stored: Mapping[str, StoredTensor]
    read: Callable[[Iterable[str]], Iterable[tuple[str, np.ndarray]]]
    tensor_name: Callable[[tuple[str, ...], str, Any], str]
    faults: list[str]
    first: int = 0


def _hugging_face(path: Path, model: Any, family: ModuleType) -> _Source:
    config, stored = read_json(path / "config.json"), stored_tensors(path)
    faults = _config_faults(config, family.configuration(model))
    first = int(_has_background(config, model, stored))
    return _Source(stored, partial(read_tensors, stored), family.tensor_name, faults, first)


def _torchvision(path: Path, model: Any) -> _Source:
    tensor_name = torchvision.namer(model)
    if tensor_name is None:
        raise UserError(f"{path.name}: torchvision's {type(model).__name__} is not read here; {HINT}")
    if path.suffix == torchvision.SAFE:
        kept = tensors_of(path)
        return _Source(kept, partial(read_tensors, kept), tensor_name, torchvision.faults(model))
    tensors = torchvision.read(path)
    stored = {key: StoredTensor(path, tuple(x.shape), torchvision.kind(x)) for key, x in tensors.items()}
    read = lambda keys: ((key, torchvision.array(tensors[key])) for key in keys)  # noqa: E731
    return _Source(stored, read, tensor_name, torchvision.faults(model))


Leaf = tuple[str, ...]  # collection, modules, name
CLASSIFIER = "classifier"  # the module that every family has


def _has_background(config: Mapping[str, Any], model: Any, stored: Mapping[str, StoredTensor]) -> bool:
    """Whether the first class of the file is none of the network's: Google's MobileNets were trained so."""
    names, weight = config.get("id2label"), stored.get("classifier.weight")
    called = names.get("0") if isinstance(names, dict) else None
    return called == "background" and weight is not None and weight.shape[0] == model.num_classes + 1


def _leaves(model: nn.Module, example: tuple[int, ...]) -> dict[Leaf, tuple[int, ...]]:
    image = jax.ShapeDtypeStruct(example, jnp.float32)
    flat: dict[Leaf, Any] = dict(flatten_dict(dict(jax.eval_shape(model.init, jax.random.key(0), image))))
    return {path: tuple(leaf.shape) for path, leaf in flat.items()}


def stored_shape(leaf: Leaf, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape in the file of a leaf: kernels `[outputs, inputs, ...]`, biases flat, all else as it is here."""
    if leaf[-1] == "bias":
        return (int(np.prod(shape)),)
    if leaf[-1] != "kernel":
        return shape
    if len(shape) == 4:
        height, width, inputs, outputs = shape
        return outputs, inputs, height, width
    reads = _READS.get(leaf[-2], len(shape) - 1)
    return int(np.prod(shape[reads:])), int(np.prod(shape[:reads]))


def from_stored(array: np.ndarray, leaf: Leaf, shape: tuple[int, ...]) -> np.ndarray:
    """What is in the file -> the leaf of shape `shape`, float32."""
    if leaf[-1] == "kernel":
        array = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
    return np.asarray(array.reshape(shape), np.float32, order="C")


def _config_faults(config: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    return [
        f"config.json has {key} {reading.shown(config[key])}, the network {value!r}"
        for key, value in expected.items()
        if key in config and not _same(config[key], value)
    ]


def _same(found: Any, expected: Any) -> bool:
    if isinstance(expected, tuple):
        return isinstance(found, list) and tuple(found) == expected
    if isinstance(expected, frozenset):  # any of these
        return isinstance(found, str) and found in expected
    return found == expected and isinstance(found, bool) == isinstance(expected, bool)


def _tensor_faults(
    shapes: Mapping[Leaf, tuple[int, ...]], wanted: Mapping[Leaf, str], stored: Mapping[str, StoredTensor]
) -> list[str]:
    faults = []
    for leaf, key in wanted.items():
        expected = shapes[leaf]
        if key not in stored:
            faults.append(f"{key} is missing ({'/'.join(leaf)} stays empty)")
        elif stored[key].shape != expected:
            hint = f"; make it with num_classes={stored[key].shape[0]}" if leaf[1].endswith("classifier") else ""
            faults.append(f"{key} has shape {stored[key].shape}, the network's is {expected}{hint}")
        elif stored[key].dtype not in DTYPES:
            faults.append(f"{key} holds {stored[key].dtype}, not one of {', '.join(DTYPES)}")
    used = set(wanted.values())
    return faults + [f"{key} is not used" for key in stored if key not in used and not key.endswith(_DERIVED)]
