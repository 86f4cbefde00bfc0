"""Fit an image classification network to a budget: the paper's ImageNet experiments in one command.

    python -m experiments.imagenet_search --flops=0.6e9

takes the supernet that the paper's rule gives this budget, searches widths and depth, shrinks the network and retrains
it. `--preset` is a row of the paper. ImageNet is read from what `python -m dms_jax.data.prepare imagenet2012` made;
where that is missing and no --dataset was given, the bundled digits take its place, small and with a short schedule
(under 20 minutes on 2 CPU cores); MACs stay those at the network's resolution. Stop it at any time; the same command
goes on.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from dms_jax import pretrained
from dms_jax.command_line import parse_job
from dms_jax.errors import UserError, exit_on_user_error
from experiments import recipes
from experiments.flags import default
from experiments.image_flags import Data, Training
from experiments.image_preparation import prepare
from experiments.image_search import ImageSearch, Searched, say_supernet
from experiments.image_task import Task
from experiments.recipes import PRESETS, Preset

COMMAND = "python -m experiments.imagenet_search"
ROWS = "A row of the paper. " + " | ".join(f"{name}: {preset.describe()}" for name, preset in PRESETS.items())


@dataclass(frozen=True)
class Config(Searched):
    """Fit an image classification network to a budget."""

    flops: Annotated[float | None, default("the preset's, or 0.6e9")] = None
    """Alias of --macs, as papers on architecture search call them."""
    preset: Annotated[str | None, tyro.conf.arg(help=ROWS, help_behavior_hint="(default: none)")] = None
    model: Annotated[str | None, default("the preset's, or what the paper's rule gives the budget")] = None
    """Supernet: any image network of the model zoo."""
    pretrained: Annotated[Path | None, default("none: pipelines p and p- train the supernet first")] = None
    """Hugging Face directory or torchvision .pth of the pretrained supernet, for pipelines p and p-."""
    workdir: Path = Path("runs/imagenet")
    """Run directory; an unfinished run of the same job resumes."""
    data: tyro.conf.OmitArgPrefixes[Data] = field(default_factory=Data)
    training: tyro.conf.OmitArgPrefixes[Training] = field(default_factory=Training)

    def row(self) -> Preset:
        """The preset with what the flags say put in, or what the flags make by themselves."""
        row = self._row()
        if self.pretrained is None:
            return row
        return dataclasses.replace(row, arguments=pretrained.arguments(row.model, self.pretrained, **row.arguments))

    def _row(self) -> Preset:
        if self.preset is not None and self.preset not in PRESETS:
            raise UserError(f"unknown preset {self.preset!r}; there are: {', '.join(PRESETS)}")
        if self.preset is not None:
            row = PRESETS[self.preset]
            return dataclasses.replace(row, model=self.model, arguments={}) if self.model else row
        if self.model is None:
            return recipes.of_budget(self.macs or 0.6e9)
        recipe = recipes.of_model(self.model)
        return Preset(self.model, 224, 0.6e9, recipe.epochs / 10, recipe, recipes.UNTRIED)

    def check(self) -> None:
        """Refuse what no run can be made of, before anything is computed."""
        super().check()
        if self.pretrained is not None and self.pipeline == "np":
            raise UserError("--pretrained weights are for pipelines p and p-; np searches from random weights")


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    search_images(*parse_job(Config, arguments, prog=COMMAND, description=__doc__))


def search_images(config: Config, command: str) -> None:
    """Run the job, or what is left of it."""
    config.check()
    row = config.row()
    size = row.resolution if config.data.resolution is None else config.data.resolution
    config.hosts.join()
    small = recipes.digits_size(row.model) if config.data.resolution is None else None
    work = prepare(config.data, config.training, row.recipe, size, config.seed, row.teacher, small)
    say_supernet(row, size, _why(config, row))
    experiment(config, row, work).run(command)


def experiment(config: Config, row: Preset, work: Task) -> ImageSearch:
    """The job that the flags ask for."""
    return ImageSearch("imagenet_search", config, row, config.budget(row), work, config.pretrained)


def _why(config: Config, row: Preset) -> str:
    if config.preset is not None:
        changed = " with another --model" if config.model is not None else f"; the paper: {row.paper}"
        return f"preset {config.preset}{changed}"
    if config.model is not None:
        return "as --model says"
    if config.macs is None:
        return "what the paper takes for small budgets of MACs"
    return f"the paper's rule for {row.macs:.3g} MACs (EfficientNet-B4 as far as it reaches, B7 above)"


if __name__ == "__main__":
    exit_on_user_error(main)()
