"""How near a budget the result lands: achieved over asked for, 40 budgets from 5 to 90 %.

    python -m experiments.benchmarks.landing [--quick | --tables]

About eight minutes of one core, nothing is trained. On every network of the zoo at its standard size, MACs and
parameters, our projection gets for every budget new random pruning ratios and importances: harder than the end of a
search, whose ratios are near the budget already. Torch-Pruning prunes the same networks of torchvision with random
weights, in two ways: "progressive", its experiments' loop (global ranking, 400 small steps towards a ratio of 1, stop
at the first step at or under the budget), and "ratio", its documentation's one-shot with the channel ratio that its
rule of thumb gives, (1 - ratio)^2 = budget. One counter for everybody: ours; for PyTorch the same rule on the layers'
shapes, and both counts of a full network must be equal, or the cell fails.

A budget below the smallest reachable network is no miss: it is refused by name, and counted as such.

What it shows: whether one gets what one asked for. What it does not: whether the network is any good.
"""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from dms_jax.errors import Interrupted, UserError
from dms_jax.method import projection
from dms_jax.space import SearchSpace
from dms_jax.training.interrupt import InterruptFlag
from experiments.benchmarks import pictures
from experiments.benchmarks.command import Options, start
from experiments.benchmarks.networks import Network
from experiments.benchmarks.rivals import absent
from experiments.benchmarks.store import Cell, Say, file_label
from experiments.benchmarks.tables import table

RESOURCES = ("macs", "params")
LLAMA_7B = {"vocabulary": 32_000, "width": 4096, "layers": 32, "heads": 32, "hidden": 11_008, "search_width": True}


@dataclass(frozen=True, eq=False)
class Landed(Network):
    """A network that is brought to budgets.

    Attributes:
      torchvision: the name of the same network there, where Torch-Pruning prunes it.
      batch, seconds: for measuring milliseconds: images at a time, and how long pieces are measured.
    """

    torchvision: str = ""
    batch: int = 1
    seconds: float = 120.0


def images(name: str, torchvision: str = "", pixels: int = 224, **arguments: Any) -> Landed:
    """A network of the zoo on one picture."""
    return Landed(name, name, arguments, (pixels, pixels, 3), torchvision)


NETWORKS = (
    images("resnet18", "resnet18"),
    images("resnet50", "resnet50"),
    images("mobilenet_v2", "mobilenet_v2"),
    images("efficientnet_b0", "efficientnet_b0"),
    images("vit_base_patch16_224", "vit_b_16"),
    images("deit_small"),
    images("swin_tiny"),
    Landed("llama 7B, 128 tokens", "llama", LLAMA_7B, (128,)),
)
QUICK_NETWORKS = (images("resnet20", pixels=8), images("resnet18", "resnet18", pixels=32))
BUDGETS = tuple(float(x) for x in np.geomspace(0.05, 0.9, 40).round(4))
QUICK_BUDGETS = BUDGETS[5::12]


def from_random(space: SearchSpace, number: int, budget: Mapping[str, float]) -> Any:
    """What the projection keeps of random pruning ratios and importances, the same ones for a number."""
    draw = np.random.default_rng(number)
    ratios = {name: float(ratio) for names in space.counted for ratio in [draw.uniform()] for name in names}
    ranking = {name: draw.exponential(size=group.size) for name, group in space.groups.items()}
    return projection.project(space, ratios, ranking, budget)


def project(network: Landed, budgets: Sequence[float], say: Say) -> dict[str, Any]:
    """Our projection from random states: {resource: [[asked, achieved / asked, or None where refused], ...]}."""
    space, found = network.space(), {}
    full, least = space.resources(), space.smallest
    for resource in RESOURCES:
        found[resource] = []
        for number, asked in enumerate(budgets):
            most = int(asked * full[resource])
            if most < least[resource]:
                found[resource].append([asked, None])
                continue
            kept = from_random(space, number, {resource: most})
            found[resource].append([asked, space.resources(kept)[resource] / most])
            say(f"{resource} {100 * asked:.3g} %")
    return found


def progressive(network: Landed, budgets: Sequence[float], say: Say, steps: int) -> dict[str, Any]:
    """Torch-Pruning's loop: the resources after every step, and for a budget the first step at or under it."""
    rival = _Rival(network)
    model, count = rival.fresh()
    pruner, path = rival.pruner(model, steps), [count()]
    lowest = {resource: budgets[0] * path[0][resource] for resource in RESOURCES}
    while pruner.current_step < steps and any(path[-1][r] > lowest[r] for r in RESOURCES):
        with rival.torch.quiet():
            pruner.step()
        path.append(count())
        say(f"step {pruner.current_step}, {100 * path[-1]['macs'] / path[0]['macs']:.0f} % of the MACs")
    found = {}
    for resource in RESOURCES:
        landed = [next((p[resource] for p in path if p[resource] <= b * path[0][resource]), None) for b in budgets]
        full = path[0][resource]
        found[resource] = [[b, x and x / int(b * full)] for b, x in zip(budgets, landed, strict=True)]
    return found


def ratio(network: Landed, budgets: Sequence[float], say: Say) -> dict[str, Any]:
    """Torch-Pruning's one-shot at the ratio of its rule of thumb; one network serves both resources."""
    rival, found = _Rival(network), {resource: [] for resource in RESOURCES}
    for asked in budgets:
        model, count = rival.fresh()
        full = count()
        with rival.torch.quiet():
            rival.pruner(model, 1, pruning_ratio=1 - asked**0.5, global_pruning=False).step()
        now = count()
        for resource in RESOURCES:
            found[resource].append([asked, now[resource] / int(asked * full[resource])])
        say(f"{100 * asked:.3g} %")
    return found


class _Rival:
    """A network of torchvision with random weights whose channels differ in size, and its counter."""

    def __init__(self, network: Landed):
        from experiments.benchmarks import torch_networks

        self.torch, torch = torch_networks, torch_networks.torch
        torch.manual_seed(0)
        with torch_networks.quiet():
            import torchvision  # pyright: ignore[reportMissingImports]

            self.model = getattr(torchvision.models, network.torchvision)(weights=None).eval()
        with torch.no_grad():
            for layer in self.model.modules():
                if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear):
                    scale = torch.randn(len(layer.weight)).exp()
                    layer.weight.mul_(scale.reshape(-1, *[1] * (layer.weight.ndim - 1)))
        batch, height, width, channels = network.example.shape
        self.example = torch.randn(batch, channels, height, width)
        ours, theirs = network.space().resources(), self.fresh()[1]()
        if ours != theirs:
            raise UserError(f"{network.title}: we count {ours}, PyTorch's {network.torchvision} has {theirs}")

    def fresh(self) -> tuple[Any, Any]:
        """A copy to be pruned, and its counter."""
        gc.collect()  # graphs of earlier copies lie in circles of references: hundreds of MB each
        model = copy.deepcopy(self.model)
        return model, self.torch.Counter(model, self.example)

    def pruner(self, model: Any, steps: int, **options: Any) -> Any:
        importance = self.torch.torch_pruning.importance.GroupMagnitudeImportance(p=2)
        attention = self.torch.nn.MultiheadAttention
        heads = [m.num_heads for m in model.modules() if isinstance(m, attention)]
        # as in its examples of vision transformers: every head loses as many dimensions
        options |= {"round_to": heads[0]} if heads else {}
        return self.torch.pruner(model, self.example, importance, steps, **options)


Land = Callable[[Landed, Sequence[float], Say], dict[str, Any]]
OURS = "ours"
METHODS: dict[str, Land] = {
    OURS: project,
    "Torch-Pruning, progressive": partial(progressive, steps=400),
    "Torch-Pruning, ratio": ratio,
}
QUICK_METHODS = METHODS | {"Torch-Pruning, progressive": partial(progressive, steps=20)}


def cell(network: Landed, method: str, budgets: Sequence[float]) -> Cell:
    """The cell of one method on one network."""
    settings = {"network": network.title, "example": list(network.example.shape), "method": method}
    settings["budgets"] = list(budgets)
    return Cell("landing", file_label(f"{network.title}-{method}"), settings, settings, 0)


def rows(network: Landed, method: str, found: Mapping[str, Any]) -> list[list[str]]:
    """A row a resource."""
    lines = []
    for resource in RESOURCES:
        landed = np.array([x for _, x in found[resource] if x is not None])
        refused = sum(x is None for _, x in found[resource])
        if not len(landed):
            lines.append([network.title, resource, method, "-", "-", "-", "-", str(refused)])
            continue
        misses = 100 * (landed - 1)
        worst = misses[np.argmax(np.abs(misses))]
        lines.append([network.title, resource, method, f"{np.median(np.abs(misses)):.3f}", f"{worst:+.3f}",
                      f"{100 * np.mean(landed > 1):.0f}", str(len(landed)), str(refused)])  # fmt: skip
    return lines


def points(
    found: Mapping[tuple[Landed, str], Mapping[str, Any]], resource: str, method: str
) -> list[tuple[float, float]]:
    """(asked for, achieved / asked for) of a method on all networks; refused budgets are left out."""
    landed = [one for (_, name), result in found.items() if name == method for one in result[resource]]
    return [(asked, ratio) for asked, ratio in landed if ratio is not None]


HEADER = "network | budget on | method | median miss, % | worst, % | above the budget, % | budgets | not reached"


def main(options: Options) -> None:
    """Fill the cells and write the table."""
    networks, budgets = (QUICK_NETWORKS, QUICK_BUDGETS) if options.quick else (NETWORKS, BUDGETS)
    methods = QUICK_METHODS if options.quick else METHODS
    asked = {(n, m): cell(n, m, budgets) for n in networks for m in methods if m == OURS or n.torchvision}
    reason = absent("torch", "torch_pruning", "torchvision")
    able = [(n, m) for n, m in asked if m == OURS or not reason]
    work = [(asked[n, m], partial(_compute, methods[m], n, budgets)) for n, m in able]
    options.cells.fill(work, "landing", "shapes alone, random states")
    found = options.cells.found(asked)
    about = (
        f"`python -m experiments.benchmarks.landing`: achieved over asked for, {len(budgets)} "
        f"budgets from {100 * budgets[0]:g} to "
        f"{100 * budgets[-1]:g} % of the full network. Negative is under the budget. Not reached: below the smallest "
        "network there is."
    )
    landed = {r: {m: points(found, r, m) for m in methods} for r in RESOURCES}
    parts = [
        about,
        options.drawn("landing", "Achieved over asked for", pictures.misses(landed)),
        table(HEADER.split(" | "), [line for (n, m), result in found.items() for line in rows(n, m, result)]),
        f"Torch-Pruning is {reason}." if reason and len(found) < len(asked) else "",
        options.cells.machines(asked.values()),
    ]
    options.publish("landing", "Landing: achieved over asked for", parts)


def _compute(
    method: Land, network: Landed, budgets: Sequence[float], interrupt: InterruptFlag, say: Say
) -> dict[str, Any]:
    def told(text: str) -> None:
        say(text)
        if interrupt.requested:
            raise Interrupted(0, "stopped")

    return method(network, budgets, told)


if __name__ == "__main__":
    start(main, __doc__)
