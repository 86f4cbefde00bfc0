"""Cells: (task, settings, seed) -> numbers, a JSON-lines file a task, so that a table of hours can stop and go on.

A row is one of three: what cells were computed on (`{"conditions": name, ...}`), settings (`{"settings": name, ...}`),
or a cell (`{"cell": name of its settings, "seed", "conditions", "result"}`). A finished cell is never computed again;
tables and pictures are made from the rows alone. Benchmarks that ask for the same cell share it, and so do processes.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import jax
from rich.console import Console

from dms_jax.errors import Interrupted, UserError
from dms_jax.training.interrupt import InterruptFlag
from dms_jax.training.machine import machine
from dms_jax.training.progress import Progress
from experiments.benchmarks.sharing import in_turns, lock

Key = TypeVar("Key")
Say = Callable[[str], None]
"""Shows a text beside the progress bar."""
Compute = Callable[[InterruptFlag, Say], Mapping[str, Any]]
"""Gives one cell's results; raises `Interrupted` when the flag is up."""


def file_label(text: str) -> str:
    """A text as a part of a name: letters, digits and underscores."""
    return "".join(c if c.isalnum() else "_" for c in text)


def _digest(content: Any, length: int = 10) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:length]


@dataclass(frozen=True, eq=False)
class Cell:
    """One number of a table.

    Attributes:
      task: what is learned ("text", "digits"): the file.
      label: what people call it; its name begins so.
      identity: the settings that its name is made of: another identity is another cell.
      settings: all settings, to see that a stored cell is the one asked for. New settings may come, old ones hold.
      seed: of everything drawn.
    """

    task: str
    label: str
    identity: Mapping[str, Any]
    settings: Mapping[str, Any]
    seed: int

    @property
    def name(self) -> str:
        """Of its settings."""
        return f"{self.label}-{_digest(self.identity)}"

    @property
    def path(self) -> Path:
        """What a process takes that computes it."""
        return Path(self.task) / f"{self.name}-seed{self.seed}"


class _Rows:
    """The rows of one file, read as far as it has grown: the last one of a name counts."""

    def __init__(self, path: Path):
        self.path, self._told = path, False
        self._begin(None)

    def _begin(self, file: int | None) -> None:
        self.conditions: dict[str, dict[str, Any]] = {}
        self.settings: dict[str, dict[str, Any]] = {}
        self.cells: dict[tuple[str, int], dict[str, Any]] = {}
        self._file, self._offset, self._lines = file, 0, 0
        self._torn = False  # whether more follows what was taken in: the beginning of a line

    def read(self, alone: bool = False) -> None:
        """Take in what has come.

        Args:
          alone: nobody writes meanwhile: what lacks an end is the last line of a process that was killed.
        """
        try:
            status = self.path.stat()
        except FileNotFoundError:
            self._begin(None)
            return
        if status.st_ino != self._file or status.st_size < self._offset:  # another file has its place
            self._begin(status.st_ino)
        if status.st_size == self._offset:
            self._torn = False
            return
        with self.path.open("rb") as file:
            file.seek(self._offset)
            new = file.read()
        whole, end, rest = new.rpartition(b"\n")
        for line in (whole + end).splitlines():
            self._take(line)
        self._offset += len(whole + end)
        self._torn = bool(rest)
        if rest and alone:
            if not self._told:
                said = f"{self.path}: the last line is torn and dropped"
                Console(stderr=True).print(said, highlight=False, soft_wrap=True)
            self._told = True
        elif rest:
            with lock(self.path):
                self.read(alone=True)

    def _take(self, line: bytes) -> None:
        self._lines += 1
        try:
            row = json.loads(line)
            if "cell" in row:
                hash(row["conditions"])
                if not isinstance(row["result"], dict):
                    raise TypeError
                self.cells[row["cell"], row["seed"]] = row
            elif "settings" in row:
                self.settings[row.pop("settings")] = row
            else:
                self.conditions[row.pop("conditions")] = row
        except (ValueError, KeyError, TypeError, AttributeError):
            raise UserError(f"{self.path}:{self._lines} is no row of cells; mend or remove this line") from None

    def append(self, cell: Cell, result: Mapping[str, Any], conditions: Mapping[str, Any]) -> None:
        """Add a cell, and what it refers to and is not there yet, in one write.

        Raises:
          UserError: the cell is there.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with lock(self.path):
            self.read(alone=True)
            if (cell.name, cell.seed) in self.cells:
                raise UserError(f"{self.path} has {cell.path.name} already; finished cells are never written over")
            rows, known, where = [], self.settings.get(cell.name, {}), _digest(conditions, 6)
            if where not in self.conditions:
                rows.append({"conditions": where, **conditions})
            if not cell.settings.keys() <= known.keys():
                rows.append({"settings": cell.name, **known, **cell.settings})
            rows.append({"cell": cell.name, "seed": cell.seed, "conditions": where, "result": dict(result)})
            with self.path.open("ab") as file:
                if self._torn:
                    file.truncate(self._offset)
                file.write("".join(f"{json.dumps(row)}\n" for row in rows).encode())
                file.flush()
                os.fsync(file.fileno())
            self.read(alone=True)


class Cells:
    """The finished cells of a folder.

    Args:
      folder: made when the first cell is written.
      compute: whether missing cells are computed.
    """

    def __init__(self, folder: str | os.PathLike[str], compute: bool = True):
        self.folder, self.compute = Path(folder), compute
        self._files: dict[str, _Rows] = {}

    def _rows(self, task: str) -> _Rows:
        rows = self._files.setdefault(task, _Rows(self.folder / f"{task}.jsonl"))
        rows.read()
        return rows

    def get(self, cell: Cell) -> dict[str, Any] | None:
        """A finished cell's results; None where it is still to be computed.

        Raises:
          UserError: it was made with other settings.
        """
        rows = self._rows(cell.task)
        row = rows.cells.get((cell.name, cell.seed))
        if row is None:
            return None
        stored, asked = rows.settings.get(cell.name, {}), json.loads(json.dumps(cell.settings))
        for name in asked.keys() & stored.keys():
            if asked[name] != stored[name]:
                raise UserError(
                    f"{rows.path}: {cell.name} was made with {name} {stored[name]!r}, asked is {asked[name]!r}: remove "
                    "its rows, or give another folder with --results"
                )
        return row["result"]

    def found(self, cells: Mapping[Key, Cell], without: str = "failed") -> dict[Key, dict[str, Any]]:
        """The results of those that are there, less those of which nothing came: they say why under `without`."""
        there = {key: self.get(cell) for key, cell in cells.items()}
        return {key: result for key, result in there.items() if result and without not in result}

    def conditions(self, cell: Cell) -> dict[str, Any] | None:
        """What a finished cell was computed on: "machine", "platform", "data"."""
        rows = self._rows(cell.task)
        row = rows.cells.get((cell.name, cell.seed))
        return None if row is None else rows.conditions.get(row["conditions"], {})

    def on_cpu(self, cell: Cell) -> bool:
        """Whether a cell is there and was computed on a CPU: only such seconds compare."""
        conditions = self.conditions(cell)
        return conditions is not None and conditions.get("platform", "cpu") == "cpu"

    def machines(self, cells: Iterable[Cell]) -> str:
        """A line of a report: where the cells that are there were computed, the machine of most of them first."""
        there = {cell.path: found for cell in cells if (found := self.conditions(cell)) is not None}
        counts = Counter(found.get("machine", "an unknown machine") for found in there.values())
        return f"Cells computed on: {'; '.join(f'{name} ({n})' for name, n in counts.most_common())}." if counts else ""

    def put(self, cell: Cell, result: Mapping[str, Any], conditions: Mapping[str, Any]) -> None:
        """Write a cell at once or not at all; what is there already stays.

        Raises:
          UserError: the cell is there.
        """
        self._rows(cell.task).append(cell, result, conditions)

    def fill(self, work: Iterable[tuple[Cell, Compute]], name: str, data: str) -> None:
        """Compute what is missing, in order. Ctrl-C or SIGTERM loses the cell at hand and no other.

        Other processes may fill the same folder at the same time: each computes what no other has begun.

        Args:
          work: cells and how to compute them; may hold a cell twice.
          name: of the benchmark, for the progress bar.
          data: what is learned from; cells of other data do not mix with these.

        Raises:
          Interrupted: stopped.
          UserError: the folder holds cells of other data.
        """
        if not self.compute:
            return
        missing = {cell.path: (cell, compute) for cell, compute in work if self.get(cell) is None}
        if not missing:
            Console(stderr=True).print(f"{name}: every cell is there", highlight=False)
            return
        self._refuse_other_data({cell.task for cell, _ in missing.values()}, data)
        conditions = {"machine": machine(), "platform": jax.default_backend(), "data": data}
        with InterruptFlag() as interrupt, Progress(name, len(missing)) as progress:
            there = 0

            def do(cell: Cell, compute: Compute) -> None:
                nonlocal there
                if self.get(cell) is None:  # else another process was faster
                    self._compute(cell, compute, interrupt, partial(progress.update, there), conditions)
                there += 1
                progress.update(there, "")

            turns = [(self.folder / path, partial(do, *one)) for path, one in missing.items()]
            try:
                in_turns(turns, interrupt)
            except Interrupted:
                raise Interrupted(there, f"{there} of {len(missing)} cells done; the same command goes on") from None

    def _compute(
        self,
        cell: Cell,
        compute: Compute,
        interrupt: InterruptFlag,
        show: Callable[[str], None],
        conditions: Mapping[str, Any],
    ) -> None:
        title, began = f"{cell.label} seed {cell.seed}", time.process_time()
        show(title)
        result = compute(interrupt, lambda text: show(f"{title}: {text}"))
        self.put(cell, {**result, "cpu_seconds": round(time.process_time() - began, 1)}, conditions)

    def _refuse_other_data(self, tasks: set[str], data: str) -> None:
        for task in tasks:
            rows = self._rows(task)
            for there in {found["data"] for found in rows.conditions.values() if "data" in found} - {data}:
                raise UserError(
                    f"{rows.path} holds cells of other data ({there}; here {data}): the numbers would not compare; "
                    "give a new folder with --results"
                )
