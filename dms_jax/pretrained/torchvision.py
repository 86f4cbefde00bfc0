"""Networks of the zoo as torchvision's state dicts have them: the numbers of a file, and what they are called.

A state dict does not say how a network pads or which epsilon its BatchNorms have: torchvision's pad half a kernel on
every side, and have 1e-5 (1e-3 from EfficientNet-B5 on), so the network that is filled must, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import numpy as np

from dms_jax import reading
from dms_jax.errors import UserError
from dms_jax.models.efficientnet import EfficientNet
from dms_jax.models.mobilenet import MobileNetV2
from dms_jax.models.resnet import ResNet
from dms_jax.pretrained.tensors import LEAVES, number

SAFE = ".safetensors"
"""What `read` is not needed for."""

SUFFIXES = (".pth", ".pt", SAFE)

HINT = "give a state dict, as torch.save(network.state_dict(), file) writes it"

_WRAPPED = ("state_dict", "model_state_dict", "model")  # what training scripts keep it under

LARGE = 2.2
"""Block multiplier of EfficientNet-B5."""

_PARALLEL = "module."  # before every name, where the network was trained by several processes


def is_file(path: Path) -> bool:
    """Whether a path is of a file and not of a directory; one that is not there yet, by its name."""
    return path.is_file() or (not path.is_dir() and path.suffix in SUFFIXES)


def read(path: Path) -> dict[str, Any]:
    """PyTorch's tensors of a state dict by name. Code in the file is not run (PyTorch's reader of weights alone).

    Args:
      path: of a file of `torch.save`: a state dict, or a dict with one under "state_dict", "model_state_dict" or
        "model". "module." before all names is left out.

    Raises:
      UserError: PyTorch is missing, or the file is no state dict.
    """
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError(f"{path.name} is read with PyTorch, which is missing: install dms_jax[torch]") from error
    if not reading.regular_file(path):  # which would be waited for
        raise UserError(f"{path} is no file; {HINT}")
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # of many kinds, whose words advise to run what is in the file
        raise UserError(
            f"{path} cannot be read as weights: it is damaged, or holds more than tensors; {HINT}"
        ) from None
    for name in _WRAPPED:
        if isinstance(found, dict) and isinstance(found.get(name), dict):
            found = found[name]
    if not isinstance(found, dict) or not found:
        raise UserError(f"{path} holds {type(found).__name__}, and no tensors by name; {HINT}")
    wrong = next((k for k, x in found.items() if not isinstance(k, str) or not isinstance(x, torch.Tensor)), None)
    if wrong is not None:
        raise UserError(f"{path} has {reading.shown(wrong)} of type {type(found[wrong]).__name__}; {HINT}")
    strip = all(name.startswith(_PARALLEL) for name in found)
    for name, tensor in found.items():
        if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_meta:
            raise UserError(f"{path}: {reading.shown(name)} is sparse, quantized or without numbers; {HINT}")
    return {name.removeprefix(_PARALLEL) if strip else name: tensor.detach() for name, tensor in found.items()}


def kind(tensor: Any) -> str:
    """The dtype of a tensor as safetensors call it, or as PyTorch does where weights are not read in it."""
    name = str(tensor.dtype).removeprefix("torch.")
    return {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}.get(name, name)


def array(tensor: Any) -> np.ndarray:
    """The numbers of a tensor; NumPy has no bfloat16."""
    return (tensor.float() if kind(tensor) == "BF16" else tensor).numpy()


def namer(model: nn.Module) -> Callable[[tuple[str, ...], str, Any], str] | None:
    """`(module, leaf, model) -> name` for the networks of a family; None: not one that is known here."""
    return _NAMES.get(type(model))


def convention(model: Any) -> dict[str, Any]:
    """Arguments with which a network computes as torchvision's of its family does; none where it does anyhow."""
    large = isinstance(model, EfficientNet) and model.block_multiplier >= LARGE
    inverted = isinstance(model, MobileNetV2 | EfficientNet)
    return {"symmetric": True, "epsilon": 1e-3 if large else 1e-5} if inverted else {}


def faults(model: Any) -> list[str]:
    """Where a network computes otherwise than torchvision's does with the same numbers."""
    wrong = {name: value for name, value in convention(model).items() if getattr(model, name) != value}
    arguments = ", ".join(f"{name}={value}" for name, value in wrong.items())
    return [f"torchvision's network has {arguments}; make it so"] if wrong else []


# --- names ---


def _resnet(module: tuple[str, ...], leaf: str, model: ResNet) -> str:
    outside = {"conv": "conv1", "norm": "bn1", "classifier": "fc"}
    if len(module) == 1:
        return f"{outside[module[0]]}.{LEAVES[leaf]}"
    stage, *block, layer = module
    inside = {"shortcut": "downsample.0", "shortcut_norm": "downsample.1"}.get(layer)
    if inside is None:
        inside = f"{'bn' if 'norm' in layer else 'conv'}{number(layer)}"
    place = number(block[0]) if block else 0
    return f"layer{number(stage)}.{place}.{inside}.{LEAVES[leaf]}"


_PARTS = {"conv": 0, "norm": 1}


def _mobilenet(module: tuple[str, ...], leaf: str, model: MobileNetV2) -> str:
    blocks = [math.ceil(stage[2] * model.block_multiplier) for stage in model.stages]
    if module == ("classifier",):
        return f"classifier.1.{LEAVES[leaf]}"
    if len(module) == 2:
        place = 0 if module[0] == "stem_conv" else 1 + sum(blocks)
        return f"features.{place}.{_PARTS[module[1]]}.{LEAVES[leaf]}"
    stage, block, layer, part = number(module[0]), number(module[1]), module[2], module[3]
    layers = ["expand", "depthwise", "project"][1 if model.stages[stage - 1][0] == 1 else 0 :]
    at = layers.index(layer)
    inside = f"{at + _PARTS[part]}" if layer == "project" else f"{at}.{_PARTS[part]}"
    return f"features.{1 + sum(blocks[: stage - 1]) + block}.conv.{inside}.{LEAVES[leaf]}"


def _efficientnet(module: tuple[str, ...], leaf: str, model: EfficientNet) -> str:
    if module == ("classifier",):
        return f"classifier.1.{LEAVES[leaf]}"
    if len(module) == 2:
        place = 0 if module[0] == "stem_conv" else 1 + len(model.stages)
        return f"features.{place}.{_PARTS[module[1]]}.{LEAVES[leaf]}"
    stage, block, layer, part = number(module[0]), number(module[1]), module[2], module[3]
    layers = ["expand", "depthwise", "squeeze", "project"][1 if model.stages[stage - 1][0] == 1 else 0 :]
    inside = {"reduce": "fc1", "expand": "fc2"}[part] if layer == "squeeze" else str(_PARTS[part])
    return f"features.{stage}.{block}.block.{layers.index(layer)}.{inside}.{LEAVES[leaf]}"


_NAMES: Mapping[type[nn.Module], Any] = {ResNet: _resnet, MobileNetV2: _mobilenet, EfficientNet: _efficientnet}
"""By family."""
