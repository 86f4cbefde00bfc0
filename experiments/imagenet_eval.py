"""Evaluate an image network: top-1 and top-5 accuracy, MACs and parameters.

    python -m experiments.imagenet_eval --weights=runs/imagenet
    python -m experiments.imagenet_eval --model=resnet50 --weights=DIR

The first is a finished run of imagenet_search or imagenet_retrain, the second a directory of Hugging Face weights.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import tyro

from dms_jax.command_line import parse
from dms_jax.errors import UserError, exit_on_user_error
from dms_jax.space import SearchSpace
from dms_jax.structure import Structure
from dms_jax.training import place, processes, supervised
from experiments import bounds, recipes
from experiments.flags import Hosts, default
from experiments.image_flags import Data, Training
from experiments.image_networks import described, network
from experiments.image_preparation import prepare

COMMAND = "python -m experiments.imagenet_eval"


@dataclass(frozen=True)
class Config:
    """Evaluate an image network."""

    weights: Path
    """Directory of a finished run or of Hugging Face weights."""
    model: Annotated[str | None, default("what the run says")] = None
    """Architecture of the Hugging Face weights."""
    fsdp: int = 1
    """FSDP sharding degree."""
    data: tyro.conf.OmitArgPrefixes[Data] = field(default_factory=Data)
    hosts: tyro.conf.OmitArgPrefixes[Hosts] = field(default_factory=Hosts)


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    given = sys.argv[1:] if arguments is None else arguments
    evaluate(parse(Config, given, prog=COMMAND, description=__doc__))


def evaluate(config: Config) -> None:
    """Load, evaluate, print."""
    bounds.check(config)
    path, size, counted = config.weights / "structure.json", 224, 224
    if path.exists():
        _, _, size, counted = described(Structure.load(path), path)
    if config.data.resolution is not None:
        size = counted = config.data.resolution
    config.hosts.join()
    # the recipe plays no part in an evaluation
    work = prepare(config.data, Training(fsdp=config.fsdp), recipes.RESNET, size, 0)
    images = work.data
    model, variables = network(config.weights, config.model, resolution=size, num_classes=images.num_classes)
    classes: Any = getattr(model, "num_classes", None)
    if classes != images.num_classes:
        raise UserError(f"the network knows {classes} classes, and {images.name} has {images.num_classes}")
    reached = supervised.accuracy(partial(model.apply, train=False), place(variables, work.mesh), work.evaluation())
    example = jax.ShapeDtypeStruct((1, counted, counted, 3), jnp.float32)
    resources = SearchSpace.from_model(model.clone(structure=None), example).resources(model.structure)
    top5 = "" if reached.top5 is None else f", top-5 {100 * reached.top5:.2f} %"
    if processes.is_first():
        print(f"{images.name}, {size} px: top-1 {100 * reached.value:.2f}±{100 * reached.stderr:.2f} %{top5}")
        at = "" if counted == size else f" at {counted} px"
        print(f"{resources['macs']:,} MACs{at}, {resources['params']:,} parameters")


if __name__ == "__main__":
    exit_on_user_error(main)()
