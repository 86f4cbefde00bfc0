"""A run directory: one job of several phases that can be stopped anywhere, resumed, and loaded when it is done.

config.json      what was asked; another job cannot go on here
checkpoints/     one directory a phase, and "final": the small network's variables
metrics.jsonl    one line a record
masks.jsonl      masks over the search
structure.json   what was found
results.json     what was measured; its presence means that the job is done
report.html      all of it, to look at
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import flax.linen as nn
import jax
import numpy as np

from dms_jax import models
from dms_jax.errors import UserError
from dms_jax.structure import Structure
from dms_jax.training.checkpoints import Checkpoints
from dms_jax.training.interrupt import InterruptFlag
from dms_jax.training.loop import run_phase
from dms_jax.training.metrics import MetricsWriter
from dms_jax.training.progress import Progress

State = TypeVar("State")


class Run(contextlib.AbstractContextManager):
    """One job in one directory.

    Args:
      directory: made if need be.
      config: JSON values that say what the job is. A directory with another one belongs to another job.

    Raises:
      UserError: the directory cannot be written, or belongs to another job; the message names what differs.
    """

    def __init__(self, directory: str | os.PathLike[str], config: Mapping[str, Any]):
        self.directory = Path(directory)
        self.interrupt = InterruptFlag()
        self._position = 0  # of metrics.jsonl, after the newest checkpoint
        self._writer: MetricsWriter | None = None
        _claim(self.directory, json.loads(json.dumps(config)))

    def __enter__(self) -> Run:
        self.interrupt.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        self.interrupt.__exit__(*exception)
        if self._writer is not None:
            self._writer.close()

    @property
    def results(self) -> dict[str, Any] | None:
        """What a finished job measured; None while it is not done."""
        path = self.directory / "results.json"
        return json.loads(path.read_text()) if path.exists() else None

    def phase(
        self,
        name: str,
        step: Callable[..., Any],
        state: State,
        batches: Callable[[int], Any],
        key: jax.Array,
        *,
        steps: int,
        checkpoint_seconds: float = 60.0,
        **options: Any,
    ) -> State:
        """Run a phase, or what is left of it, or nothing where it is done: the state at its end.

        Args:
          name: of the phase, unique in the job; phases come in the same order every time.
          step, batches, key, steps, options: as `run_phase` takes them.
          state: before its first step.
          checkpoint_seconds: how often to save.

        Raises:
          Interrupted, NonFiniteLoss, CheckpointError: as `run_phase`.
        """
        with Checkpoints(self.directory / "checkpoints" / name) as checkpoints:
            restored = checkpoints.restore(state)
            start = 0
            if restored is not None:
                start, state = restored.step, restored.state
                self._position = restored.meta["metrics_position"]
            if start >= steps:
                return state
            if self._writer is None:
                self._writer = MetricsWriter(self.directory, resume_at=self._position)
            _drop_masks(self.directory, name, start)
            with Progress(name, steps, start) as progress:
                return run_phase(
                    name,
                    step,
                    state,
                    batches,
                    key,
                    steps=steps,
                    start=start,
                    writer=self._writer,
                    progress=progress,
                    checkpoints=checkpoints,
                    checkpoint_seconds=checkpoint_seconds,
                    interrupt=self.interrupt,
                    **options,
                )

    def record_masks(self, phase: str, step: int, masks: Mapping[str, np.ndarray]) -> None:
        """Append masks `[N]` in [0, 1] to masks.jsonl, a byte an element."""
        text = {name: np.round(255 * np.asarray(m)).astype(np.uint8).tobytes().hex() for name, m in masks.items()}
        with (self.directory / "masks.jsonl").open("a") as file:
            file.write(json.dumps({"phase": phase, "step": step, "masks": text}) + "\n")

    def finish(self, structure: Structure, variables: Any, results: Mapping[str, Any]) -> None:
        """Write the structure, the small network's variables, and last of all the results."""
        structure.save(self.directory / "structure.json")
        with Checkpoints(self.directory / "checkpoints" / "final") as checkpoints:
            if checkpoints.restore(variables) is None:
                checkpoints.save(0, variables)
        part = self.directory / "results.json.part"
        part.write_text(json.dumps(results, indent=1) + "\n")
        os.replace(part, self.directory / "results.json")


def load(directory: str | os.PathLike[str]) -> tuple[nn.Module, dict[str, Any]]:
    """The small network that a finished run found: `model.apply(variables, x)`.

    Args:
      directory: of a run.

    Returns:
      The model with its structure, and its variables (params, batch_stats).

    Raises:
      UserError: no finished run is there, or what is there does not fit together.
    """
    directory = Path(directory)
    structure = Structure.load(directory / "structure.json")
    if structure.model is None:
        raise UserError(f"{directory / 'structure.json'} names no model; clone yours with it, and shrink its variables")
    model = models.create(structure.model["name"], **structure.model["arguments"]).clone(structure=structure)
    examples = [jax.ShapeDtypeStruct(tuple(e["shape"]), e["dtype"]) for e in structure.model["example"]]
    shapes = jax.eval_shape(model.init, jax.random.key(0), *examples)
    folder = directory / "checkpoints" / "final"
    restored = Checkpoints(folder).restore(dict(shapes)) if folder.is_dir() else None
    if restored is None:
        raise UserError(f"{directory} holds no finished network (checkpoints/final); run its command to the end")
    return model, restored.state


def _claim(directory: Path, config: dict[str, Any]) -> None:
    """Make the directory this job's, or see that it is."""
    path = directory / "config.json"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            part = directory / "config.json.part"
            part.write_text(json.dumps(config, indent=1) + "\n")
            os.replace(part, path)
            return
        there = json.loads(path.read_text())
    except OSError as error:
        raise UserError(f"cannot write in {directory} ({error.strerror}); choose another --workdir") from None
    except ValueError:
        raise UserError(f"{path} is not JSON: is {directory} a run directory? choose another --workdir") from None
    if there != config:
        names = [k for k in {**config, **there} if config.get(k) != there.get(k)] if isinstance(there, dict) else []
        differ = ", ".join(f"{k} {there.get(k)!r} there, {config.get(k)!r} asked" for k in names[:4])
        raise UserError(f"{directory} holds another job ({differ}); choose another --workdir, or remove that one")


def _drop_masks(directory: Path, phase: str, start: int) -> None:
    """Forget masks recorded after the step a phase resumes from."""
    path = directory / "masks.jsonl"
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        with contextlib.suppress(ValueError):  # a torn last line
            record = json.loads(line)
            if record["phase"] != phase or record["step"] <= start:
                kept.append(line + "\n")
    path.write_text("".join(kept))
