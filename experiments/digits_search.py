"""Search, shrink and retrain a small ResNet on scikit-learn's digits: the whole method on real data in minutes.

    python -m experiments.digits_search --macs=0.04

pretrains a ResNet-20 on 1,437 real 8 x 8 images of handwritten digits, searches widths and depth under 4 % of its MACs,
shrinks it, finetunes it, and trains two controls for the same number of steps: the same keep ratio everywhere, and the
full network. It writes a run directory with `report.html`. Stop it at any time; the same command goes on.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
import tyro

from dms_jax import models
from dms_jax.adapters import marked
from dms_jax.command_line import parse_job
from dms_jax.conduct import Experiment, conduct, warm_cosine
from dms_jax.data import digits
from dms_jax.data.batching import batches
from dms_jax.errors import UserError, exit_on_user_error
from dms_jax.method.schedule import Schedule
from dms_jax.method.search import Search
from dms_jax.space import SearchSpace
from dms_jax.training import make_mesh, optimizers, replicate, shard_batch, supervised
from dms_jax.training.job import Job
from dms_jax.training.pipeline import Finished, Pipeline
from dms_jax.training.plan import Steps
from dms_jax.training.results import Quality
from dms_jax.training.runs import Run
from experiments import bounds
from experiments.flags import Budgets, Searching
from experiments.image_sizes import image_sizes

EXAMPLE = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
COMMAND = "python -m experiments.digits_search"


@dataclass(frozen=True)
class Config:
    """Search, shrink and retrain a small ResNet on scikit-learn's digits."""

    pipeline: Literal["p", "np", "p-"] = "p"
    """p: pretrain, search, finetune. np: search from random weights, retrain. p-: pretrain, search structure alone."""
    model: str = "resnet20"
    """Any ResNet of the zoo; resnet20, resnet32 and resnet56 are made for small images."""
    steps: int = 400
    """Search steps."""
    pretrain_steps: int = 500
    """Pretraining steps of the full network (pipelines p and p-)."""
    finetune_steps: int = 600
    """Finetuning steps of the small network (pipelines p and np)."""
    retrain: Literal["sliced", "scratch"] = "sliced"
    """Initial weights of the small network: sliced from the search, or newly initialized."""
    batch: int = 64
    """Global batch size, in images."""
    learning_rate: float = 0.1
    """Peak of SGD's cosine schedule (Nesterov momentum 0.9); the search runs at a constant fifth of it."""
    seed: int = 0
    """Random seed."""
    workdir: str = "runs/digits"
    """Run directory; an unfinished run of the same job resumes."""
    budgets: tyro.conf.OmitArgPrefixes[Budgets] = field(default_factory=Budgets)
    searching: tyro.conf.OmitArgPrefixes[Searching] = field(default_factory=Searching)

    @property
    def budget(self) -> dict[str, float | str]:
        """The budgets asked for; 0.04 of the MACs where there is none."""
        return self.budgets.amounts or {"macs": 0.04}

    @property
    def identity(self) -> dict[str, Any]:
        """What makes the job the one it is, defaults filled in."""
        idle = ("workdir", "budgets", "searching")
        given = {n: value for n, value in dataclasses.asdict(self).items() if n not in idle}
        asked = self.budgets.identity(self.budget)
        return {"experiment": "digits_search", **given, **self.searching.identity, **asked}

    @property
    def phases(self) -> Steps:
        """The steps of every phase."""
        before = 0 if self.pipeline == "np" else self.pretrain_steps
        after = 0 if self.pipeline == "p-" else self.finetune_steps
        return Steps(before, self.steps, after, trial=self.searching.block_trial)

    def check(self) -> None:
        """Refuse what no run can be made of, before anything is computed."""
        bounds.check(self)
        if self.pipeline == "p-" and self.retrain == "scratch":
            raise UserError("--retrain scratch needs a retraining, and pipeline p- has none; take p or np")
        self.searching.check(self.budgets)
        _ = self.phases  # which refuses a trial without a finetuning
        if self.batch % len(jax.devices()):
            raise UserError(f"--batch {self.batch} cannot be cut over {len(jax.devices())} devices; take a multiple")


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    search_digits(*parse_job(Config, arguments, prog=COMMAND, description=__doc__))


def search_digits(config: Config, command: str) -> None:
    """Run the job, or what is left of it."""
    config.check()
    search, data = _search(config), digits.load()
    sizes = f"{len(data.train['label'])} training images, {len(data.test['label'])} test images"
    conduct(
        Experiment(
            directory=config.workdir,
            identity=config.identity,
            command=command,
            subject=f"{config.model} on scikit-learn's digits",
            data=f"scikit-learn digits, real handwriting at 8 x 8 pixels: {sizes}",
            pipeline=config.pipeline,
            seed=config.seed,
            search=search,
            steps=config.phases,
            quality=Quality("accuracy", "%", lambda fn, v: supervised.accuracy(fn, v, [data.test])),
            phases=lambda run: _phases(config, run, search, data),
        )
    )


def _search(config: Config) -> Search:
    model = models.create(config.model, num_classes=digits.CLASSES)
    warmup = config.steps // 2 if config.pipeline == "np" else 0
    return Search(
        SearchSpace.from_model(model, EXAMPLE).with_resources(*config.budgets.resources(config.budget)),
        supervised.classification_loss(model),
        None if config.pipeline == "p-" else sgd(optax.constant_schedule(config.learning_rate / 5)),
        config.budget,
        Schedule(config.steps, warmup),
        **config.searching.options,
    )


def _phases(config: Config, run: Run, search: Search, data: digits.Split) -> Finished:
    mesh, key = make_mesh(), jax.random.key(config.seed)
    draw = batches(data.train, config.batch, config.seed)
    job = Job(run, search.loss, lambda step: shard_batch(draw(step), mesh), mesh, key)
    pipeline = Pipeline(
        job,
        search,
        config.phases,
        lambda steps: sgd(warm_cosine(config.learning_rate, steps)),
        model={"name": config.model, "arguments": {"num_classes": digits.CLASSES}},
        example=data.test["image"][:64],
        retrain=config.retrain,
        fresh=marked.fresh(search.space),
        inference=search.space.forward(),
        sizes=image_sizes(config.budgets, search.space.model),
    )
    return pipeline.run(replicate(jax.jit(search.space.model.init)(key, jnp.zeros(EXAMPLE.shape)), mesh))


def sgd(schedule: optax.Schedule) -> optax.GradientTransformation:
    """SGD with Nesterov momentum 0.9 and weight decay 5e-4 on kernels."""
    return optimizers.sgd(schedule, weight_decay=5e-4)


if __name__ == "__main__":
    exit_on_user_error(main)()
