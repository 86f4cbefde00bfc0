"""How far a phase is and when it will end: a bar on a terminal, a line now and then elsewhere."""

import contextlib
import time

import jax
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar

_SECONDS_BETWEEN_LINES = 10.0
_SECONDS_BETWEEN_DRAWINGS = 0.1


class Progress(contextlib.AbstractContextManager):
    """Shows a phase: its name, steps done, free text, the time so far and the time left.

    The time left is estimated from the steps after the first update, so that compilation does not count. Only
    process 0 shows anything.

    Args:
        phase: the name shown.
        steps: steps of the whole phase.
        start: steps done already.
        console: where to; stderr by default.
    """

    def __init__(self, phase: str, steps: int, start: int = 0, console: Console | None = None):
        self._phase, self._steps = phase, steps
        self._console = console or Console(stderr=True)
        self._began = time.monotonic()
        self._first: tuple[int, float] | None = None
        self._step, self._text, self._due = start, "", 0.0
        self._silent = jax.process_index() != 0
        self._bar: Bar | None = None
        if self._console.is_terminal and not self._silent:
            columns = ("{task.description}", "{task.fields[text]}", "{task.fields[times]}")
            name, text, times = (TextColumn(column, markup=False) for column in columns)
            self._bar = Bar(name, BarColumn(bar_width=20), MofNCompleteColumn(), text, times, console=self._console)
            self._task = self._bar.add_task(phase, total=steps, completed=start, text="compiling", times="")
            self._bar.start()

    def update(self, step: int, text: str | None = None) -> None:
        """Say how far the phase is; cheap enough for every step.

        Args:
            step: steps done.
            text: e.g. `"loss 0.41  macs 23.1 % > 20.0 %"`; stays until the next one.
        """
        now = time.monotonic()
        self._first = self._first or (step, now)
        self._step, self._text = step, self._text if text is None else text
        if now >= self._due and not self._silent:
            self._due = now + (_SECONDS_BETWEEN_LINES if self._bar is None else _SECONDS_BETWEEN_DRAWINGS)
            self._show(now)

    def close(self) -> None:
        """Show the last state and end the bar."""
        if not self._silent:
            self._show(time.monotonic())
            self._silent = True
            if self._bar is not None:
                self._bar.stop()

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _show(self, now: float) -> None:
        times = f"{_clock(now - self._began)} so far, {_clock(self._left(now))} left"
        if self._bar is not None:
            self._bar.update(self._task, completed=self._step, text=self._text, times=times)
        else:
            parts = (f"{self._phase} {self._step}/{self._steps}", self._text, times)
            self._console.print("  ".join(filter(None, parts)), markup=False, highlight=False, soft_wrap=True)

    def _left(self, now: float) -> float | None:
        if self._step >= self._steps:
            return 0.0
        step, then = self._first or (self._step, now)
        return (now - then) * (self._steps - self._step) / (self._step - step) if self._step > step else None


def _clock(seconds: float | None) -> str:
    if seconds is None:
        return "-:--"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
