"""The figures of `docs/method.md` and the README, from the operator and from one search on scikit-learn's digits.

    python -m experiments.figures [--quick]

About a minute and a half of one core: a ResNet-20 is pretrained and searched under 4 % of its MACs exactly as
`python -m experiments.digits_search` does, without what follows the search; a hundred steps on the pretrained weights,
which stay as they are, gather the importance. The run directory is kept: the same command goes on where it stopped, and
draws again in seconds where all is done. Equal numbers give equal bytes.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

from dms_jax import models
from dms_jax.command_line import parse
from dms_jax.conduct import warm_cosine
from dms_jax.data import batches, digits
from dms_jax.errors import exit_on_user_error
from dms_jax.method.schedule import Schedule
from dms_jax.method.search import Search
from dms_jax.report import pictures
from dms_jax.report.run_files import Record
from dms_jax.space import SearchSpace
from dms_jax.training import make_mesh, metrics, replicate, shard_batch, supervised
from dms_jax.training.done import MASKS
from dms_jax.training.job import Job
from dms_jax.training.runs import Run
from experiments import method_pictures
from experiments.benchmarks.command import PICTURES
from experiments.benchmarks.pictures import save
from experiments.digits_search import EXAMPLE, Config, sgd

BUDGET = 0.04


@dataclass(frozen=True)
class Options:
    """Where to search and to draw.

    Attributes:
      quick: a tiny network and a few steps; the pictures stay in the run directory.
      workdir: the run directory; None for runs/figures.
      pictures: where the pictures go; None for docs.
    """

    quick: bool = False
    workdir: Path | None = None
    pictures: Path | None = None

    @property
    def run(self) -> Path:
        """The run directory. A quick run has its own."""
        return self.workdir or Path("runs/figures_quick" if self.quick else "runs/figures")

    @property
    def folder(self) -> Path:
        """Where pictures go."""
        return self.pictures or (self.run if self.quick else PICTURES)


@dataclass(frozen=True)
class Setting:
    """What is searched, and for how long.

    Attributes:
      config: of the experiment: batch, learning rate, steps, seed.
      budget: fraction of the MACs.
      gather_steps: on which the importance is gathered.
      network: arguments of the ResNet, besides the number of classes.
    """

    config: Config = Config()
    budget: float = BUDGET
    gather_steps: int = 100
    network: Mapping[str, Any] = field(default_factory=dict)


QUICK = Setting(
    Config(pretrain_steps=2, steps=5, batch=8),
    budget=0.5,
    gather_steps=2,
    network={"widths": (8,), "blocks": (2,), "stem": 8},
)


@dataclass(frozen=True)
class Story:
    """What the figures are drawn from.

    Attributes:
      importance: {group: [N]} of the pretrained network, every group whole.
      structure: the content of `structure.json`.
      metrics: records of the pretraining and of the search.
      masks: records of the search.
    """

    importance: Mapping[str, np.ndarray]
    structure: Record
    metrics: list[Record]
    masks: list[Record]


def main(options: Options) -> None:
    story = search(QUICK if options.quick else Setting(), options.run)
    for name, figure in figures(story).items():
        print(save(figure, options.folder / f"method_{name}.svg"))


def search(setting: Setting, directory: Path) -> Story:
    """Pretrain, gather importance, search; or what is left of it."""
    config, mesh, key = setting.config, make_mesh(jax.devices()[:1]), jax.random.key(setting.config.seed)
    words = {"name": config.model, "arguments": {"num_classes": digits.CLASSES, **setting.network}}
    model = models.create(config.model, **words["arguments"])
    space, loss = SearchSpace.from_model(model, EXAMPLE), supervised.classification_loss(model)
    draw = batches(digits.load().train, config.batch, config.seed)
    identity = {"experiment": "figures", "setting": dataclasses.asdict(setting)}
    with Run(directory, identity) as run:
        job = Job(run, loss, lambda step: shard_batch(draw(step), mesh), mesh, key)
        first = replicate(jax.jit(model.init)(key, jnp.zeros(EXAMPLE.shape)), mesh)
        optimizer = sgd(warm_cosine(config.learning_rate, config.pretrain_steps))
        pretrained = job.train("pretrain", loss, first, optimizer, config.pretrain_steps)
        # all of it is warm-up but the last step, so that every mask stays open, and there is no optimizer of weights
        schedule = Schedule(setting.gather_steps, warmup=setting.gather_steps - 1)
        gather = Search(space, loss, None, {"macs": setting.budget}, schedule)
        gathered = job.search("gather", gather, pretrained)
        weights = sgd(optax.constant_schedule(config.learning_rate / 5))
        searched = Search(space, loss, weights, {"macs": setting.budget}, Schedule(config.steps))
        structure = searched.structure(job.search("search", searched, pretrained), words)
    return Story(
        importance={name: np.asarray(c) for name, c in gathered.importance.items()},
        structure=_without_removed(structure.to_json()),
        metrics=[record for record in metrics.read(directory) if record["phase"] != "gather"],
        masks=_mask_records(directory / MASKS),
    )


def _without_removed(structure: dict[str, Any]) -> Record:
    """Nothing is kept in a removed block, as a report has it."""
    for group in structure["groups"].values():
        group["kept"] = [] if group["removed"] else group["kept"]
    return structure


def _mask_records(path: Path) -> list[Record]:
    records = [json.loads(line) for line in path.read_text().splitlines()]
    return [record for record in records if record["phase"] == "search"]


def figures(story: Story) -> dict[str, Figure]:
    """All figures by the last part of their names: those of the page in its order, and that of the README."""
    return {
        "operator": method_pictures.operator(),
        "ranks": method_pictures.ranks(widths_of(story.importance, story.structure)),
        "resources": pictures.resources(story.metrics, {"macs": "MACs"}),
        "masks": pictures.masks(story.masks, story.structure),
        "widths": method_pictures.widths(story.masks, story.structure),
        "losses": pictures.losses(story.metrics),
        "kept": pictures.widths(story.structure),
    }


def widths_of(importance: Mapping[str, np.ndarray], structure: Record) -> dict[str, np.ndarray]:
    """The importance of the width groups alone."""
    return {name: c for name, c in importance.items() if structure["groups"][name]["kind"] == "width"}


if __name__ == "__main__":
    exit_on_user_error(lambda: main(parse(Options, description=__doc__)))()
