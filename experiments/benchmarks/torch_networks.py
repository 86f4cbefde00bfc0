"""PyTorch networks for benchmarks: the twin of our small ResNets, one counter, and Torch-Pruning's own loop.

Imported only where PyTorch and Torch-Pruning are installed.
"""

# pyright: reportMissingImports=false, reportArgumentType=false, reportCallIssue=false, reportAttributeAccessIssue=false
# pyright: reportIndexIssue=false, reportOptionalMemberAccess=false

from __future__ import annotations

import importlib
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

with warnings.catch_warnings():  # what other packages say of themselves when they are imported
    warnings.simplefilter("ignore")
    import torch
    from torch import nn
    from torch.nn import functional

    # by its name: a checker of types takes an import for the benchmark beside this file
    torch_pruning: Any = importlib.import_module("torch_pruning")


class Block(nn.Module):
    """Two 3x3 convolutions and a skip, as `dms_jax.models.resnet.BasicBlock` in its stage."""

    def __init__(self, weights: Mapping[str, Any], shortcut: Mapping[str, Any], stride: int):
        super().__init__()
        self.conv1, self.norm1 = _conv(weights["conv1"], stride), _norm(weights["norm1"])
        self.conv2, self.norm2 = _conv(weights["conv2"], 1), _norm(weights["norm2"])
        if shortcut:
            self.shortcut, self.shortcut_norm = _conv(shortcut["shortcut"], stride), _norm(shortcut["shortcut_norm"])
        else:
            self.shortcut = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm2(self.conv2(functional.relu(self.norm1(self.conv1(x)))))
        return functional.relu(y + (x if self.shortcut is None else self.shortcut_norm(self.shortcut(x))))


class SmallResNet(nn.Module):
    """The twin of a ResNet for small images, of the sizes of some variables (a shrunk network's, too).

    `forward(images: [B, 3, H, W]) -> logits [B, classes]`.

    Args:
      params: of the Flax network.
    """

    def __init__(self, params: Mapping[str, Any]):
        super().__init__()
        self.conv, self.norm = _conv(params["conv"], 1), _norm(params["norm"])
        self.stages = sorted(name for name in params if name.startswith("stage"))
        for name in self.stages:
            stage, blocks = params[name], nn.ModuleDict()
            for block in sorted((b for b in stage if b.startswith("block")), key=lambda b: int(b[5:])):
                shortcut = stage if block == "block0" and "shortcut" in stage else {}
                blocks[block] = Block(stage[block], shortcut, 2 if shortcut else 1)
            setattr(self, name, blocks)
        features, classes = params["classifier"]["kernel"].shape
        self.classifier = nn.Linear(features, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = functional.relu(self.norm(self.conv(images)))
        for name in self.stages:
            for block in getattr(self, name).values():
                x = block(x)
        return self.classifier(x.mean((2, 3)))


def _conv(weights: Mapping[str, Any], stride: int) -> nn.Conv2d:
    height, _, inputs, outputs = weights["kernel"].shape
    return nn.Conv2d(inputs, outputs, height, stride, height // 2, bias=False)


def _norm(weights: Mapping[str, Any]) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(len(weights["scale"]), eps=1e-5, momentum=0.1)


def from_flax(variables: Mapping[str, Any]) -> SmallResNet:
    """The twin with the weights and statistics of Flax variables {"params", "batch_stats"}."""
    model = SmallResNet(variables["params"])
    load(model, variables)
    return model.eval()


def load(model: SmallResNet, variables: Mapping[str, Any]) -> None:
    """Give a twin, pruned or not, the weights and statistics of Flax variables of its sizes."""
    with torch.no_grad():
        for path, module in _layers(model):
            for name, tensor in _tensors(module).items():
                array = torch.tensor(np.asarray(_at(variables, _place(path, name))))
                tensor.copy_(_turned(array, back=False))


def to_flax(model: SmallResNet) -> dict[str, Any]:
    """The Flax variables of a twin, pruned or not."""
    variables: dict[str, Any] = {}
    for path, module in _layers(model):
        for name, tensor in _tensors(module).items():
            *parents, leaf = _place(path, name)
            node = variables
            for part in parents:
                node = node.setdefault(part, {})
            node[leaf] = _turned(tensor.detach(), back=True).contiguous().numpy().copy()
    return variables


def _layers(model: nn.Module) -> Iterator[tuple[tuple[str, ...], nn.Module]]:
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d | nn.Linear):
            path = tuple(name.split("."))
            # a shortcut is the stage's in Flax, the first block's here
            yield (path[0], path[-1]) if path[-1].startswith("shortcut") else path, module


def _tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    found: dict[str, Any]
    if isinstance(module, nn.BatchNorm2d):
        found = {"scale": module.weight, "bias": module.bias, "mean": module.running_mean, "var": module.running_var}
    else:
        found = {"kernel": module.weight, "bias": module.bias}
    return {name: tensor for name, tensor in found.items() if tensor is not None}


def _place(path: tuple[str, ...], name: str) -> tuple[str, ...]:
    return ("batch_stats" if name in ("mean", "var") else "params", *path, name)


def _at(tree: Any, path: tuple[str, ...]) -> Any:
    for part in path:
        tree = tree[part]
    return tree


def _turned(tensor: torch.Tensor, back: bool) -> torch.Tensor:
    """Kernels [H, W, I, O] <-> [O, I, H, W], [I, O] <-> [O, I]."""
    if tensor.ndim == 4:
        return tensor.permute(2, 3, 1, 0) if back else tensor.permute(3, 2, 0, 1)
    return tensor.T if tensor.ndim == 2 else tensor


class Counter:
    """Multiply-adds of convolutions, dense layers and attention, and parameters, of a network while it is pruned.

    How often a layer is used is seen once, in a forward pass of the full network; pruning channels changes the layers'
    shapes alone. The rule is `SearchSpace.resources`'s, so that one counter serves everybody.

    Args:
      model: the full network.
      example: inputs of batch size 1.
    """

    def __init__(self, model: nn.Module, example: torch.Tensor):
        self.model, self.positions = model, dict[nn.Module, int]()
        layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear | nn.MultiheadAttention)]
        hooks = [layer.register_forward_hook(self._seen) for layer in layers]
        with torch.no_grad():
            model.eval()(example)
        for hook in hooks:
            hook.remove()

    def _seen(self, layer: nn.Module, inputs: Any, output: Any) -> None:
        shape = (output[0] if isinstance(output, tuple) else output).shape
        self.positions[layer] = math.prod(shape[2:]) if isinstance(layer, nn.Conv2d) else math.prod(shape[:-1])

    def __call__(self) -> dict[str, int]:
        """{"macs", "params"} now."""
        macs = sum(self._macs(layer, positions) for layer, positions in self.positions.items())
        return {"macs": macs, "params": sum(p.numel() for p in self.model.parameters())}

    def _macs(self, layer: nn.Module, positions: int) -> int:
        if isinstance(layer, nn.MultiheadAttention):  # its output layer is fused, and never called as a module
            width = layer.embed_dim
            return 4 * positions * width**2 + 2 * positions**2 * width
        return positions * layer.weight.numel()


Gradients = Callable[[nn.Module], None]
"""Leaves gradients of the task loss in a network: what a Taylor importance reads."""


def pruner(model: nn.Module, example: torch.Tensor, importance: Any, steps: int, **options: Any) -> Any:
    """Torch-Pruning's pruner as its CIFAR experiments make it: global ranking, small steps towards a ratio of 1.

    Args:
      model: pruned in place.
      example: inputs of batch size 1.
      importance: of Torch-Pruning.
      steps: `iterative_steps`.
      **options: further ones of `BasePruner`; "make" is another class of pruner.
    """
    make = options.pop("make", torch_pruning.pruner.BasePruner)
    settings = {"global_pruning": True, "pruning_ratio": 1.0, "iterative_steps": steps} | options
    with quiet():
        return make(model, example, importance=importance, ignored_layers=outputs(model), **settings)


def outputs(model: nn.Module) -> list[nn.Module]:
    """The last dense layer, which is not to be pruned."""
    dense: list[nn.Module] = [m for m in model.modules() if isinstance(m, nn.Linear)]
    return dense[-1:]


def prune_below(pruner: Any, count: Counter, macs: int, gradients: Gradients | None, watch: Callable[[], None]) -> None:
    """Torch-Pruning's progressive loop: small steps until the network is at or under a number of MACs.

    Args:
      pruner: of the network that `count` counts.
      count: the counter.
      macs: where to stop.
      gradients: makes gradients before every step, for an importance that reads them; None for none.
      watch: called around every step.
    """
    while count()["macs"] > macs and pruner.current_step < pruner.iterative_steps:
        if gradients is not None:
            gradients(pruner.model)
        watch()
        with quiet():
            pruner.step()
        watch()


@contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings of other packages: they are not this project's to mend."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class Tracked:
    """Which channels of the network at the start are left, by BatchNorm layer.

    Pruning slices running means like weights, so for the time of a step they hold the numbers of the channels. Call
    it before and after every step (`prune_below`'s `watch`).
    """

    def __init__(self, model: nn.Module):
        self.layers = [(path, m) for path, m in _layers(model) if isinstance(m, nn.BatchNorm2d)]
        self.kept = {path: torch.arange(len(m.running_mean)) for path, m in self.layers}
        self.means: dict[tuple[str, ...], torch.Tensor] = {}

    def __call__(self) -> None:
        for path, layer in self.layers:
            if path not in self.means:
                self.means[path] = layer.running_mean.clone()
                layer.running_mean.copy_(torch.arange(len(layer.running_mean)))
                continue
            left = layer.running_mean.long()
            self.kept[path] = self.kept[path][left]
            layer.running_mean = self.means.pop(path)[left]
