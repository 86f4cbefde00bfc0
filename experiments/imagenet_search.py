"""Fit an image classification network to a budget: the paper's ImageNet experiments in one command.

    python -m experiments.imagenet_search --flops=0.6e9

takes the supernet that the paper's rule gives this budget, searches widths and depth, shrinks the network and retrains
it. `--preset` is a row of the paper. ImageNet is read from what `python -m dms_jax.data.prepare imagenet2012` made;
where that is missing and no --dataset was given, the bundled digits take its place, at the network's resolution and
with a short schedule (under 20 minutes on 2 CPU cores). Stop it at any time; the same command goes on.
"""

from __future__ import annotations

import dataclasses
import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import tyro

from dms_jax.adapters import marked
from dms_jax.budgets.amounts import amount
from dms_jax.command_line import parse
from dms_jax.conduct import Experiment, conduct
from dms_jax.errors import UserError, exit_on_user_error
from dms_jax.method.schedule import Schedule
from dms_jax.method.search import Search
from dms_jax.space import SearchSpace
from dms_jax.training import place, processes
from dms_jax.training.pipeline import Finished, Pipeline, Steps
from dms_jax.training.runs import Run
from experiments import bounds, recipes
from experiments.flags import Budgets, Hosts, Searching, default
from experiments.image_flags import Data, Training
from experiments.image_networks import pretrained_images
from experiments.image_task import Task, prepare
from experiments.recipes import PRESETS, Preset

COMMAND = "python -m experiments.imagenet_search"
ROWS = "A row of the paper. " + " | ".join(f"{name}: {preset.describe()}" for name, preset in PRESETS.items())


@dataclass(frozen=True)
class Config:
    """Fit an image classification network to a budget."""

    flops: Annotated[float | None, default("the preset's, or 0.6e9")] = None
    """--macs by the name that papers on architecture search give MACs."""
    preset: Annotated[str | None, tyro.conf.arg(help=ROWS, help_behavior_hint="(default: none)")] = None
    model: Annotated[str | None, default("the preset's, or what the paper's rule gives the budget")] = None
    """The supernet: any image network of the zoo."""
    pipeline: Literal["np", "p", "p-"] = "np"
    """np: search from random weights, retrain. p: pretrain, search, finetune. p-: pretrain, search structure alone."""
    pretrained: Annotated[Path | None, default("none: pipelines p and p- train the supernet first")] = None
    """Pretrained supernet for p and p-: Hugging Face directory."""
    search_epochs: Annotated[float | None, default("the preset's")] = None
    """Of the search; may be a fraction."""
    search_warmup_epochs: Annotated[float | None, default("the preset's, or half an np search")] = None
    """First epochs of the search in which the structure stays as it is."""
    retrain: Literal["sliced", "scratch"] = "sliced"
    """Where the small network starts from: the weights the search left, or new ones."""
    controls: bool = False
    """Also train, for as many steps, the same keep ratio everywhere and the full network."""
    latency_batches: Annotated[tuple[int, ...], default("1 and 128; on CPU 1 and 8")] = ()
    """Batch sizes to measure latency at."""
    seed: int = 0
    """Of weights, batches and everything drawn."""
    workdir: Path = Path("runs/imagenet")
    """The run directory: new, or that of this job, which then goes on."""
    budgets: tyro.conf.OmitArgPrefixes[Budgets] = field(default_factory=Budgets)
    searching: tyro.conf.OmitArgPrefixes[Searching] = field(default_factory=Searching)
    data: tyro.conf.OmitArgPrefixes[Data] = field(default_factory=Data)
    training: tyro.conf.OmitArgPrefixes[Training] = field(default_factory=Training)
    hosts: tyro.conf.OmitArgPrefixes[Hosts] = field(default_factory=Hosts)

    def row(self) -> Preset:
        """The preset with what the flags say put in, or what the flags make by themselves."""
        if self.preset is not None and self.preset not in PRESETS:
            raise UserError(f"unknown preset {self.preset!r}; there are: {', '.join(PRESETS)}")
        if self.preset is not None:
            row = PRESETS[self.preset]
            return dataclasses.replace(row, model=self.model, arguments={}) if self.model else row
        if self.model is None:
            return recipes.of_budget(self.macs or 0.6e9)
        recipe = recipes.of_model(self.model)
        return Preset(self.model, 224, 0.6e9, recipe.epochs / 10, recipe, recipes.UNTRIED)

    @property
    def _asked(self) -> dict[str, float | str]:
        return self.budgets.amounts | ({} if self.flops is None else {"macs": self.flops})

    @property
    def macs(self) -> float | None:
        """The absolute number of MACs asked for, if any."""
        asked = amount("macs", self._asked["macs"], "MACs") if "macs" in self._asked else None
        return None if asked is None or asked.relative else asked.value

    def budget(self, row: Preset) -> dict[str, float | str]:
        """The budgets asked for."""
        usual: dict[str, float | str] = {"macs": row.macs}
        return usual | self._asked if self.preset is not None else self._asked or usual

    def check(self) -> None:
        """Refuse what no run can be made of, before anything is computed."""
        bounds.check(self)
        if self.flops is not None and "macs" in self.budgets.amounts:
            raise UserError("--flops and --macs are one budget; give one of them")
        if self.pretrained is not None and self.pipeline == "np":
            raise UserError("--pretrained weights are for pipelines p and p-; np searches from random weights")
        if self.pipeline == "p-" and self.retrain == "scratch":
            raise UserError("--retrain scratch needs a retraining, and pipeline p- has none; take p or np")
        self.searching.check()


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    given = sys.argv[1:] if arguments is None else arguments
    config = parse(Config, given, prog=COMMAND, description=__doc__)
    search_images(config, command=shlex.join([*COMMAND.split(), *given]))


def search_images(config: Config, command: str) -> None:
    """Run the job, or what is left of it."""
    config.check()
    row = config.row()
    size = row.resolution if config.data.resolution is None else config.data.resolution
    config.hosts.join()
    work = prepare(config.data, config.training, row.recipe, size, config.seed, row.teacher)
    if processes.is_first():
        print(f"supernet: {row.model} at {size} px; {_why(config, row)}")
    search, steps = _search(config, row, work)
    conduct(
        Experiment(
            directory=config.workdir,
            identity=_identity(config, row, work, search, steps),
            command=command,
            subject=f"{row.model} at {size} px on {work.data.name}",
            data=work.description,
            pipeline=config.pipeline,
            seed=config.seed,
            search=search,
            steps=steps,
            quality=work.quality,
            phases=lambda run: _phases(config, row, work, search, steps, run),
            latency_batches=config.latency_batches or ((1, 8) if jax.default_backend() == "cpu" else (1, 128)),
        )
    )


def _why(config: Config, row: Preset) -> str:
    if config.preset is not None:
        changed = " with another --model" if config.model is not None else f"; the paper: {row.paper}"
        return f"preset {config.preset}{changed}"
    if config.model is not None:
        return "as --model says"
    if config.macs is None:
        return "what the paper takes for small budgets of MACs"
    return f"the paper's rule for {row.macs:.3g} MACs (EfficientNet-B4 as far as it reaches, B7 above)"


def _identity(config: Config, row: Preset, work: Task, search: Search, steps: Steps) -> dict[str, Any]:
    """What makes the job the one it is, defaults filled in: the same job may be asked for in several ways."""
    return {
        "experiment": "imagenet_search",
        "model": row.model,
        "arguments": work.arguments(row.model, dict(row.arguments)),
        "weights": None,  # as jobs from before budgets of bytes have it
        **({} if config.pretrained is None else {"pretrained": str(config.pretrained)}),
        **config.budgets.identity(config.budget(row)),
        "pretrain_steps": steps.pretrain,
        "search_steps": steps.search,
        "search_warmup_steps": search.schedule.warmup,
        "finetune_steps": steps.finetune,
        **{name: getattr(config, name) for name in ("pipeline", "retrain", "controls")},
        **config.searching.identity,
        **work.identity,
    }


def _search(config: Config, row: Preset, work: Task) -> tuple[Search, Steps]:
    steps = _steps(config, row, work)
    model = work.create(row.model, dict(row.arguments))
    space = SearchSpace.from_model(model, jax.ShapeDtypeStruct((1, work.size, work.size, 3), jnp.float32))
    search = Search(
        space.with_resources(*config.budgets.resources),
        work.untaught.loss(model),
        None if config.pipeline == "p-" else work.optimizer_at(work.search_rate(steps.search)),
        config.budget(row),
        Schedule(steps.search, _warmup(config, row, work, steps.search)),
        **config.searching.options,
        accumulate=config.training.accumulate,
    )
    return search, steps


def _steps(config: Config, row: Preset, work: Task) -> Steps:
    search = config.search_epochs
    if search is None:
        search = recipes.DIGITS_SEARCH_EPOCHS if work.bundled else row.search_epochs
    pretrain = config.pipeline != "np" and config.pretrained is None
    finetune = config.pipeline != "p-"
    return Steps(
        work.steps(work.recipe.epochs) if pretrain else 0,
        work.steps(search),
        work.steps(work.recipe.epochs) if finetune else 0,
        compare=config.controls,
    )


def _warmup(config: Config, row: Preset, work: Task, steps: int) -> int:
    """Steps of the search in which the structure stays as it is."""
    if config.search_warmup_epochs is not None:
        return work.steps(config.search_warmup_epochs) if config.search_warmup_epochs else 0
    if config.pipeline != "np":
        return 0
    share = 0.5 if row.search_warmup_epochs is None else row.search_warmup_epochs / row.search_epochs
    return int(share * steps)


def _phases(config: Config, row: Preset, work: Task, search: Search, steps: Steps, run: Run) -> Finished:
    model: Any = search.space.model
    if config.pretrained is None:
        variables = work.new_variables(model)
    else:
        arguments = work.arguments(row.model, dict(row.arguments))
        variables = place(pretrained_images(row.model, config.pretrained, arguments), work.mesh)
    pipeline = Pipeline(
        work.untaught.job(run, model),
        search,
        steps,
        work.optimizer,
        model={"name": row.model, "arguments": work.arguments(row.model, dict(row.arguments))},
        example=work.examples(),
        retrain=config.retrain,
        trained=config.pretrained is not None,
        average=work.average,
        retaught=None if work.teacher is None else lambda _: work.job(run, model),
        fresh=marked.fresh(search.space),
        inference=search.space.forward(),
        checked=marked.exact(search.space),
    )
    return pipeline.run(variables)


if __name__ == "__main__":
    exit_on_user_error(main)()
