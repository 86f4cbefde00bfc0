"""What every benchmark takes on its command line, and where its cells, tables and pictures lie."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from matplotlib.figure import Figure

from dms_jax.command_line import parse
from dms_jax.errors import UserError, exit_on_user_error
from experiments.benchmarks.pictures import save
from experiments.benchmarks.store import Cells
from experiments.benchmarks.tables import RESULTS, write_section

PICTURES = Path("docs")
QUICK = Path("runs/benchmarks/quick")


@dataclass(frozen=True)
class Options:
    """How to run a benchmark.

    Attributes:
      quick: a tiny version of everything, in seconds, in a folder of its own; the tables are printed alone.
      tables: compute nothing; make tables and pictures from the cells that are there.
      results: where the cells lie; None for experiments/benchmarks/results. Tables and pictures of another folder are
        written there, and those of the repository stay.
    """

    quick: bool = False
    tables: bool = False
    results: Path | None = None

    @cached_property
    def cells(self) -> Cells:
        """The folder of cells. A quick run has its own.

        Raises:
          UserError: a quick run on the folder of the real cells, or a folder that cannot be written.
        """
        folder = self._folder
        if self.quick and folder.resolve() == RESULTS.resolve():
            raise UserError("a quick run does not mix with real cells; give another folder with --results")
        try:  # before hours of computing
            folder.mkdir(parents=True, exist_ok=True)
            fault = "" if os.access(folder, os.W_OK | os.X_OK) else "not writable"
        except OSError as error:
            fault = error.strerror or str(error)
        if fault:
            raise UserError(f"nothing can be written to {folder} ({fault}); give another folder with --results")
        return Cells(folder, not self.tables)

    @property
    def pages(self) -> Path | None:
        """Where tables go; None: they are printed alone."""
        return None if self.quick else self._folder

    @property
    def pictures(self) -> Path:
        """Where pictures go."""
        return PICTURES if self._folder.resolve() == RESULTS.resolve() else self._folder

    def drawn(self, name: str, title: str, figure: Figure) -> str:
        """Save a picture; the Markdown that shows it on a page."""
        path = save(figure, self.pictures / f"{name}.svg")
        return f"![{title}]({os.path.relpath(path, self.pages or RESULTS)})"

    def publish(
        self, name: str, title: str, parts: Iterable[str], *, page: str | None = None, headline: str = ""
    ) -> None:
        """Print the parts of a section, and put them on its page: see `write_section`."""
        text = "\n\n".join(filter(None, parts))
        write_section(name, title, text, folder=self.pages, page=page, headline=headline)

    @property
    def _folder(self) -> Path:
        return self.results or (QUICK if self.quick else RESULTS)


def start(main: Callable[[Options], None], description: str | None) -> None:
    """Run a benchmark with the options of the command line; what a user did wrong, or a stop, ends it with one line."""
    exit_on_user_error(lambda: main(parse(Options, description=description)))()
