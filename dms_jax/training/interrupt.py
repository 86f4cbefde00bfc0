"""Ctrl-C and SIGTERM as a flag that a loop reads between two steps."""

import contextlib
import os
import signal
import sys
import threading
from types import FrameType
from typing import Any

from dms_jax.errors import Interrupted
from dms_jax.training.processes import anywhere

_SHOW_CURSOR = "\x1b[?25h"  # a progress bar hides it, and the second Ctrl-C leaves nobody to bring it back


def stop_if_requested(doing: str) -> None:
    """Stop between two pieces of work that nothing is saved of, such as measurements; to be called by all processes.

    Args:
      doing: what is stopped, for the message.

    Raises:
      Interrupted: a signal came inside the block of an `InterruptFlag`, here or in another process.
    """
    flag = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    if anywhere(isinstance(flag, InterruptFlag) and flag.requested):
        raise Interrupted(0, f"stopped while {doing}; all that was trained is saved")


class InterruptFlag(contextlib.AbstractContextManager):
    """A flag, set by SIGINT or SIGTERM inside the `with` block; a second SIGINT ends the process at once.

    Inside the block of another flag the outer one keeps the signals, and is read with this one: a signal that came
    before the inner block began stops that, too, and one that comes inside stops both.

    Python delivers signals to the main thread alone; in any other the block changes nothing and the flag
    stays down until somebody sets `requested`.
    """

    def __init__(self) -> None:
        self._raised = False
        self._outer: InterruptFlag | None = None
        self._old: dict[signal.Signals, Any] = {}

    @property
    def requested(self) -> bool:
        """Whether to stop at the next step boundary."""
        return self._raised or (self._outer is not None and self._outer.requested)

    @requested.setter
    def requested(self, value: bool) -> None:
        self._raised = value

    def __enter__(self) -> "InterruptFlag":
        if threading.current_thread() is threading.main_thread():
            # The first signal takes SIGINT's handler away, SIGTERM's stays.
            there = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
            if isinstance(there, InterruptFlag):
                self._outer = there
            else:
                self._old = {s: signal.signal(s, self._stop) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._old.items():
            # None stands for a handler that was not set from Python, and cannot be put back from here.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._old = {}
        self._raised, self._outer = self.requested, None

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self._raised = True
        # The system's own action: a handler in Python would wait for a compilation or a step to return.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        cursor = _SHOW_CURSOR if sys.stderr.isatty() else ""
        with contextlib.suppress(OSError):  # os.write: print is not safe to re-enter from a handler
            os.write(2, f"{cursor}\nstopping after this step; Ctrl-C again ends at once, unsaved\n".encode())
