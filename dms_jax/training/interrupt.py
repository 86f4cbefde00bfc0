"""Ctrl-C and SIGTERM as a flag that a loop reads between two steps."""

import contextlib
import os
import signal
import sys
import threading
from types import FrameType
from typing import Any

_SHOW_CURSOR = "\x1b[?25h"  # a progress bar hides it, and the second Ctrl-C leaves nobody to bring it back


class InterruptFlag(contextlib.AbstractContextManager):
    """A flag, set by SIGINT or SIGTERM inside the `with` block; a second SIGINT ends the process at once.

    Python delivers signals to the main thread alone; in any other the block changes nothing and the flag
    stays down until somebody sets `requested`.
    """

    def __init__(self) -> None:
        self.requested = False
        """Whether to stop at the next step boundary."""
        self._old: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "InterruptFlag":
        if threading.current_thread() is threading.main_thread():
            self._old = {s: signal.signal(s, self._stop) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._old.items():
            # None stands for a handler that was not set from Python, and cannot be put back from here.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._old = {}

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        # The system's own action: a handler in Python would wait for a compilation or a step to return.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        cursor = _SHOW_CURSOR if sys.stderr.isatty() else ""
        with contextlib.suppress(OSError):  # os.write: print is not safe to re-enter from a handler
            os.write(2, f"{cursor}\nstopping after this step; Ctrl-C again ends at once, unsaved\n".encode())
