"""What every benchmark of quality does: fill its cells, then make its tables and pictures from the files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from dms_jax.command_line import parse
from dms_jax.errors import UserError, exit_on_user_error
from experiments.benchmarks import contest
from experiments.benchmarks.contest import Settings
from experiments.benchmarks.store import Cell, Cells
from experiments.benchmarks.task import Task, Unit

RESULTS = Path("experiments/benchmarks/results")
PICTURES = Path("docs")
QUICK = Path("runs/benchmarks/quick")


@dataclass(frozen=True)
class Options:
    """How to run a benchmark.

    Attributes:
      quick: a tiny version of everything, in seconds, in a folder of its own; the tables are printed alone.
      tables: compute nothing; make tables and pictures from the cells that are there.
      results: where the cells lie; None for benchmarks/results.
    """

    quick: bool = False
    tables: bool = False
    results: Path | None = None

    @property
    def cells(self) -> Cells:
        """The folder of cells. A quick run has its own.

        Raises:
          UserError: a quick run on the folder of the real cells.
        """
        folder = self.results or (QUICK if self.quick else RESULTS)
        if self.quick and folder.resolve() == RESULTS.resolve():
            raise UserError("a quick run does not mix with real cells; give another folder with --results")
        return Cells(folder)

    @property
    def pictures(self) -> Path:
        """Where pictures go."""
        return self.cells.folder if self.quick else PICTURES


@dataclass(frozen=True, eq=False)
class Contest:
    """Cells of `contest.compete` for one task, and their results.

    Attributes:
      task: what is learned.
      defaults: options of the task that need no mention in a cell's name.
      cells: where they lie.
      compute: whether missing ones are computed.
    """

    task: Task
    defaults: Mapping[str, Any]
    cells: Cells
    compute: bool = True

    @property
    def choice(self) -> tuple[str, Unit]:
        """The score that choices look at, of validation data, and its unit."""
        return self.task.choice

    def fill(self, name: str, asked: Iterable[tuple[Settings, int]]) -> None:
        """Compute what is missing, in order; supernets come first.

        Args:
          name: of the benchmark, for the progress bar.
          asked: settings and seeds.

        Raises:
          Interrupted: stopped; finished cells are kept.
        """
        if not self.compute:
            return
        asked = list(asked)
        missing = [(settings, seed) for settings, seed in asked if self.get(settings, seed) is None]
        self.task.pretrain(seed for settings, seed in missing if settings.pretrained)
        work = [(self.cell(s, seed), partial(contest.compete, self.task, s, seed)) for s, seed in asked]
        self.cells.fill(work, name, self.task.data)

    def cell(self, settings: Settings, seed: int) -> Cell:
        """The cell of these settings."""
        return settings.cell(self.task, self.defaults, seed)

    def get(self, settings: Settings, seed: int) -> dict[str, Any] | None:
        """A finished cell's results."""
        return self.cells.get(self.cell(settings, seed))

    def finished(self, settings: Settings, seeds: Sequence[int]) -> dict[int, dict[str, Any]]:
        """{seed: results} of the cells that are there and did not fail."""
        found = {seed: self.get(settings, seed) for seed in seeds}
        return {seed: result for seed, result in found.items() if result and "failed" not in result}

    def values(self, settings: Settings, seeds: Sequence[int], what: str = "test") -> dict[int, float]:
        """{seed: score} of them."""
        return {seed: float(result[what]) for seed, result in self.finished(settings, seeds).items()}


def start(main: Callable[[Options], None], description: str | None) -> None:
    """Run a benchmark with the options of the command line; what a user did wrong, or a stop, ends it with one line."""
    exit_on_user_error(lambda: main(parse(Options, description=description)))()
