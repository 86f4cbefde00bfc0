"""What a user sees instead of a traceback: one line, and an exit status."""

import contextlib
import errno
import functools
import os
import select
import signal
import sys
from collections.abc import Callable, Iterator
from typing import NoReturn, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

USER_ERROR_STATUS = 2
INTERRUPTED_STATUS = 130  # 128 + SIGINT, what shells report for Ctrl-C
MOST_CHARACTERS = 500  # of a message on a terminal

# The machine's, not the program's: a full or failing disk, a quota, a file system that turned read-only.
_MACHINE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ESTALE)


class UserError(ValueError):
    """One line that says what was given, what is possible and what to do."""


class TracingError(UserError):
    """A model whose traced program cannot be searched: names the group, the operation and its source line.

    Args:
        message: what is wrong.
        groups: the groups without which nothing would be, where that is known.
    """

    def __init__(self, message: str, groups: tuple[str, ...] = ()):
        super().__init__(message)
        self.groups = groups


class Interrupted(Exception):
    """A run was asked to stop and did so at a step boundary; it is no error.

    Args:
        step: steps done when the run stopped.
        how_to_go_on: the line shown to the user.
    """

    def __init__(self, step: int, how_to_go_on: str | None = None):
        self.step = step
        super().__init__(how_to_go_on or f"stopped after step {step}; the same command goes on from there")


def exit_on_user_error(main: Callable[P, R]) -> Callable[P, R]:
    """Wrap the `main` of a program: a user's mistake ends it with one line on stderr and no traceback.

    A `UserError` exits with status 2, and so does a full disk or a quota; `Interrupted` (and a bare Ctrl-C) with status
    130 after the line that says how to go on. Output that nobody reads any more (`... | head`) ends it as a signal
    would, with status 141 and no word; a stream that is closed from the start (`2>&-`) takes everything. Every other
    exception is a fault of the program and keeps its traceback.

    Args:
        main: any callable.

    Returns:
        A callable with the signature and the result of `main`.

    Raises:
        SystemExit: with the status above.
    """

    @functools.wraps(main)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        _open_closed_streams()
        try:
            with _written_out():
                return main(*args, **kwargs)
        except BrokenPipeError:
            gone = [fd for fd in (1, 2) if _unread(fd)]
            if not gone:  # another pipe: of a process that loads, say
                raise
            for fd in gone:
                os.dup2(os.open(os.devnull, os.O_WRONLY), fd)  # what is left to write goes nowhere
            raise SystemExit(128 + signal.SIGPIPE) from None
        except UserError as error:
            _exit(f"error: {shortened(one_line(error))}", USER_ERROR_STATUS)
        except OSError as error:
            if error.errno not in _MACHINE:
                raise
            where = f" ({error.filename})" if error.filename else ""
            _exit(f"error: {error.strerror}{where}; the same command goes on once that is over", USER_ERROR_STATUS)
        except Interrupted as stop:
            _exit(one_line(stop), INTERRUPTED_STATUS)
        except KeyboardInterrupt:
            _exit("stopped", INTERRUPTED_STATUS)

    return wrapped


def _open_closed_streams() -> None:
    """Open the standard streams that were closed (`2>&-`): the next file would be opened in their place."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # which takes the first place that is free


@contextlib.contextmanager
def _written_out() -> Iterator[None]:
    """Write standard output before the program ends, so that a reader who is gone is met here, not on the way out."""
    try:
        yield
    except SystemExit:  # after a help text, say
        sys.stdout.flush()
        raise
    sys.stdout.flush()


def _unread(fd: int) -> bool:
    """Whether what is written to a file descriptor goes into a pipe that nobody reads."""
    poll = select.poll()
    poll.register(fd, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def one_line(error: BaseException, most: int | None = None) -> str:
    """Return the message of `error` on one line, its class name where it has none; of at most about `most` characters.

    What the system said, such as "No space left on device", comes first where other libraries bury it.
    """
    line = " ".join(str(error).split()) or type(error).__name__
    if most is None or len(line) <= most:
        return line
    reason = _reason(error)
    return shortened(line if reason is None else f"{reason}: {line}", most)


def shortened(text: str, most: int = MOST_CHARACTERS) -> str:
    """Return a text of about `most` characters: its beginning, how many are left out, and its end.

    >>> shortened("a" * 30 + "b" * 30, 40)
    'aaaaaaaaaaaaaaaaaaaaaaaaaa... (21 characters left out) ...bbbbbbbbbbbbb'
    """
    if len(text) <= most:
        return text
    tail = most // 3
    head = most - tail - 1
    return f"{text[:head]}... ({len(text) - head - tail:,} characters left out) ...{text[-tail:]}"


def _reason(error: BaseException | None) -> str | None:
    """What the system said, of the first error of a chain that knows."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, OSError) and error.strerror:
            return error.strerror
        for reason in map(os.strerror, _MACHINE):
            if reason in str(error):  # of a library that is not written in Python
                return reason
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return None


def _exit(line: str, status: int) -> NoReturn:
    print(line, file=sys.stderr, flush=True)
    raise SystemExit(status)
