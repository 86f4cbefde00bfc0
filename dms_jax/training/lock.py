"""One job at a time in a directory: a lock that the system takes back when its process ends, however it ends."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from dms_jax import files
from dms_jax.errors import UserError
from dms_jax.training.checkpoints import warn

FILE = "lock"


_PATIENCE = 10.0  # seconds; a claim takes milliseconds


class AtWorkError(UserError):
    """Another process holds the lock."""


class DirectoryLock:
    """`directory/lock`; the file stays behind, the lock does not."""

    def __init__(self, directory: Path):
        self._path = directory / FILE
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock, or say who holds it.

        Raises:
          AtWorkError: another process holds it.
          UserError: the directory cannot be written.
        """
        descriptor = self._open()
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "another process"
            os.close(descriptor)
            raise AtWorkError(
                f"a job is at work in {self._path.parent} ({holder}); wait for it, or choose another --workdir"
            ) from None
        except OSError as error:  # some network file systems have no locks
            warn(f"{self._path.parent} cannot be locked ({error.strerror}): see that no other job works there")
        with contextlib.suppress(OSError):  # who holds it is a courtesy: a full disk does not end a job here
            os.ftruncate(descriptor, 0)
            files.write_all(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        self._descriptor = descriptor

    def release(self) -> None:
        """Let others in."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def _open(self) -> int:
        fault = None
        try:
            descriptor = files.open_append(self._path)
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                return descriptor
            os.close(descriptor)
        except OSError as error:
            fault = f"{FILE} is a link" if error.errno == errno.ELOOP else error.strerror
        raise UserError(
            f"cannot write in {self._path.parent} ({fault or f'{FILE} is no file'}); choose another --workdir"
        )


@contextlib.contextmanager
def claiming(directory: Path) -> Iterator[None]:
    """Hold the directory itself while its claim is read or written, which is short: others wait for it.

    It is not the lock of who works there: whoever claimed a directory would else find it locked by another who is about
    to see that it is claimed, and both would go.

    Raises:
      AtWorkError: somebody held it all the time.
      OSError: it cannot be opened.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _wait_for(descriptor, directory)
        yield
    finally:
        os.close(descriptor)


def _wait_for(descriptor: int, directory: Path) -> None:
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                raise AtWorkError(
                    f"another process holds {directory}; wait for it, or choose another --workdir"
                ) from None
            time.sleep(0.002)
        except OSError:  # no locks of directories here, such as on NFS: the configuration is created exclusively
            return None
