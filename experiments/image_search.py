"""What the searches on images share: their flags, and the job of a task."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import tyro

from dms_jax.adapters import marked
from dms_jax.budgets.amounts import amount
from dms_jax.conduct import Experiment, conduct
from dms_jax.errors import UserError
from dms_jax.method.schedule import Schedule
from dms_jax.method.search import Search
from dms_jax.space import SearchSpace
from dms_jax.training import place, processes
from dms_jax.training.pipeline import Finished, Pipeline
from dms_jax.training.plan import Steps
from dms_jax.training.runs import Run
from experiments import bounds
from experiments.flags import Budgets, Hosts, Searching, default
from experiments.image_flags import Images, Weights
from experiments.image_networks import pretrained_images
from experiments.image_task import Task
from experiments.recipes import Preset


@dataclass(frozen=True)
class Searched:
    """Fit a network to a budget."""

    flops: Annotated[float | None, default("the preset's")] = None
    """Alias of --macs, as papers on architecture search call them."""
    preset: str | None = None
    """Preset: a row of the paper's tables."""
    pipeline: Literal["np", "p", "p-"] = "np"
    """np: search from random weights, retrain. p: pretrain, search, finetune. p-: pretrain, search structure alone."""
    search_epochs: Annotated[float | None, default("the preset's")] = None
    """Search epochs; may be fractional."""
    search_warmup_epochs: Annotated[float | None, default("the preset's, or half an np search")] = None
    """Warm-up epochs of the search, during which the structure is fixed."""
    retrain: Literal["sliced", "scratch"] = "sliced"
    """Initial weights of the small network: sliced from the search, or newly initialized."""
    controls: bool = False
    """Also train two baselines for as many steps: a uniformly thinned network and the full one."""
    latency_batches: Annotated[tuple[int, ...], default("1 and 128; on CPU 1 and 8")] = ()
    """Batch sizes of the latency measurements."""
    seed: int = 0
    """Random seed."""
    workdir: Path = Path("runs/images")
    """Run directory; an unfinished run of the same job resumes."""
    budgets: tyro.conf.OmitArgPrefixes[Budgets] = field(default_factory=Budgets)
    searching: tyro.conf.OmitArgPrefixes[Searching] = field(default_factory=Searching)
    hosts: tyro.conf.OmitArgPrefixes[Hosts] = field(default_factory=Hosts)
    data: tyro.conf.OmitArgPrefixes[Images] = field(default_factory=Images)
    training: tyro.conf.OmitArgPrefixes[Weights] = field(default_factory=Weights)

    @property
    def _asked(self) -> dict[str, float | str]:
        return self.budgets.amounts | ({} if self.flops is None else {"macs": self.flops})

    @property
    def macs(self) -> float | None:
        """The absolute number of MACs asked for, if any."""
        asked = amount("macs", self._asked["macs"], "MACs") if "macs" in self._asked else None
        return None if asked is None or asked.relative else float(asked.value)

    def budget(self, row: Preset) -> dict[str, float | str]:
        """The budgets asked for; that of a preset holds beside them."""
        usual: dict[str, float | str] = {"macs": row.macs}
        return usual | self._asked if self.preset is not None else self._asked or usual

    def check(self) -> None:
        """Refuse what no run can be made of, before anything is computed."""
        bounds.check(self)
        if self.flops is not None and "macs" in self.budgets.amounts:
            raise UserError("--flops and --macs are one budget; give one of them")
        if self.pipeline == "p-" and self.retrain == "scratch":
            raise UserError("--retrain scratch needs a retraining, and pipeline p- has none; take p or np")
        self.searching.check(self.budgets)


@dataclass(frozen=True, eq=False)
class ImageSearch:
    """One search on images.

    Attributes:
      name: of the experiment.
      config: the flags.
      row: supernet, epochs of the search, recipe.
      budget: asked for.
      work: the task.
      pretrained: Hugging Face directory of the pretrained supernet; None: there is none.
    """

    name: str
    config: Searched
    row: Preset
    budget: dict[str, float | str]
    work: Task
    pretrained: Path | None = None

    def run(self, command: str) -> None:
        """Run the job, or what is left of it."""
        config, row, work = self.config, self.row, self.work
        search, steps = self.search()
        conduct(
            Experiment(
                directory=config.workdir,
                identity=self.identity(search, steps),
                command=command,
                subject=f"{row.model} at {work.size} px on {work.data.name}",
                data=work.description,
                pipeline=config.pipeline,
                seed=config.seed,
                search=search,
                steps=steps,
                quality=work.quality,
                phases=lambda run: self._phases(search, steps, run),
                examples=work.shown,
                latency_batches=config.latency_batches or ((1, 8) if jax.default_backend() == "cpu" else (1, 128)),
            )
        )

    def identity(self, search: Search, steps: Steps) -> dict[str, Any]:
        """What makes the job the one it is, defaults filled in: the same job may be asked for in several ways."""
        config, work = self.config, self.work
        return {
            "experiment": self.name,
            "model": self.row.model,
            "arguments": work.arguments(self.row.model, dict(self.row.arguments)),
            "weights": None,  # as jobs from before budgets of bytes have it
            **({} if self.pretrained is None else {"pretrained": str(self.pretrained)}),
            **config.budgets.identity(self.budget),
            "pretrain_steps": steps.pretrain,
            "search_steps": steps.search,
            "search_warmup_steps": search.schedule.warmup,
            "finetune_steps": steps.finetune,
            **{name: getattr(config, name) for name in ("pipeline", "retrain", "controls")},
            **config.searching.identity,
            **work.identity,
        }

    def search(self) -> tuple[Search, Steps]:
        """The search, and the steps of all phases."""
        config, work, steps = self.config, self.work, self._steps()
        model = work.create(self.row.model, dict(self.row.arguments))
        space = SearchSpace.from_model(model, work.example)
        search = Search(
            space.with_resources(*config.budgets.resources(self.budget)),
            work.untaught.loss(model),
            None if config.pipeline == "p-" else work.optimizer_at(work.search_rate(steps.search)),
            self.budget,
            Schedule(steps.search, self._warmup(steps.search)),
            **config.searching.options,
            accumulate=config.training.accumulate,
        )
        return search, steps

    def _steps(self) -> Steps:
        config, work, search = self.config, self.work, self.config.search_epochs
        if search is None:
            search = work.bundled_search_epochs if work.bundled else self.row.search_epochs
        pretrain = config.pipeline != "np" and self.pretrained is None
        finetune = config.pipeline != "p-"
        return Steps(
            work.steps(work.recipe.epochs) if pretrain else 0,
            work.steps(search),
            work.steps(work.recipe.epochs) if finetune else 0,
            compare=config.controls,
            trial=config.searching.block_trial,
        )

    def _warmup(self, steps: int) -> int:
        """Steps of the search in which the structure stays as it is."""
        config, row = self.config, self.row
        if config.search_warmup_epochs is not None:
            return self.work.steps(config.search_warmup_epochs) if config.search_warmup_epochs else 0
        if config.pipeline != "np":
            return 0
        share = 0.5 if row.search_warmup_epochs is None else row.search_warmup_epochs / row.search_epochs
        return int(share * steps)

    def _phases(self, search: Search, steps: Steps, run: Run) -> Finished:
        config, row, work = self.config, self.row, self.work
        model: Any = search.space.model
        arguments = work.arguments(row.model, dict(row.arguments))
        if self.pretrained is None:
            variables = work.new_variables(model)
        else:
            variables = place(pretrained_images(row.model, self.pretrained, arguments), work.mesh)
        later = work.later(run, model, steps)
        pipeline = Pipeline(
            work.untaught.job(run, model),
            search,
            steps,
            work.optimizer,
            model=work.described(row.model, arguments),
            example=work.examples(),
            retrain=config.retrain,
            trained=self.pretrained is not None,
            average=work.average,
            retaught=None if later is None else lambda _: later,
            fresh=marked.fresh(search.space),
            inference=search.space.forward(),
            checked=marked.exact(search.space),
            sizes=work.sizes(config.budgets, model),
        )
        return pipeline.run(variables)


def say_supernet(row: Preset, size: int, why: str) -> None:
    """Tell people which supernet is searched."""
    if processes.is_first():
        print(f"supernet: {row.model} at {size} px; {why}")
