"""One job at a time in a directory: a lock that the system takes back when its process ends, however it ends."""

from __future__ import annotations

import fcntl
import os
import socket
from pathlib import Path
from typing import IO

from dms_jax.errors import UserError
from dms_jax.training.checkpoints import warn

FILE = "lock"


class AtWorkError(UserError):
    """Another process holds the lock."""


class DirectoryLock:
    """`directory/lock`; the file stays behind, the lock does not."""

    def __init__(self, directory: Path):
        self._path = directory / FILE
        self._file: IO[str] | None = None

    def acquire(self) -> None:
        """Take the lock, or say who holds it.

        Raises:
          AtWorkError: another process holds it.
          UserError: the directory cannot be written.
        """
        try:
            file = self._path.open("a+")
        except OSError as error:
            raise UserError(
                f"cannot write in {self._path.parent} ({error.strerror}); choose another --workdir"
            ) from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read(200).strip() or "another process"
            file.close()
            raise AtWorkError(
                f"a job is at work in {self._path.parent} ({holder}); wait for it, or choose another --workdir"
            ) from None
        except OSError as error:  # some network file systems have no locks
            warn(f"{self._path.parent} cannot be locked ({error.strerror}): see that no other job works there")
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        self._file = file

    def release(self) -> None:
        """Let others in."""
        file, self._file = self._file, None
        if file is not None:
            file.close()
