"""Files of records, line by line: what can be read of them, and whether they are what was written.

A checkpoint carries a digest of the records of its phase up to its step, with marks on the way:

    recorded = Recorded()
    recorded.add(step, line)                       # as records are written
    recorded.saved()                               # goes with the checkpoint
    difference(saved, history(path).of(phase))     # None: the same records, byte for byte
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from dms_jax import files, reading
from dms_jax.errors import UserError
from dms_jax.training.checkpoints import warn

MOST_BYTES = 2**32
"""Of a file of records."""

MOST_LINE = 2**28
"""Of one record: masks of a network with 100 million elements."""

RECORD = reading.record({"phase": reading.text(1000), "step": reading.whole(0)})
"""What every line is at least."""

UNAFFECTED = "the weights are not affected"

_MARKS = 64  # at most: a checkpoint stays small, and a difference is found to 1/32 of a phase


class Recorded:
    """The running digest of a phase's records in one file.

    Every `apart`-th record is marked with the digest up to it; `apart` doubles when there are too many marks.
    """

    def __init__(self) -> None:
        self.count = 0
        """Records so far."""
        self._step = 0
        self._hash = hashlib.sha256()
        self._apart = 1
        self._marks: list[tuple[int, int, str]] = []  # records, step of the last of them, digest

    @classmethod
    def of(cls, lines: Iterable[tuple[int, bytes]]) -> Recorded:
        """Of records that are there already: step and line of each."""
        recorded = cls()
        for step, line in lines:
            recorded.add(step, line)
        return recorded

    def add(self, step: int, line: bytes) -> None:
        """Go on with one record."""
        self._hash.update(line)
        self.count, self._step = self.count + 1, step
        if self.count % self._apart == 0:
            self._marks.append(self._mark())
        if len(self._marks) > _MARKS:
            self._marks, self._apart = self._marks[1::2], 2 * self._apart

    def saved(self) -> dict[str, Any]:
        """What a checkpoint carries of it."""
        last = [] if self._marks and self._marks[-1][0] == self.count else [self._mark()]
        return {"records": self.count, "marks": [list(mark) for mark in (*self._marks, *last)] if self.count else []}

    def _mark(self) -> tuple[int, int, str]:
        return self.count, self._step, self._hash.hexdigest()[:32]


def difference(saved: Mapping[str, Any], lines: Iterable[tuple[int, bytes]]) -> int | None:
    """The step up to which records are those that were saved: 0 from the first on, None where all of them are.

    Args:
      saved: `Recorded.saved()` of what was written.
      lines: step and line of what is there.
    """
    marks, hashed, count = saved["marks"], hashlib.sha256(), 0
    expected = {records: digest for records, _, digest in marks}
    reached = 0  # marks that hold
    for _, line in lines:
        hashed.update(line)
        count += 1
        if count in expected:
            if hashed.hexdigest()[:32] != expected[count]:
                break
            reached += 1
    if reached == len(marks) and count == saved["records"]:
        return None
    return marks[reached - 1][1] if reached else 0


class History(NamedTuple):
    """The lines of a file of records.

    Attributes:
        lines: as they are, with their ends.
        records: phase and step of each; None where a line is no record.
    """

    lines: list[bytes]
    records: list[tuple[str, int] | None]

    @property
    def unreadable(self) -> list[int]:
        """Numbers, from 1, of the lines that are no records; a torn last one, as a kill leaves it, is not counted."""
        torn = len(self.lines) if self.lines and not self.lines[-1].endswith(b"\n") else 0
        return [n for n, found in enumerate(self.records, start=1) if found is None and n != torn]

    def of(self, phase: str, most: int = sys.maxsize) -> Iterator[tuple[int, bytes]]:
        """Step and line of a phase's records, up to step `most`."""
        for line, found in zip(self.lines, self.records, strict=True):
            if found is not None and found[0] == phase and found[1] <= most:
                yield found[1], line

    def phases(self) -> set[str]:
        """The phases that have records."""
        return {found[0] for found in self.records if found is not None}


def history(path: Path) -> History:
    """Read a file of records, whatever its lines hold; an empty history where there is none.

    Raises:
        UserError: it cannot be read.
    """
    if not os.path.lexists(path):
        return History([], [])
    lines = reading.read_bytes(path, most=MOST_BYTES, hint="see what it is").splitlines(keepends=True)
    return History(lines, [_key(line) for line in lines])


def tell_differences(path: Path, past: History, phase: str, step: int, saved: Mapping[str, Any], most: int) -> None:
    """Say in one line what a file lacks of a phase's records, or that they are others, and from which step on.

    Args:
      path: of the file, whose content is `past`.
      phase, step: of the checkpoint that carries `saved`.
      most: records beyond this step are not looked at.
    """
    lines = list(past.of(phase, most))
    same = difference(saved, lines)
    if same is None:
        return
    since = f"after step {same}" if same else "from the first one on"
    expected = saved["records"]
    if len(lines) < expected:
        fault = f"lacks {expected - len(lines)} of the {expected} records of {phase} up to step {step}, {since}"
    else:
        fault = f"does not hold the records of {phase} up to step {step} that were written: it differs {since}"
    warn(f"{path} {fault}; {UNAFFECTED}")


def tell_unknown(path: Path, past: History, phases: Iterable[str]) -> None:
    """Say that a file holds records of phases that its job does not have."""
    unknown = sorted(past.phases() - set(phases))
    if unknown:
        warn(f"{path} holds records of phase {reading.shown(unknown[0])}, which this job does not have; {UNAFFECTED}")


def drop_unreadable(path: Path) -> None:
    """Drop lines that are no records, and say which: their history is lost, whatever else is not.

    A torn last line is dropped without a word: a kill leaves one, and where it was saved a checkpoint knows of it.

    Raises:
      OSError: the file cannot be written.
    """
    past = history(path)
    if all(found is not None for found in past.records):
        return
    if past.unreadable:
        lines = ", ".join(map(str, past.unreadable[:5])) + (", ..." if len(past.unreadable) > 5 else "")
        known = [found for found in past.records[: past.unreadable[0] - 1] if found is not None]
        since = f"after step {known[-1][1]} of {known[-1][0]}" if known else "from the first step on"
        many = f"{len(past.unreadable)} line{'s' * (len(past.unreadable) > 1)} of {path} cannot be read"
        warn(f"{many} (line {lines}, {since}) and will be missing; {UNAFFECTED}")
    files.write(path, b"".join(line for line, found in zip(past.lines, past.records, strict=True) if found))


def forget(path: Path, past: History, phase: str, start: int) -> None:
    """Drop a phase's records beyond the step it goes on from, and a torn line; those of other phases stay.

    Raises:
      OSError: the file cannot be written.
    """
    kept = [
        line
        for line, found in zip(past.lines, past.records, strict=True)
        if found is not None and (found[0] != phase or found[1] <= start)
    ]
    if kept != past.lines:
        files.write(path, b"".join(kept))


def _key(line: bytes) -> tuple[str, int] | None:
    try:
        if not line.endswith(b"\n") or len(line) > MOST_LINE:
            return None
        found = reading.parse(line, "line", RECORD, hint="")
        return found["phase"], found["step"]
    except UserError:
        return None
