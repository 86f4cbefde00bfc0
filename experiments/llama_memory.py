"""What pruning a language model needs on every device, before any device or any weight is there.

    python -m experiments.llama_memory --model=DIR-or-config.json --devices=8 --fsdp=8 --batch=8 --length=2048

prints the bytes of a step of the search and of the finetuning that `experiments.llama_prune` would run with the same
flags, computed from shapes (see `dms_jax.training.memory`). With --xla it also compiles both steps, with few layers, on
as many imagined CPU devices, and draws the line through XLA's counts to the full number of layers.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich import box
from rich.console import Console
from rich.table import Table

from dms_jax.baselines import uniform
from dms_jax.command_line import parse
from dms_jax.errors import exit_on_user_error
from dms_jax.method.schedule import Schedule
from dms_jax.method.search import Search
from dms_jax.models.llama import Llama
from dms_jax.pretrained.directory import read_json
from dms_jax.pretrained.llama_configuration import from_config
from dms_jax.space import SearchSpace
from dms_jax.structure import Structure
from dms_jax.training import memory, supervised
from dms_jax.training.distillation import Distillation
from dms_jax.training.language import language_loss
from experiments import bounds
from experiments.llama_prune import adamw

COMMAND = "python -m experiments.llama_memory"
FEW = (2, 4)  # layers that --xla compiles


@dataclass(frozen=True)
class Config:
    """Plan the memory of pruning a language model."""

    model: Path
    """Hugging Face directory or its config.json; no weights are read."""
    devices: int = 8
    """Number of devices of the mesh."""
    fsdp: int = 8
    """FSDP sharding degree."""
    batch: int = 8
    """Global batch size, in windows."""
    length: int = 2048
    """Window length, in tokens."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Computation dtype; parameters stay float32."""
    remat: bool = True
    """Rematerialize every layer in the backward pass."""
    params: float = 0.8
    """Parameter budget of the finetuned network, as a fraction."""
    distill: bool = True
    """Distill from the original network."""
    xla: bool = False
    """Also print XLA's own memory analysis."""
    json: bool = False
    """Print bytes as JSON."""


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    config = parse(Config, arguments, prog=COMMAND, description=__doc__)
    bounds.check(config)
    jax.config.update("jax_platforms", "cpu")
    if config.xla:
        jax.config.update("jax_num_cpu_devices", config.devices)
    shape = memory.Shape(config.devices, config.fsdp, config.batch, config.length)
    file = config.model / "config.json" if config.model.is_dir() else config.model
    model = from_config(read_json(file), dtype=config.dtype, remat=config.remat)
    found = plans(model, shape, config.params, distill=config.distill)
    temporaries = _temporaries(model, shape, config) if config.xla else {}
    if config.json:
        print(json.dumps({name: _numbers(plan, temporaries.get(name)) for name, plan in found.items()}, indent=1))
    else:
        _print(f"{file}: GB on each of {config.devices} devices", found, temporaries)


def plans(model: Llama, shape: memory.Shape, params: float, *, distill: bool = True) -> dict[str, memory.Plan]:
    """{"search": of the full network, "finetune": of one with the same share of every group kept}."""
    search = _search(model, shape, params, distill)
    space = search.space
    ranking = {name: np.arange(group.size) for name, group in space.groups.items()}
    even = uniform(space, ranking, search.targets).kept  # without sizes: a pruned model's are not those it declares
    small = model.clone(structure=Structure(even))
    original = memory.abstract_variables(model)
    loss = language_loss(small, Distillation() if distill else None)
    return {
        "search": memory.search_plan(search, shape, teacher=distill),
        "finetune": memory.finetune_plan(small, loss, _optimizer(), original, shape, teacher=distill),
    }


def _search(model: Llama, shape: memory.Shape, params: float, distill: bool) -> Search:
    space = SearchSpace.from_model(model, jax.ShapeDtypeStruct((1, shape.length), jnp.int32))
    loss = language_loss(model, Distillation() if distill else None)
    return Search(space, loss, _optimizer(), {"params": params}, Schedule(200))


def _optimizer() -> optax.GradientTransformation:
    return adamw(optax.constant_schedule(1e-5))


def _temporaries(model: Llama, shape: memory.Shape, config: Config) -> dict[str, int]:
    """XLA's counts with few layers, and the line through them at all of the layers."""
    counts: dict[str, list[int]] = {"search": [], "finetune": []}
    for layers in FEW:
        few = model.clone(layers=layers, window_layers=None)
        search = _search(few, shape, 0.999, config.distill)
        plain = supervised.make_step(search.loss, _optimizer())
        variables = memory.abstract_variables(few)
        states = {
            "search": (search.step, jax.eval_shape(search.init, variables)),
            "finetune": (plain, jax.eval_shape(lambda v: supervised.init(v, _optimizer()), variables)),
        }
        for name, (step, state) in states.items():
            teacher = config.distill
            counts[name].append(memory.xla_temporaries(step, state, model.vocabulary, shape, teacher=teacher))
    return {name: _line(few, model.layers) for name, few in counts.items()}


def _line(few: Sequence[int], layers: int) -> int:
    slope = (few[1] - few[0]) / (FEW[1] - FEW[0])
    return int(few[0] + slope * (layers - FEW[0]))


def _numbers(plan: memory.Plan, temporaries: int | None) -> dict[str, Any]:
    return {
        "held": dict(plan.held),
        "during": dict(plan.during),
        "total": plan.total,
        "scores of attention without a fast kernel": plan.scores,
        **({} if temporaries is None else {"temporaries by XLA": temporaries}),
    }


def _print(title: str, found: dict[str, memory.Plan], temporaries: dict[str, int]) -> None:
    table = Table(title=title, box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("what", no_wrap=True)
    for name in found:
        table.add_column(name, justify="right", no_wrap=True)

    def add(what: str, numbers: list[int | None]) -> None:
        table.add_row(what, *("" if n is None else f"{n / 1e9:.2f}" for n in numbers))

    some = list(found.values())
    for part in ("held", "during"):
        rows = dict.fromkeys(name for plan in some for name in getattr(plan, part))
        for row in rows:
            add(row, [getattr(plan, part).get(row) for plan in some])
        table.add_section()
    add("all of it, with a fast attention kernel", [plan.total for plan in some])
    add("scores of attention, without one", [plan.scores for plan in some])
    if temporaries:
        add("temporaries of a step by XLA, on CPUs", [temporaries[name] for name in found])
    console = Console()
    console.width = max(console.width, 100)
    console.print(table)


if __name__ == "__main__":
    exit_on_user_error(main)()
