"""What every job does around its phases: go on or say that all is done, measure, write, show."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optax
from rich.console import Console

from dms_jax.errors import Interrupted, UserError
from dms_jax.method.search import Search
from dms_jax.training import processes, trial
from dms_jax.training.finished import kept
from dms_jax.training.pipeline import Finished, Network
from dms_jax.training.plan import Steps
from dms_jax.training.results import Quality, measure, print_table, shares
from dms_jax.training.runs import Run
from dms_jax.training.warmup import growth_warnings, warmup_warnings


@dataclass(frozen=True, eq=False)
class Experiment:
    """One experiment, ready to run.

    Attributes:
      directory: of the run.
      identity: what makes the job the one it is.
      command: that starts it, for people.
      subject: "resnet20 on scikit-learn's digits"; the title of the report begins so.
      data: what it learns from, in words.
      pipeline: "p", "np" or "p-".
      seed: of everything drawn.
      search: what is searched.
      steps: of the phases.
      quality: how well a network does.
      phases: runs them all.
      latency_batches: the batch sizes to measure latency at.
      examples: from the networks to what the report shows of what they do, the content of examples.json;
        None, or an answer of None: nothing.
    """

    directory: str | os.PathLike[str]
    identity: Mapping[str, Any]
    command: str
    subject: str
    data: str
    pipeline: str
    seed: int
    search: Search
    steps: Steps
    quality: Quality
    phases: Callable[[Run], Finished]
    latency_batches: tuple[int, ...] = (1, 64)
    examples: Callable[[Mapping[str, Network]], Any] | None = None


def conduct(experiment: Experiment) -> None:
    """Run an experiment, or what is left of it, and write its results and report.

    With several processes all of them call this; the first alone writes and shows.

    Raises:
      Interrupted: stopped and saved; the message says how to go on.
      UserError: another job's directory, a checkpoint that cannot be used, a loss that is not finite, ...
    """
    e = experiment
    if e.steps.trial:
        trial.check(e.search.space, e.search.limits)
    with Run(e.directory, e.identity) as run:
        if run.results is not None:
            processes.on_first(lambda: _point_out(run.directory))
            return
        say(f"{e.subject} -> {run.directory}, steps: {e.steps.plan}")
        try:
            finished = e.phases(run)
            if finished.trial is not None:
                say(finished.trial.words)
            say(f"measuring {e.quality.name} and latency")
            measured = measure(finished, e.search, e.steps, e.quality, e.latency_batches)
            if e.examples is not None and (shown := e.examples(finished.networks)) is not None:
                run.write_examples(shown)
        except Interrupted as stop:
            raise Interrupted(stop.step, f"{stop}; the same command goes on: {e.command}") from None
        warmup = e.search.schedule.warmup
        if e.pipeline == "np":
            measured["warnings"] += warmup_warnings(run.directory, warmup)
        elif not (warmup or e.steps.pretrain):
            measured["warnings"] += growth_warnings(run.directory)
        results = {
            "title": f"{e.subject}, {shares(e.search, finished.sizes)}",
            "data": e.data,
            "command": e.command,
            "seed": e.seed,
            "pipeline": e.pipeline,
            **measured,
            "seconds": run.seconds,
        }
        variables, sizes = kept(finished)
        run.finish(finished.structure, variables, results, sizes)
        processes.on_first(lambda: _show(results, e.quality, run.directory))


def say(line: str) -> None:
    """Tell people on stderr what goes on; the first process alone does."""
    if processes.is_first():
        Console(stderr=True).print(line, highlight=False, markup=False, soft_wrap=True)


def _point_out(directory: Path) -> None:
    there = directory / "report.html"
    print(f"finished already: {there if there.exists() else _report(directory) or directory}")


def _show(results: Mapping[str, Any], quality: Quality, directory: Path) -> None:
    print_table(results, quality)
    for line in results["warnings"]:
        print(f"warning: {line}")
    if report := _report(directory):
        print(f"report: {report}")


def _report(directory: Path) -> Path | None:
    """Write the report; None, and a line about it, where what draws it is missing."""
    try:
        from dms_jax.report import write_report

        return write_report(directory)
    except ImportError as error:
        say(f"no report ({error}): install dms_jax[report]; the same command writes it then")
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"no report: {error}") from error


def warm_cosine(peak: float, steps: int) -> optax.Schedule:
    """Up to `peak` in a tenth of the steps, then a cosine down to 0."""
    return optax.warmup_cosine_decay_schedule(0.0, peak, max(steps // 10, 1), max(steps, 2))
