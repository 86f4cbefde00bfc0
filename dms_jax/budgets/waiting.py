"""How far a measurement is: a bar on a terminal, a line at its end elsewhere."""

from __future__ import annotations

import contextlib
import time

import jax
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

LINE = 5.0
"""Seconds after which a line is worth it."""


class Waiting(contextlib.AbstractContextManager["Waiting"]):
    """Shows what is measured, on process 0.

    Args:
      what: is measured.
      many: steps of it.
    """

    def __init__(self, what: str, many: int):
        self.what, self.console, self.text = what, Console(stderr=True), ""
        self.began, self.bar = time.monotonic(), None
        if self.console.is_terminal and jax.process_index() == 0:
            columns = TextColumn("{task.description}"), BarColumn(bar_width=20), MofNCompleteColumn()
            texts = TextColumn("{task.fields[text]}", markup=False), TimeElapsedColumn()
            self.bar = Progress(*columns, *texts, console=self.console, transient=True)
            self.task = self.bar.add_task(what, total=many, text="")
            self.bar.start()

    def update(self, step: int, text: str) -> None:
        """Say how many steps are done."""
        self.text = text
        if self.bar is not None:
            self.bar.update(self.task, completed=step, text=text)

    def __exit__(self, *exception: object) -> None:
        took = time.monotonic() - self.began
        if self.bar is not None:
            self.bar.stop()
        if self.text and took > LINE and jax.process_index() == 0:
            line = f"{self.what}: {self.text}, {took:.0f} s"
            self.console.print(line, markup=False, highlight=False, soft_wrap=True)
