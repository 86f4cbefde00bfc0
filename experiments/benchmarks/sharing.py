"""Several processes at one table: each takes what no other is at work on."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from dms_jax.errors import Interrupted
from dms_jax.training.interrupt import InterruptFlag

LOCKS = Path("runs/benchmarks/claims")
"""A file for everything that one process at a time may do."""
SECONDS_BETWEEN_LOOKS = 1.0


def lock(path: Path) -> FileLock:
    """What one process at a time holds of a path; gone with the process."""
    LOCKS.mkdir(parents=True, exist_ok=True)
    return FileLock(LOCKS / hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:20])


@contextlib.contextmanager
def claim(path: Path) -> Iterator[bool]:
    """Take what a path stands for until the block ends; False where another process has it."""
    taken = lock(path)
    try:
        taken.acquire(timeout=0)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        taken.release()


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file of this process to write to, which becomes `path` when the block ends: never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".part{os.getpid()}")
    yield part
    os.replace(part, path)


def in_turns(items: Iterable[tuple[Path, Callable[[], object]]], interrupt: InterruptFlag) -> None:
    """Do everything once in this process, each thing while no other process does it; what is taken comes later.

    Args:
      items: what each stands for, and what to do; nothing, if it finds that it is done already.
      interrupt: stops the wait for others.

    Raises:
      Interrupted: the flag was up.
    """
    waiting = deque(items)
    while waiting:
        before = len(waiting)
        for _ in range(before):
            path, do = waiting.popleft()
            with claim(path) as ours:
                if ours:
                    do()
            if not ours:
                waiting.append((path, do))
        if len(waiting) == before:
            if interrupt.requested:
                raise Interrupted(0, "stopped while another process was at work; the same command goes on")
            time.sleep(SECONDS_BETWEEN_LOOKS)
    if interrupt.requested:  # in the last thing, which did not look any more: what would come next does not begin
        raise Interrupted(0, "stopped; the same command goes on")
