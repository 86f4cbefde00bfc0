"""Fit a detector to a budget: the paper's COCO experiment in one command.

    python -m experiments.coco_search --flops=4.2e9

searches widths and depth of a YOLOv8 of half depth and half width, shrinks it and retrains it as YOLOv8-n is trained.
COCO is read from what `python -m dms_jax.data.prepare coco/2017` made; where that is missing and no --dataset was
given, composites of scikit-learn's digits over its photographs take its place, with a small network, a short schedule,
and --flops as the same share of it (some six minutes of two CPU cores, thirteen with --controls). Stop it at any time;
the same command goes on.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import jax
import jax.numpy as jnp
import tyro

from dms_jax import models
from dms_jax.command_line import parse_job
from dms_jax.errors import UserError, exit_on_user_error
from dms_jax.method.resources import targets
from dms_jax.space import SearchSpace
from experiments.detection_task import PRESETS, Data, DetectionTask, prepare
from experiments.flags import default
from experiments.image_flags import Weights
from experiments.image_search import ImageSearch, Searched, say_supernet
from experiments.recipes import Preset

COMMAND = "python -m experiments.coco_search"
ROWS = "A row of the paper. " + " | ".join(f"{name}: {preset.describe()}" for name, preset in PRESETS.items())
USUAL = "yolov8n"
BUNDLED_MODEL = "yolov8n"
"""The supernet where composites take COCO's place."""


@dataclass(frozen=True)
class Config(Searched):
    """Fit a detector to a budget."""

    flops: Annotated[float | None, default("4.2e9")] = None
    """Alias of --macs, as papers on architecture search call them."""
    preset: Annotated[str | None, tyro.conf.arg(help=ROWS, help_behavior_hint="(default: yolov8n)")] = None
    model: Annotated[str | None, default("the preset's; yolov8n for composites")] = None
    """Supernet: any YOLOv8 of the model zoo."""
    workdir: Path = Path("runs/coco")
    """Run directory; an unfinished run of the same job resumes."""
    data: tyro.conf.OmitArgPrefixes[Data] = field(default_factory=Data)
    training: tyro.conf.OmitArgPrefixes[Weights] = field(default_factory=Weights)

    def row(self) -> Preset:
        """The preset with what the flags say put in."""
        name = self.preset or USUAL
        if name not in PRESETS:
            raise UserError(f"unknown preset {name!r}; there are: {', '.join(PRESETS)}")
        if self.model is not None and self.model not in models.yolov8.MODELS:
            raise UserError(f"{self.model!r} is no detector; there are: {', '.join(models.yolov8.MODELS)}")
        row = PRESETS[name]
        return dataclasses.replace(row, model=self.model, arguments={}) if self.model else row


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    search_boxes(*parse_job(Config, arguments, prog=COMMAND, description=__doc__))


def search_boxes(config: Config, command: str) -> None:
    """Run the job, or what is left of it."""
    config.check()
    row = config.row()
    config.hosts.join()
    experiment(config, row, prepare(config.data, config.training, row, config.seed)).run(command)


def experiment(config: Config, row: Preset, work: DetectionTask) -> ImageSearch:
    """The job that the flags ask for."""
    budget = config.budget(row)
    if not work.bundled:
        say_supernet(row, work.size, f"preset {config.preset or USUAL}; the paper: {row.paper}")
        return ImageSearch("coco_search", config, row, budget, work)
    small = row if config.model else dataclasses.replace(row, model=BUNDLED_MODEL, arguments={})
    asked = _shares(config, row, budget)
    shares = " and ".join(f"{100 * share:.1f} % of its {name}" for name, share in asked.items())
    say_supernet(small, work.size, f"the budget is {shares}, as asked of {row.model} at {row.resolution} px")
    return ImageSearch("coco_search", config, small, dict(asked), work)


def _shares(config: Config, row: Preset, budget: dict[str, float | str]) -> dict[str, float]:
    """The budgets of a preset's supernet, of 80 classes, as shares of it."""
    model = models.create(row.model, **row.arguments)
    images = jax.ShapeDtypeStruct((1, row.resolution, row.resolution, 3), jnp.float32)
    space = SearchSpace.from_model(model, images).with_resources(*config.budgets.resources(budget)).asked(budget)
    asked = targets(space, budget, space.smallest, hints={})
    return {name: value / space.costs[name].full for name, value in asked.items()}


if __name__ == "__main__":
    exit_on_user_error(main)()
