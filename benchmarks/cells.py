"""Cells: (task, settings, seed) -> numbers, one small JSON file each, so that a table of hours can stop and go on.

A finished cell is never computed again; tables and pictures are made from the files alone. Two benchmarks that ask for
the same cell share it, and so do two processes.
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
from typing import Any

import jax
import numpy as np
from rich.console import Console

from benchmarks.sharing import in_turns, replacing
from dms_jax.errors import Interrupted, UserError
from dms_jax.training.interrupt import InterruptFlag
from dms_jax.training.machine import machine
from dms_jax.training.progress import Progress

Say = Callable[[str], None]
"""Shows a text beside the progress bar."""
Compute = Callable[[InterruptFlag, Say], Mapping[str, Any]]
"""Gives one cell's results; raises `Interrupted` when the flag is up."""


def file_label(text: str) -> str:
    """A text as a part of a file's name: letters, digits and underscores."""
    return "".join(c if c.isalnum() else "_" for c in text)


@dataclass(frozen=True, eq=False)
class Cell:
    """One number of a table and how to get it.

    Attributes:
      task: what is learned ("text", "digits"): the folder.
      label: what people call it; the file's name begins so.
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
    def path(self) -> Path:
        """Of the file, inside the folder of results."""
        text = json.dumps(self.identity, sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:10]
        return Path(self.task) / f"{self.label}-{digest}-seed{self.seed}.json"


class Cells:
    """The finished cells of a folder.

    Args:
      folder: made when the first cell is written.
    """

    def __init__(self, folder: str | os.PathLike[str]):
        self.folder = Path(folder)

    def get(self, cell: Cell) -> dict[str, Any] | None:
        """A finished cell's results; None where it is still to be computed.

        Raises:
          UserError: the file was made with other settings.
        """
        stored = self._stored(cell)
        if stored is None:
            return None
        asked = json.loads(json.dumps(cell.settings))
        for name in asked.keys() & stored["settings"].keys():
            if asked[name] != stored["settings"][name]:
                raise UserError(
                    f"{self.folder / cell.path} was made with {name} {stored['settings'][name]!r}, asked is "
                    f"{asked[name]!r}: remove it, or give another folder with --results"
                )
        return stored["result"]

    def on_cpu(self, cell: Cell) -> bool:
        """Whether a cell is there and was computed on a CPU: only such seconds compare."""
        stored = self._stored(cell)
        return stored is not None and stored["conditions"].get("platform", "cpu") == "cpu"

    def machines(self, cells: Iterable[Cell]) -> str:
        """A line of a report: where the cells that are there were computed, the machine of most of them first."""
        there = {cell.path: stored for cell in cells if (stored := self._stored(cell))}
        counts = Counter(stored["conditions"]["machine"] for stored in there.values())
        return f"Cells computed on: {'; '.join(f'{name} ({n})' for name, n in counts.most_common())}." if counts else ""

    def _stored(self, cell: Cell) -> dict[str, Any] | None:
        path = self.folder / cell.path
        return json.loads(path.read_text()) if path.exists() else None

    def put(self, cell: Cell, result: Mapping[str, Any], conditions: Mapping[str, Any]) -> None:
        """Write a cell at once or not at all; what is there already stays.

        Raises:
          UserError: the cell is there.
        """
        path = self.folder / cell.path
        if path.exists():
            raise UserError(f"{path} is there already; finished cells are never written over")
        content = {
            "settings": dict(cell.settings),
            "seed": cell.seed,
            "result": dict(result),
            "conditions": dict(conditions),
        }
        with replacing(path) as part:
            part.write_text(json.dumps(content, indent=None, sort_keys=True) + "\n")

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
            for path in sorted((self.folder / task).glob("*.json"))[:1]:
                there = json.loads(path.read_text())["conditions"]["data"]
                if there != data:
                    raise UserError(
                        f"{self.folder / task} holds cells of other data ({there}; here {data}): the numbers would not "
                        "compare; give a new folder with --results"
                    )


@dataclass(frozen=True)
class Spread:
    """A mean over seeds, its standard error (NaN for one seed), and the number of seeds."""

    mean: float
    error: float
    count: int

    @staticmethod
    def of(values: Iterable[float]) -> Spread:
        """From one value a seed; NaNs for none."""
        array = np.array(list(values), np.float64)
        if not len(array):
            return Spread(np.nan, np.nan, 0)
        error = array.std(ddof=1) / np.sqrt(len(array)) if len(array) > 1 else np.nan
        return Spread(float(array.mean()), float(error), len(array))

    def text(self, digits: int = 3, sign: bool = False) -> str:
        """`2.451 ± 0.006`; `-` where there is nothing."""
        if not self.count:
            return "-"
        number = f"{self.mean:+.{digits}f}" if sign else f"{self.mean:.{digits}f}"
        return number if np.isnan(self.error) else f"{number} ± {self.error:.{digits}f}"


def paired(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Spread:
    """The spread of `theirs - ours` over the seeds that both have: what all methods of a seed share cancels out."""
    return Spread.of(theirs[seed] - ours[seed] for seed in sorted(ours.keys() & theirs.keys()))
