"""A run directory: one job of several phases that can be stopped anywhere, resumed, and loaded when it is done.

config.json      what was asked; another job cannot go on here
checkpoints/     one directory a phase, and "final": the small network's variables
metrics.jsonl    one line a record
masks.jsonl      masks over the search
seconds.json     how long every phase took, all attempts together
structure.json   what was found
results.json     what was measured; its presence means that the job is done
report.html      all of it, to look at
lock             held while a job runs here

With several processes all of them take part in the checkpoints, over one shared file system; the first alone writes
everything else.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import flax.linen as nn
import jax
import numpy as np

from dms_jax import models
from dms_jax.errors import Interrupted, UserError, one_line
from dms_jax.shrink import shrink
from dms_jax.space import SearchSpace
from dms_jax.structure import Structure
from dms_jax.training.checkpoints import Checkpoints
from dms_jax.training.interrupt import InterruptFlag
from dms_jax.training.lock import DirectoryLock
from dms_jax.training.loop import run_phase
from dms_jax.training.metrics import FILE as METRICS
from dms_jax.training.metrics import MetricsWriter
from dms_jax.training.processes import is_first, on_first
from dms_jax.training.progress import Progress

State = TypeVar("State")

MASKS, FINAL = "masks.jsonl", "final"


class Run(contextlib.AbstractContextManager):
    """One job in one directory, which is locked inside the `with` block.

    With several processes all of them call every method, and read every property, in the same order.

    Args:
      directory: made if need be.
      config: JSON values that say what the job is. A directory with another one belongs to another job.

    Raises:
      UserError: the directory cannot be written, or belongs to another job; the message names what differs. On
        entry: another process is at work there.
    """

    def __init__(self, directory: str | os.PathLike[str], config: Mapping[str, Any]):
        self.directory = Path(directory)
        self.interrupt = InterruptFlag()
        self._lock = DirectoryLock(self.directory)
        on_first(lambda: _claim(self.directory, json.loads(json.dumps(config))))

    def __enter__(self) -> Run:
        on_first(self._lock.acquire)
        self.interrupt.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        self.interrupt.__exit__(*exception)
        self._lock.release()

    @property
    def results(self) -> dict[str, Any] | None:
        """What a finished job measured; None while it is not done."""
        return on_first(lambda: _read(self.directory / "results.json"))

    @property
    def seconds(self) -> dict[str, float]:
        """Phase -> seconds it took, all attempts together."""
        return on_first(lambda: _read(self.directory / "seconds.json") or {})

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
          UserError: the directory cannot be written.
        """
        with Checkpoints(self.directory / "checkpoints" / name) as checkpoints:
            restored = checkpoints.restore(state)
            start, state = (0, state) if restored is None else (restored.step, restored.state)
            if start >= steps:
                return state
            for file in (METRICS, MASKS):
                on_first(lambda file=file: _forget(self.directory / file, name, start))
            with (
                self._timed(name, steps),
                MetricsWriter(self.directory) as writer,
                Progress(name, steps, start) as progress,
            ):
                return run_phase(
                    name,
                    step,
                    state,
                    batches,
                    key,
                    steps=steps,
                    start=start,
                    writer=writer,
                    progress=progress,
                    checkpoints=checkpoints,
                    checkpoint_seconds=checkpoint_seconds,
                    interrupt=self.interrupt,
                    **options,
                )

    @contextlib.contextmanager
    def _timed(self, name: str, steps: int) -> Iterator[None]:
        """Add to the phase's seconds, however it ends; let an interruption say where it was."""
        began = time.monotonic()
        try:
            yield
        except Interrupted as stop:
            raise Interrupted(stop.step, f"stopped {name} after step {stop.step} of {steps} and saved") from None
        finally:
            if is_first():  # others may not get here: nothing is waited for where something failed
                path = self.directory / "seconds.json"
                before = _read(path) or {}
                _write(path, before | {name: before.get(name, 0.0) + time.monotonic() - began})

    def record_masks(self, phase: str, step: int, masks: Mapping[str, np.ndarray]) -> None:
        """Append masks `[N]` in [0, 1] to masks.jsonl, a byte an element."""
        if not is_first():
            return
        text = {name: np.round(255 * np.asarray(m)).astype(np.uint8).tobytes().hex() for name, m in masks.items()}
        with _writing(self.directory), (self.directory / MASKS).open("a") as file:
            file.write(json.dumps({"phase": phase, "step": step, "masks": text}) + "\n")

    def finish(self, structure: Structure, variables: Any, results: Mapping[str, Any]) -> None:
        """Write the structure, the small network's variables, and last of all the results.

        Killed in between, the job is not done: the same command comes here again and writes all three anew.
        """
        folder = self.directory / "checkpoints" / FINAL

        def begin() -> None:
            with _writing(self.directory):
                structure.save(self.directory / "structure.json")
                if folder.exists():
                    shutil.rmtree(folder)

        on_first(begin)
        with Checkpoints(folder) as checkpoints:
            checkpoints.save(0, variables)
        on_first(lambda: _write(self.directory / "results.json", results))


def load(directory: str | os.PathLike[str], *, host: bool = False) -> tuple[nn.Module, dict[str, Any]]:
    """The small network that a finished run found: `model.apply(variables, x)`.

    With several processes all of them call this.

    Args:
      directory: of a run.
      host: variables as NumPy arrays, for networks that fit no single device; False puts them on the default device.

    Returns:
      The model with its structure, and its variables (params, batch_stats).

    Raises:
      UserError: no finished run is there, or what is there does not fit together.
    """
    directory = Path(directory)
    path, folder = directory / "structure.json", directory / "checkpoints" / FINAL
    if not (path.exists() and folder.is_dir()):
        there = "holds no finished run; run its command to the end" if directory.is_dir() else "is not a directory"
        raise UserError(f"{directory} {there}, or give the directory of a finished run")
    structure = Structure.load(path)
    model, shapes = _network(structure, str(path))
    # arrays of one number each, whatever their shape: what Orbax reads is put elsewhere
    wanted = jax.tree.map(lambda s: np.broadcast_to(np.zeros((), s.dtype), s.shape), shapes) if host else shapes
    with Checkpoints(folder) as checkpoints:
        restored = checkpoints.restore(dict(wanted))
    if restored is None:
        raise UserError(f"{folder} holds no whole checkpoint; remove results.json and run the job's command again")
    return model, restored.state


def load_params(
    directory: str | os.PathLike[str], space: SearchSpace, structure: Structure, *, host: bool = False
) -> Any:
    """The small network's parameters that a finished run left: a tree like the space's, arrays alone.

    Raises:
      UserError: no finished run is there, or it is of another network.
    """
    folder = Path(directory) / "checkpoints" / FINAL
    if not folder.is_dir():
        raise UserError(f"{directory} holds no finished run; run its job to the end")
    shapes = shrink(space, space.arrays(space.parameters.template), structure)
    wanted = jax.tree.map(lambda s: np.broadcast_to(np.zeros((), s.dtype), s.shape), shapes) if host else shapes
    with Checkpoints(folder) as checkpoints:
        restored = checkpoints.restore(wanted)
    if restored is None:
        raise UserError(f"{folder} holds no whole checkpoint; remove results.json and run the job again")
    return restored.state


def _network(structure: Structure, source: str) -> tuple[nn.Module, Any]:
    """The model that a structure names, with it; and the shapes of its variables."""
    try:
        name, arguments, inputs = (dict(structure.model or {})[key] for key in ("name", "arguments", "example"))
        examples = [jax.ShapeDtypeStruct(tuple(e["shape"]), e["dtype"]) for e in inputs]
        arguments = dict(arguments)
    except (KeyError, TypeError, ValueError):
        raise UserError(
            f"{source} does not say which model of the zoo it is of (name, arguments, example); clone your own model "
            "with the structure, and shrink its variables"
        ) from None
    model = models.create(name, **arguments).clone(structure=structure)
    try:
        return model, jax.eval_shape(model.init, jax.random.key(0), *examples)
    except Exception as error:  # whatever a network raises that cannot be built with these elements
        raise UserError(f"{source} does not fit model {name!r}: {one_line(error)[:300]}") from error


def _claim(directory: Path, config: dict[str, Any]) -> None:
    """Make the directory this job's, or see that it is."""
    path = directory / "config.json"
    with _writing(directory):
        directory.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            for name in (METRICS, MASKS, "checkpoints", "results.json"):
                if (directory / name).exists():
                    raise UserError(f"{directory} holds {name} of something else (no config.json); {ELSEWHERE}")
            _write(path, config)
            return
    there = _read(path)
    if there != config:
        asked, there = config, there if isinstance(there, dict) else {}
        names = [name for name in asked | there if _shown(asked, name) != _shown(there, name)]
        differ = ", ".join(f"{name} {_shown(there, name)} there, {_shown(asked, name)} asked" for name in names[:4])
        more = f", and {len(names) - 4} more" if len(names) > 4 else ""
        raise UserError(f"{directory} holds another job ({differ}{more}); {ELSEWHERE}, or remove that one")


ELSEWHERE = "choose another --workdir"


def _shown(config: Mapping[str, Any], name: str) -> str:
    return repr(config[name]) if name in config else "absent"


@contextlib.contextmanager
def _writing(directory: Path) -> Iterator[None]:
    """Turn what the file system raises into one line."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write in {directory} ({error.strerror or error}); {ELSEWHERE}") from error


def _read(path: Path) -> Any:
    """What a JSON file of a run holds; None where there is none."""
    try:
        return json.loads(path.read_text()) if path.exists() else None
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror or error}); {ELSEWHERE}") from error
    except ValueError:
        raise UserError(f"{path} is not JSON, so it is not of a run; {ELSEWHERE}, or remove it") from None


def _write(path: Path, content: Any) -> None:
    """Write JSON; a reader never meets half a file."""
    with _writing(path.parent):
        part = path.with_name(path.name + ".part")
        part.write_text(json.dumps(content, indent=1) + "\n")
        os.replace(part, path)


def _forget(path: Path, phase: str, start: int) -> None:
    """Drop a phase's records beyond the step it goes on from; those of other phases stay."""
    if not path.exists():
        return
    with _writing(path.parent):
        lines = path.read_text().splitlines(keepends=True)
        kept = [line for line in lines if _stays(line, phase, start)]
        if kept != lines:
            part = path.with_name(path.name + ".part")
            part.write_text("".join(kept))
            os.replace(part, path)


def _stays(line: str, phase: str, start: int) -> bool:
    try:
        record = json.loads(line)
        return line.endswith("\n") and (record["phase"] != phase or record["step"] <= start)
    except (ValueError, KeyError, TypeError):  # torn: the last line of a run that was killed
        return False
