"""Command lines: one parser for all of them, and one way to write a number."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from dms_jax.errors import UserError, shortened

T = TypeVar("T")

# int() and float() read more: digits of every script, underscores, surrounding blanks. Whether NaN or infinity is
# possible is for the range of a flag to say.
_NUMBERS: dict[type, tuple[re.Pattern[str], str]] = {
    int: (re.compile(r"[+-]?[0-9]+"), "a whole number in the digits 0 to 9, such as 64"),
    float: (
        re.compile(r"[+-]?(([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?|nan|inf)"),
        "a number in the digits 0 to 9, such as 0.5 or 1e-3",
    ),
}
_MOST_DIGITS = 4300  # of an int that Python reads


class _NoNumber(Exception):
    """What stands where a number of a type is asked for; tyro would print a ValueError itself, in a box."""

    def __init__(self, kind: type, text: str):
        self.kind, self.text = kind, text
        super().__init__(text)


def parse_job(
    what: Callable[..., T], arguments: Sequence[str] | None, *, prog: str, description: str | None
) -> tuple[T, str]:
    """`parse`, and the command as people type it, which starts the job and goes on with it.

    Raises:
      UserError, SystemExit: as `parse`.
    """
    given = sys.argv[1:] if arguments is None else arguments
    return parse(what, given, prog=prog, description=description), shlex.join([*prog.split(), *given])


def parse(
    what: Callable[..., T],
    arguments: Sequence[str] | None = None,
    *,
    prog: str | None = None,
    description: str | None = None,
) -> T:
    """Read a command line by `tyro`; a number is written in the digits 0 to 9, a text holds any characters.

    Args:
      what: a dataclass of flags, or a function of them, which is called.
      arguments: None for those of the process.
      prog: how the command is called.
      description: head of the help.

    Returns:
      The dataclass, or what the function returns.

    Raises:
      UserError: something else stands where a number is asked for; it names the flag and what was given.
      SystemExit: tyro has printed the help, or what else is wrong.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    registry = ConstructorRegistry()
    registry.primitive_rule(_numbers)
    try:
        with registry:
            return tyro.cli(what, args=given, prog=prog, description=description)
    except _NoNumber as error:
        flag, text = _flag(given, error.text), shortened(ascii(error.text), 40)
        raise UserError(f"{flag} {text} is not possible; give {_NUMBERS[error.kind][1]}") from None


def _numbers(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
    """How tyro reads an int or a float."""
    kind = info.type
    if kind not in _NUMBERS:
        return None

    def read(texts: list[str]) -> int | float:
        if len(texts[0]) > _MOST_DIGITS:
            raise _NoNumber(kind, texts[0])
        number = kind(texts[0])  # what is no number at all is tyro's to say
        if not _NUMBERS[kind][0].fullmatch(texts[0]):
            raise _NoNumber(kind, texts[0])
        return number

    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=kind.__name__.upper(),
        instance_from_str=read,
        is_instance=lambda value: isinstance(value, (int, float) if kind is float else int),
        str_from_instance=lambda value: [str(value)],
    )


def _flag(given: Sequence[str], text: str) -> str:
    """The flag that a text was given to; `the number` where several have the same."""
    found = {flag for flag, value in _pairs(given) if value == text}
    return found.pop() if len(found) == 1 else "the number"


def _pairs(given: Sequence[str]) -> Iterator[tuple[str, str]]:
    flag = "the number"
    for argument in given:
        if argument.startswith("--"):
            flag, _, value = argument.partition("=")
            yield flag.replace("_", "-"), value
        else:
            yield flag.replace("_", "-"), argument
