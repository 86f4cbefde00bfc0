"""A run directory: one job of several phases that can be stopped anywhere, resumed, and loaded when it is done.

config.json      what was asked; another job cannot go on here
checkpoints/     one directory a phase, and "final": the small network's variables
metrics.jsonl    one line a record
masks.jsonl      masks over the search
seconds.json     how long every phase took, all attempts together
structure.json   what was found
sizes.json       the structures of all sizes, where the job has several; structure.json is the largest one's
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

import jax
import numpy as np

from dms_jax import files, nested, reading
from dms_jax.errors import Interrupted, UserError, shortened
from dms_jax.nested import Nested
from dms_jax.structure import Structure
from dms_jax.training import claims, done
from dms_jax.training.checkpoints import Checkpoints, warn
from dms_jax.training.claims import ELSEWHERE
from dms_jax.training.digests import Owner, identity_of
from dms_jax.training.done import FINAL, MASKS
from dms_jax.training.histories import (
    Recorded,
    drop_unreadable,
    forget,
    history,
    tell_differences,
)
from dms_jax.training.interrupt import InterruptFlag
from dms_jax.training.lock import DirectoryLock, claiming
from dms_jax.training.loop import run_phase
from dms_jax.training.metrics import FILE as METRICS
from dms_jax.training.metrics import Lines, MetricsWriter, masks_line
from dms_jax.training.processes import is_first, on_first
from dms_jax.training.progress import Progress

State = TypeVar("State")

_SECONDS = reading.mapping(reading.number(0))


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
        return on_first(lambda: done.results(self.directory, self._config))

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
        line = masks_line(phase, step, masks)
        with _writing(self.directory), contextlib.closing(Lines(self.directory / MASKS)) as lines:
            lines.append(line)
        self._recorded.setdefault(phase, {}).setdefault(MASKS, Recorded()).add(step, line)

    def write_examples(self, content: Any) -> None:
        """Write what the report shows of what the networks do; JSON values."""
        on_first(lambda: _write(self.directory / "examples.json", content))

    def finish(
        self, structure: Structure, variables: Any, results: Mapping[str, Any], sizes: Nested | None = None
    ) -> None:
        """Write the structure, the small network's variables, and last of all the results.

        Killed in between, the job is not done: the same command comes here again and writes all of them anew.

        Args:
          structure: that was found; of several sizes the largest.
          variables: of the small network; of several sizes as `finished.stored` has them.
          results: what was measured.
          sizes: all of them, where there are several.
        """
        folder = self.directory / "checkpoints" / FINAL

        def begin() -> None:
            with _writing(self.directory):
                structure.save(self.directory / "structure.json")
                (self.directory / nested.FILE).unlink(missing_ok=True)
                if sizes is not None:
                    sizes.write(self.directory)
                if folder.exists():
                    shutil.rmtree(folder)

        on_first(begin)
        with Checkpoints(folder, owner=Owner(self._config, FINAL)) as checkpoints:
            meta = {
                "structure": identity_of(json.loads(json.dumps(structure.to_json()))),
                "results": identity_of(json.loads(json.dumps(files.finite(results)))),
                "histories": {phase: self._histories(phase) for phase in self._recorded},
            } | ({} if sizes is None else {"sizes": sizes.identity})
            checkpoints.save(0, variables, meta)
        on_first(lambda: _write(self.directory / "results.json", results))


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
