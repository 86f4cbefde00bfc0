"""A run directory: one job of several phases that can be stopped anywhere, resumed, and loaded when it is done.

config.json      what was asked; another job cannot go on here
checkpoints/     one directory a phase, and "final": the small network's variables
metrics.jsonl    one line a record
masks.jsonl      masks over the search
seconds.json     how long every phase took, all attempts together
structure.json   what was found
examples.json    what the networks say about a few examples, where the job has such
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
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import flax.linen as nn
import jax
import numpy as np

from dms_jax import files, models, reading
from dms_jax.elements import declared
from dms_jax.errors import Interrupted, UserError, one_line, shortened
from dms_jax.models.arguments import check_arguments, check_example
from dms_jax.shrink import shrink
from dms_jax.space import SearchSpace
from dms_jax.structure import Structure
from dms_jax.training import claims
from dms_jax.training.checkpoints import CheckpointError, Checkpoints, NoWholeCheckpointError, Restored, warn
from dms_jax.training.claims import ELSEWHERE
from dms_jax.training.digests import Owner, find_fault, identity_of, read_meta
from dms_jax.training.histories import (
    Recorded,
    drop_unreadable,
    forget,
    history,
    tell_differences,
    tell_unknown,
)
from dms_jax.training.interrupt import InterruptFlag
from dms_jax.training.lock import DirectoryLock, claiming
from dms_jax.training.loop import run_phase
from dms_jax.training.metrics import FILE as METRICS
from dms_jax.training.metrics import Lines, MetricsWriter
from dms_jax.training.processes import is_first, on_first
from dms_jax.training.progress import Progress

State = TypeVar("State")

MASKS, FINAL = "masks.jsonl", "final"

_SECONDS = reading.mapping(reading.number(0))
_RESULTS = reading.mapping(reading.anything)


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
        self._config = files.finite(json.loads(json.dumps(config)))
        self._lock = DirectoryLock(self.directory)
        self._recorded: dict[str, dict[str, Recorded]] = {}  # phase -> file -> its records; process 0 has them
        on_first(self._claim)

    def __enter__(self) -> Run:
        self._config = on_first(self._begin)
        self.interrupt.__enter__()
        return self

    def _claim(self) -> None:
        """Make the directory this job's, unless it is already; one job at a time."""
        with _writing(self.directory):
            self.directory.mkdir(parents=True, exist_ok=True)
            if claims.is_claimed(self.directory, self._config):
                return
            with claiming(self.directory):
                claims.claim(self.directory, self._config)

    def _begin(self) -> dict[str, Any]:
        """Take the lock, and see once more whose the directory is: what happens from here on happens under it."""
        self._lock.acquire()
        try:
            with _writing(self.directory), claiming(self.directory):
                config = claims.claim(self.directory, self._config)
                for part in self.directory.glob(f"*{files.PART}"):  # of writes that were killed
                    part.unlink()
                for file in (METRICS, MASKS):
                    drop_unreadable(self.directory / file)
            return config
        except BaseException:
            self._lock.release()
            raise

    def __exit__(self, *exception: Any) -> None:
        self.interrupt.__exit__(*exception)
        self._lock.release()

    @property
    def results(self) -> dict[str, Any] | None:
        """What a finished job measured; None while it is not done.

        It is done when results.json, structure.json and the final weights are there, whole, and of this job. Where one
        is not, a line on stderr says so, and the job's command makes it again.
        """
        return on_first(self._results)

    def _results(self) -> dict[str, Any] | None:
        path = self.directory / "results.json"
        if not path.exists():
            return None
        try:
            results = reading.read_json(path, _RESULTS, hint=f"{ELSEWHERE}, or remove it")
            structure = Structure.load(self.directory / "structure.json")
            final = self.directory / "checkpoints" / FINAL / "0"
            fault = find_fault(final, Owner(self._config, FINAL))
            meta = {} if fault is not None else read_meta(final)
            if fault is None and meta.get("structure") != identity_of(structure.to_json()):
                fault = "they were saved with another structure.json"
            if fault is None and meta.get("results") != identity_of(results):
                fault = f"they were saved with another {path.name}"
            if fault is not None:
                raise UserError(f"the final weights in {final} cannot be used ({fault})")
        except UserError as error:
            warn(f"{shortened(str(error), 300)}: this job is not finished, and what is missing is made again")
            return None
        self._tell_all(meta.get("histories", {}))
        return results

    def _tell_all(self, saved: Mapping[str, Mapping[str, Any]]) -> None:
        """Say what records of a finished job are lost or others."""
        for file in (METRICS, MASKS):
            path, of_phase = self.directory / file, {p: found[file] for p, found in saved.items() if file in found}
            try:
                past = history(path)
            except UserError as error:
                warn(shortened(str(error), 300))
                continue
            tell_unknown(path, past, of_phase)
            for phase, one in of_phase.items():
                last = one["marks"][-1][1] if one["marks"] else 0
                tell_differences(path, past, phase, last, one, sys.maxsize)

    @property
    def seconds(self) -> dict[str, float]:
        """Phase -> seconds it took, all attempts together."""
        return on_first(self._seconds)

    def _seconds(self) -> dict[str, float]:
        path = self.directory / "seconds.json"
        if not path.exists():
            return {}
        try:
            return reading.read_json(path, _SECONDS, hint="counting from 0")
        except UserError as error:
            warn(shortened(str(error), 300))
            return {}

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
        owner = Owner(self._config, name)
        with Checkpoints(self.directory / "checkpoints" / name, owner=owner) as checkpoints:
            restored = checkpoints.restore(state)
            start, state, meta = (0, state, {}) if restored is None else restored
            on_first(lambda: self._recall(name, start, meta, start < steps))
            if start >= steps:
                return state
            with (
                self._timed(name, steps),
                MetricsWriter(self.directory) as writer,
                Progress(name, steps, start) as progress,
            ):
                if name in self._recorded:
                    writer.recorded[name] = self._recorded[name][METRICS]
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
                    meta=lambda: {"histories": self._histories(name)},
                    **options,
                )

    def _histories(self, phase: str) -> dict[str, Any]:
        """File -> what a checkpoint carries of a phase's records in it."""
        return {file: recorded.saved() for file, recorded in self._recorded.get(phase, {}).items()}

    def _recall(self, phase: str, start: int, meta: Mapping[str, Any], drop: bool) -> None:
        """Say which records of a phase are lost or others, drop those beyond its checkpoint, go on with those left."""
        self._recorded[phase] = {}
        for file in (METRICS, MASKS):
            path = self.directory / file
            past = history(path)
            if file in (saved := meta.get("histories", {})):
                tell_differences(path, past, phase, start, saved[file], start if drop else sys.maxsize)
            beyond = [step for step, _ in past.of(phase)]
            if start == 0 and beyond and file == METRICS:
                warn(
                    f"no checkpoint of {phase} in {self.directory} was saved or is left: it starts again from step 0, "
                    f"and its {len(beyond)} records, up to step {max(beyond)}, are dropped and made again"
                )
            if drop:
                with _writing(self.directory):
                    forget(path, past, phase, start)
            self._recorded[phase][file] = Recorded.of(past.of(phase, start))

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
                before = self._seconds()
                now = before | {name: before.get(name, 0.0) + time.monotonic() - began}
                # what went wrong before, such as a full disk, is what is to be told
                with contextlib.suppress(*(() if sys.exception() is None else (UserError,))):
                    _write(self.directory / "seconds.json", now)

    def record_masks(self, phase: str, step: int, masks: Mapping[str, np.ndarray]) -> None:
        """Append masks `[N]` in [0, 1] to masks.jsonl, a byte an element."""
        if not is_first():
            return
        text = {name: _bytes(name, np.asarray(mask)).hex() for name, mask in masks.items()}
        line = json.dumps({"phase": phase, "step": step, "masks": text}).encode() + b"\n"
        with _writing(self.directory), contextlib.closing(Lines(self.directory / MASKS)) as lines:
            lines.append(line)
        self._recorded.setdefault(phase, {}).setdefault(MASKS, Recorded()).add(step, line)

    def write_examples(self, content: Any) -> None:
        """Write what the report shows of what the networks do; JSON values."""
        on_first(lambda: _write(self.directory / "examples.json", content))

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
        with Checkpoints(folder, owner=Owner(self._config, FINAL)) as checkpoints:
            meta = {
                "structure": identity_of(json.loads(json.dumps(structure.to_json()))),
                "results": identity_of(json.loads(json.dumps(files.finite(results)))),
                "histories": {phase: self._histories(phase) for phase in self._recorded},
            }
            checkpoints.save(0, variables, meta)
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
    restored = _final(directory, dict(wanted))
    if restored.meta.get("structure") != identity_of(structure.to_json()):
        raise UserError(
            f"{path} is not the structure that the weights in {folder} were saved with; run the job's command again, "
            "which makes both again"
        )
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
    restored = _final(Path(directory), wanted)
    if restored.meta.get("structure") != identity_of(structure.to_json()):
        raise UserError(
            f"{folder} holds no whole checkpoint of this structure; run the job again, which makes it again"
        )
    return restored.state


def _final(directory: Path, wanted: Any) -> Restored:
    """The final weights of a run."""
    folder = directory / "checkpoints" / FINAL
    fault = "there are none"
    try:
        with Checkpoints(folder, owner=Owner(claims.configuration(directory), FINAL)) as checkpoints:
            if (restored := checkpoints.restore(wanted)) is not None:
                return restored
    except NoWholeCheckpointError as error:
        fault = error.fault
    again = "run the job's command again, which makes them again"
    raise CheckpointError(f"the final weights in {folder} cannot be used ({fault}); {again}")


def _network(structure: Structure, source: str) -> tuple[nn.Module, Any]:
    """The model that a structure names, with it; and the shapes of its variables."""
    try:
        name, arguments, inputs = (dict(structure.model or {})[key] for key in ("name", "arguments", "example"))
        check_example(inputs)
        examples = [jax.ShapeDtypeStruct(tuple(e["shape"]), e["dtype"]) for e in inputs]
        arguments = dict(arguments)
    except (KeyError, TypeError, ValueError, reading.Mismatch):
        raise UserError(
            f"{source} does not say which model of the zoo it is of (name, arguments, example); clone your own model "
            "with the structure, and shrink its variables"
        ) from None
    check_arguments(name, arguments, source)
    try:
        model = models.create(name, **arguments).clone(structure=structure)
        with declared() as groups:
            shapes = jax.eval_shape(model.init, jax.random.key(0), *examples)
    except UserError as error:
        fits = "" if str(error).startswith("unknown model") else f" does not fit model {name!r}"
        raise UserError(f"{source}{fits}: {one_line(error, 300)}") from error
    except Exception as error:  # whatever a network raises that cannot be built with these elements
        raise UserError(f"{source} does not fit model {name!r}: {one_line(error, 300)}") from error
    unknown = [group for group in structure.kept if group not in groups and group not in structure.removed]
    if unknown:
        raise UserError(f"{source} has group {reading.shown(unknown[0])}, which model {name!r} does not have")
    return model, shapes


@contextlib.contextmanager
def _writing(directory: Path) -> Iterator[None]:
    """Turn what the file system raises into one line."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write in {directory} ({error.strerror or error}); {ELSEWHERE}") from error


def _write(path: Path, content: Any) -> None:
    """Write JSON; a reader never meets half a file."""
    with _writing(path.parent):
        files.write_json(path, content)


def _bytes(name: str, mask: np.ndarray) -> bytes:
    """A mask, a byte an element.

    Raises:
      UserError: an element outside [0, 1], which a byte would wrap or hide.
    """
    rounded = np.round(255 * mask)
    if not np.all((rounded >= 0) & (rounded <= 255)):
        raise UserError(f"the mask of group {name!r} has elements that are not between 0 and 1")
    return rounded.astype(np.uint8).tobytes()
