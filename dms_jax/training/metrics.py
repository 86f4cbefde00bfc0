"""What a run measured: one JSON line a record in `metrics.jsonl`, and the same for TensorBoard."""

import contextlib
import json
import math
import os
import stat
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dms_jax import files, reading
from dms_jax.errors import UserError, one_line
from dms_jax.training.checkpoints import warn
from dms_jax.training.histories import Recorded

FILE = "metrics.jsonl"


class MetricsWriter(contextlib.AbstractContextManager):
    """Appends records to `metrics.jsonl`, and to TensorBoard event files under `tensorboard/<phase>`.

    `position` is stored with a checkpoint (`run_phase` does so, as `meta["metrics_position"]`). Handed back
    as `resume_at`, it cuts off everything written after that checkpoint, so that a resumed run leaves the
    file an uninterrupted one would have left, byte for byte. Only process 0 writes.

    Args:
        directory: the run directory; made if need be.
        resume_at: a `position`: records beyond it are dropped; 0 begins a new file. None appends to what is
            there.
        tensorboard: write event files too. Needs tensorboardX (the extra `report`); without it one line says
            so.

    Raises:
        UserError: `directory` cannot be written.
    """

    def __init__(self, directory: str | Path, *, resume_at: int | None = None, tensorboard: bool = True):
        self._directory = Path(directory)
        self._is_writer = jax.process_index() == 0
        self._boards: dict[str, Any] = {}
        self._board_class = _summary_writer() if tensorboard and self._is_writer else None
        if self._is_writer:
            try:
                self._directory.mkdir(parents=True, exist_ok=True)
                self._file = Lines(self._directory / FILE, resume_at)
            except OSError as error:
                raise UserError(
                    f"cannot write {FILE} in {directory}: {error.strerror}; choose a directory of yours"
                ) from error
        self.recorded: defaultdict[str, Recorded] = defaultdict(Recorded)
        """Phase -> digest of its records, which goes on from what is put here; process 0 alone has them."""

    @property
    def position(self) -> int:
        """Bytes written so far."""
        return self._file.length if self._is_writer else 0

    def write(self, phase: str, step: int, values: Mapping[str, float]) -> None:
        """Append one record.

        Args:
            phase: the part of the run, e.g. `"search"`; TensorBoard's tags are `phase/name`.
            step: steps of the phase done.
            values: finite numbers; others are written as null, since JSON has none.

        Raises:
            UserError: the disk is full, say; what was written before is whole. Or a value is called "phase" or
                "step", which every record has.
        """
        if not self._is_writer:
            return
        record = {"phase": phase, "step": step}
        if taken := record.keys() & values.keys():
            raise UserError(f"a metric is called {min(taken)!r}, which every record has; give it another name")
        record |= {name: float(value) if math.isfinite(value) else None for name, value in values.items()}
        line = json.dumps(record).encode() + b"\n"
        self._file.append(line)
        self.recorded[phase].add(step, line)
        if self._board_class is not None:
            self._show(phase, step, values)

    def close(self) -> None:
        """Close the files."""
        if self._is_writer:
            self._file.close()
        boards, self._boards = self._boards, {}
        for board in boards.values():
            with contextlib.suppress(OSError):
                board.close()

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _show(self, phase: str, step: int, values: Mapping[str, float]) -> None:
        """Give a record to TensorBoard, whose files are a copy: without them a run goes on."""
        try:
            board = self._board(phase, step)
            for name, value in values.items():
                board.add_scalar(f"{phase}/{name}", float(value), step)
        except OSError as error:
            warn(f"TensorBoard files are left out from step {step} of {phase} on: {one_line(error, 200)}")
            self._board_class = None

    def _board(self, phase: str, step: int) -> Any:
        """One directory a phase: TensorBoard purges by the steps of a directory, and phases restart them."""
        if phase not in self._boards:
            assert self._board_class is not None
            folder = self._directory / "tensorboard" / phase
            # Event files are named by the second: a run resumed within it would overwrite the file.
            self._boards[phase] = self._board_class(
                str(folder),
                purge_step=step if folder.exists() else None,
                filename_suffix=f".{time.time_ns()}",
            )
            _outlive_full_disks(self._boards[phase])
        return self._boards[phase]


class Lines:
    """A file of lines that grows by whole lines alone; a link at its place is not followed.

    Args:
        path: of the file; made if need be.
        limit: bytes that stay at most, up to the end of the last whole line within; None: all.

    Raises:
        OSError: it cannot be written.
    """

    def __init__(self, path: Path, limit: int | None = None):
        self._path = path
        self._descriptor: int | None = files.open_append(path)
        try:
            if not stat.S_ISREG(os.fstat(self._descriptor).st_mode):
                raise OSError(None, "Not a regular file")
            self.length = _whole_length(self._descriptor, limit)
            os.ftruncate(self._descriptor, self.length)
        except OSError:
            self.close()
            raise

    def append(self, line: bytes) -> None:
        """Add a line, all of it or nothing.

        Raises:
            UserError: it cannot be written.
        """
        assert self._descriptor is not None
        try:
            files.write_all(self._descriptor, line)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, self.length)
            raise UserError(
                f"cannot write {self._path} ({error.strerror or error}); what was saved before is whole, and the same "
                "command goes on once it can be written"
            ) from error
        self.length += len(line)

    def close(self) -> None:
        """Close the file."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


def read(directory: str | Path, report: Callable[[str], None] | None = None) -> list[dict[str, Any]]:
    """Return the records of a run directory in order; a last line still being written is left out.

    Args:
        directory: a run directory.
        report: gets a line for each one that is not JSON, which is then left out; None makes it an error.

    Returns:
        One dictionary a record: `phase`, `step` and the values, of which null stands for a number that was
            not finite.

    Raises:
        UserError: the file is missing, or a line of it is not JSON.
    """
    path = Path(directory) / FILE
    try:
        whole, _, _ = path.read_bytes().rpartition(b"\n")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    records = []
    for number, line in enumerate(whole.split(b"\n") if whole else [], start=1):
        try:
            records.append(reading.parse(line, "it", hint=""))
        except UserError as error:
            fault = f"{path}, line {number} is not JSON: {line[:40]!r}"
            if report is None:
                raise UserError(f"{fault}; remove the line") from error
            report(fault)
    return records


def _whole_length(descriptor: int, limit: int | None) -> int:
    """Bytes up to the end of the last whole line within `limit`."""
    size = os.fstat(descriptor).st_size
    end = size if limit is None else min(size, limit)
    while end > 0:
        start = max(end - 2**16, 0)
        newline = os.pread(descriptor, end - start, start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0


def _outlive_full_disks(board: Any) -> None:
    """Let the thread behind a TensorBoard writer drop what it cannot write: else it ends, and its queue fills up."""
    events = getattr(getattr(getattr(board, "file_writer", None), "event_writer", None), "_ev_writer", None)
    for name in ("write_event", "flush"):
        if (write := getattr(events, name, None)) is not None:
            setattr(events, name, _dropping(write))


def _dropping(write: Callable[..., Any]) -> Callable[..., None]:
    def attempt(*arguments: Any) -> None:
        with contextlib.suppress(OSError):
            write(*arguments)

    return attempt


def _summary_writer() -> Any:
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        warn("TensorBoard files are left out: tensorboardX is not installed; it comes with the extra `report`")
        return None
    return SummaryWriter


def masks_line(phase: str, step: int, masks: Mapping[str, Any]) -> bytes:
    """A line of masks.jsonl: masks `[N]` in [0, 1], a byte an element."""
    text = {name: _bytes(name, np.asarray(mask)).hex() for name, mask in masks.items()}
    return json.dumps({"phase": phase, "step": step, "masks": text}).encode() + b"\n"


def _bytes(name: str, mask: np.ndarray) -> bytes:
    """A mask, a byte an element.

    Raises:
      UserError: an element outside [0, 1], which a byte would wrap or hide.
    """
    rounded = np.round(255 * mask)
    if not np.all((rounded >= 0) & (rounded <= 255)):
        raise UserError(f"the mask of group {name!r} has elements that are not between 0 and 1")
    return rounded.astype(np.uint8).tobytes()
