"""Train any structure of an image network, as long as it deserves, and evaluate it.

    python -m experiments.imagenet_retrain --structure=runs/imagenet/structure.json --epochs=450

reads a structure.json (or a finished run's directory), trains that network on ImageNet by the recipe of its family or
of a preset, and leaves a run directory that `dms_jax.load` and `experiments.imagenet_eval` read. Stop it at any time;
the same command goes on.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import tyro

import dms_jax
from dms_jax import models
from dms_jax.command_line import parse_job
from dms_jax.conduct import say
from dms_jax.errors import Interrupted, UserError, exit_on_user_error
from dms_jax.space import SearchSpace
from dms_jax.structure import Structure
from dms_jax.training import place, processes
from dms_jax.training.machine import machine
from dms_jax.training.runs import Run
from experiments import bounds, recipes
from experiments.flags import Hosts, default
from experiments.image_flags import Data, Training
from experiments.image_networks import described
from experiments.image_preparation import prepare
from experiments.image_task import Task
from experiments.recipes import PRESETS

COMMAND = "python -m experiments.imagenet_retrain"


@dataclass(frozen=True)
class Config:
    """Train a structure and evaluate it."""

    structure: Path
    """structure.json of an image network, or the directory of a finished run."""
    start: Literal["new", "run"] = "new"
    """Initial weights: new, or those of the run that --structure names."""
    preset: Annotated[str | None, default("the recipe of the network's family")] = None
    """Preset whose recipe (and teacher) to use; see imagenet_search."""
    seed: int = 0
    """Random seed."""
    workdir: Path = Path("runs/retrain")
    """Run directory; an unfinished run of the same job resumes."""
    data: tyro.conf.OmitArgPrefixes[Data] = field(default_factory=Data)
    training: tyro.conf.OmitArgPrefixes[Training] = field(default_factory=Training)
    hosts: tyro.conf.OmitArgPrefixes[Hosts] = field(default_factory=Hosts)


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    retrain(*parse_job(Config, arguments, prog=COMMAND, description=__doc__))


def retrain(config: Config, command: str) -> None:
    """Run the job, or what is left of it."""
    bounds.check(config)
    path = config.structure / "structure.json" if config.structure.is_dir() else config.structure
    structure = Structure.load(path)
    name, arguments, _, size = described(structure, path)
    small = recipes.digits_size(name) if config.data.resolution is None else None
    size = size if config.data.resolution is None else config.data.resolution
    if config.preset is not None and config.preset not in PRESETS:
        raise UserError(f"unknown preset {config.preset!r}; there are: {', '.join(PRESETS)}")
    row = PRESETS[config.preset] if config.preset else None
    config.hosts.join()
    recipe = row.recipe if row else recipes.of_model(name)
    work = prepare(config.data, config.training, recipe, size, config.seed, row.teacher if row else None, small)
    classes = arguments.get("num_classes", 1000)
    if classes != work.data.num_classes:
        raise UserError(
            f"{path} is of a network of {classes} classes, and {work.data.name} has {work.data.num_classes}"
        )
    arguments = work.arguments(name, arguments)
    full = models.create(name, **arguments)
    space = SearchSpace.from_model(full, work.example)
    # of this resolution, as this network is made: what loads or evaluates the run reads it there
    structure = space.structure(space.kept(structure), work.described(name, arguments))
    model = full.clone(structure=structure)
    with Run(config.workdir, _identity(config, structure, work, name, arguments)) as run:
        if run.results is not None:
            processes.on_first(lambda: print(f"finished already: {run.directory}"))
            return
        steps = work.steps(work.recipe.epochs)
        title = f"{name} at {work.size} px on {work.data.name}, retrained"
        say(f"{title} -> {run.directory}, {steps} steps")
        variables = _first(config, work, model)
        try:
            job = work.job(run, model)
            variables = job.train("retrain", job.loss, variables, work.optimizer(steps), steps, average=work.average)
        except Interrupted as stop:
            raise Interrupted(stop.step, f"{stop}; the same command goes on: {command}") from None
        value, stderr = work.quality.measure(partial(model.apply, train=False), variables)
        _finish(run, structure, variables, work, title, command, config.seed, (value, stderr, steps))
        shown = f"{work.quality.name}: {work.quality.show(value, stderr)} ({run.directory})"
        processes.on_first(lambda: print(shown))


def _first(config: Config, work: Task, model: Any) -> Any:
    """The variables to begin from, on the devices."""
    if config.start == "new":
        return work.new_variables(model)
    there = dms_jax.load(config.structure)[1]
    x = jax.ShapeDtypeStruct((1, work.size, work.size, 3), jnp.float32)
    if jax.tree.map(jnp.shape, there) != jax.tree.map(
        jnp.shape, dict(jax.eval_shape(model.init, jax.random.key(0), x))
    ):
        raise UserError(
            f"the weights in {config.structure} are not of this network at {work.size} px; take the resolution of that "
            "run, or --start new"
        )
    return place(there, work.mesh)


def _identity(config: Config, structure: Structure, work: Task, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """What makes the job the one it is, defaults filled in: the same structure may lie in another file."""
    return {
        "experiment": "imagenet_retrain",
        "model": name,
        "arguments": arguments,
        "kept": {group: list(kept) for group, kept in structure.kept.items()},
        "start": str(config.structure) if config.start == "run" else "new",
        **work.identity,
    }


def _finish(
    run: Run,
    structure: Structure,
    variables: Any,
    work: Task,
    title: str,
    command: str,
    seed: int,
    reached: tuple[float, float, int],
) -> None:
    value, stderr, steps = reached
    after = (structure.resources or {}).get("after", {})
    row = {"name": "retrained", **after, "quality": value, "stderr": stderr, "steps": steps, "note": ""}
    results = {
        "title": title,
        "data": work.description,
        "command": command,
        "machine": machine(),
        "seed": seed,
        "pipeline": "retrain",
        "budget": {},
        "quality": {"name": work.quality.name, "unit": work.quality.unit},
        "rows": [row],
        "warnings": [],
        "seconds": run.seconds,
    }
    run.finish(structure, variables, results)


if __name__ == "__main__":
    exit_on_user_error(main)()
