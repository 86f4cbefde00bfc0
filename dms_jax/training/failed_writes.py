"""What Orbax and TensorStore print in the background of a write that fails, and which `wait` raises as well."""

from __future__ import annotations

import logging
import sys
from typing import Any


def silence() -> None:
    """Drop their tracebacks, and nothing else; called again, it does nothing more."""
    logging.getLogger("absl").addFilter(_is_no_failed_write)
    if not isinstance(sys.unraisablehook, _Hook):
        sys.unraisablehook = _Hook(sys.unraisablehook)


class _Hook:
    """Where one array of a state cannot be written, Orbax closes its event loop, and those of others call it."""

    def __init__(self, before: Any):
        self._before = before

    def __call__(self, unraisable: Any) -> None:
        late = isinstance(unraisable.exc_value, RuntimeError) and str(unraisable.exc_value) == "Event loop is closed"
        frame = unraisable.exc_traceback and unraisable.exc_traceback.tb_frame
        if late and unraisable.object is None and frame and frame.f_code.co_name == "call_soon_threadsafe":
            return
        self._before(unraisable)


def _is_no_failed_write(record: logging.LogRecord) -> bool:
    return not (record.exc_info and "orbax" in record.pathname)
