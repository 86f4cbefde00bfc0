"""What a user sees instead of a traceback: one line, and an exit status."""

import functools
import sys
from collections.abc import Callable
from typing import NoReturn, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

USER_ERROR_STATUS = 2
INTERRUPTED_STATUS = 130  # 128 + SIGINT, what shells report for Ctrl-C


class UserError(ValueError):
    """One line that says what was given, what is possible and what to do."""


class TracingError(UserError):
    """A model whose traced program cannot be searched: names the group, the operation and its source line."""


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

    A `UserError` exits with status 2; `Interrupted` (and a bare Ctrl-C) with status 130 after the line that
    says how to go on. Every other exception is a fault of the program and keeps its traceback.

    Args:
        main: any callable.

    Returns:
        A callable with the signature and the result of `main`.

    Raises:
        SystemExit: with the status above.
    """

    @functools.wraps(main)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return main(*args, **kwargs)
        except UserError as error:
            _exit(f"error: {one_line(error)}", USER_ERROR_STATUS)
        except Interrupted as stop:
            _exit(one_line(stop), INTERRUPTED_STATUS)
        except KeyboardInterrupt:
            _exit("stopped", INTERRUPTED_STATUS)

    return wrapped


def one_line(error: BaseException) -> str:
    """Return the message of `error` on one line, its class name where it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def _exit(line: str, status: int) -> NoReturn:
    print(line, file=sys.stderr, flush=True)
    raise SystemExit(status)
