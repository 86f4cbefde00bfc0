"""What a run measured: one JSON line a record in `metrics.jsonl`, and the same for TensorBoard."""

import contextlib
import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from dms_jax.errors import UserError
from dms_jax.training.checkpoints import warn

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
                self._file = (self._directory / FILE).open("ab+")
                self._file.truncate(_whole_length(self._file, resume_at))
            except OSError as error:
                raise UserError(
                    f"cannot write {FILE} in {directory}: {error.strerror}; choose a directory of yours"
                ) from error

    @property
    def position(self) -> int:
        """Bytes written so far."""
        return self._file.tell() if self._is_writer else 0

    def write(self, phase: str, step: int, values: Mapping[str, float]) -> None:
        """Append one record.

        Args:
            phase: the part of the run, e.g. `"search"`; TensorBoard's tags are `phase/name`.
            step: steps of the phase done.
            values: finite numbers; others are written as null, since JSON has none.
        """
        if not self._is_writer:
            return
        record = {"phase": phase, "step": step}
        record |= {name: float(value) if math.isfinite(value) else None for name, value in values.items()}
        self._file.write(json.dumps(record).encode() + b"\n")
        self._file.flush()
        if self._board_class is not None:
            board = self._board(phase, step)
            for name, value in values.items():
                board.add_scalar(f"{phase}/{name}", float(value), step)

    def close(self) -> None:
        """Close the files."""
        if self._is_writer:
            self._file.close()
        for board in self._boards.values():
            board.close()
        self._boards.clear()

    def __exit__(self, *exception: object) -> None:
        self.close()

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
        return self._boards[phase]


def read(directory: str | Path) -> list[dict[str, Any]]:
    """Return the records of a run directory in order; a last line still being written is left out.

    Args:
        directory: a run directory.

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
    for number, line in enumerate(whole.splitlines(), start=1):
        try:
            records.append(json.loads(line))
        except ValueError as error:
            raise UserError(f"{path}, line {number} is not JSON: {line[:40]!r}; remove the line") from error
    return records


def _whole_length(file: Any, limit: int | None) -> int:
    """Bytes up to the end of the last whole line within `limit`."""
    file.seek(0)
    return file.read(-1 if limit is None else limit).rfind(b"\n") + 1


def _summary_writer() -> Any:
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        warn("TensorBoard files are left out: tensorboardX is not installed; it comes with the extra `report`")
        return None
    return SummaryWriter
