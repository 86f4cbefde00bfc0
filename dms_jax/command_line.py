"""Command lines: one parser for all of them, and one way to write a number or a path."""

from __future__ import annotations

import contextlib
import difflib
import functools
import inspect
import io
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from dms_jax import files
from dms_jax.errors import USER_ERROR_STATUS, UserError, shortened

T = TypeVar("T")

# int() and float() read more: digits of every script, underscores, surrounding blanks. Whether NaN or infinity is
# possible is for the range of a flag to say. And Path("") is the current directory, which an empty variable of a shell
# does not mean.
_KINDS: dict[type, tuple[re.Pattern[str], str]] = {
    int: (re.compile(r"[+-]?[0-9]+"), "a whole number in the digits 0 to 9, such as 64"),
    float: (
        re.compile(r"[+-]?(([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?|nan|inf)"),
        "a number in the digits 0 to 9, such as 0.5 or 1e-3",
    ),
    Path: (
        re.compile(r".+", re.DOTALL),
        "a path, such as runs/first; . is the current directory, ~ a known home",
    ),
}
_MOST_DIGITS = 4300  # of an int that Python reads
_FRAME = re.compile(r"[\u2500-\u257f]")  # what tyro draws boxes with
_DASHES = "\u2010-\u2015\u2212"  # what editors make of hyphens
_IS_FLAG = re.compile(rf"--|[{_DASHES}]+-*[^\W\d]")
_RULE = re.compile(r"^\W*[\u2500-]{9,}", re.MULTILINE)  # above and below a box, and between its parts


class _Impossible(Exception):
    """What stands where a number or a path is asked for; tyro would print a ValueError itself, in a box."""

    def __init__(self, kind: type, text: str):
        self.kind, self.text = kind, text
        super().__init__(text)

    def line(self, given: Sequence[str]) -> str:
        """What the command line says, and what it could."""
        text = shortened(ascii(self.text), 40)
        return f"{_flag(given, self.text)} {text} is not possible; give {_KINDS[self.kind][1]}"


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
    """Read a command line by `tyro`.

    A number is written in the digits 0 to 9; a path is not empty, and ~ at its beginning is the home directory, which
    shells leave alone behind a =; a text holds any characters.

    Args:
      what: a dataclass of flags, or a function of them, which is called.
      arguments: None for those of the process.
      prog: how the command is called.
      description: head of the help.

    Returns:
      The dataclass, or what the function returns.

    Raises:
      UserError: a flag that is none (the nearest one is named), or a value that is not possible.
      SystemExit: tyro has printed the help.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    registry, said, refused = ConstructorRegistry(), io.StringIO(), list[_Impossible]()
    registry.primitive_rule(lambda info: _read_strictly(info, refused))
    about: dict[str, Any] = {"prog": prog, "description": description}
    try:
        with registry, contextlib.redirect_stderr(said):
            read = tyro.cli(_deferred(what), args=given, **about)
    except _Impossible as error:
        raise UserError(error.line(given)) from None
    except SystemExit as stop:
        if stop.code != USER_ERROR_STATUS:
            raise
        raise UserError(_fault(given, said.getvalue(), refused, _flags(what, about))) from None
    return read() if isinstance(read, functools.partial) else read


def _deferred(what: Callable[..., T]) -> Callable[..., Any]:
    """A function as one that returns its call, which then does not run while tyro reads; a class stays."""
    if inspect.isclass(what):
        return what

    @functools.wraps(what)
    def deferred(*args: Any, **flags: Any) -> functools.partial[T]:
        return functools.partial(what, *args, **flags)

    return deferred


def _flags(what: Callable[..., Any], about: dict[str, Any]) -> list[str]:
    """Every flag, as the help lists them."""
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
        tyro.cli(_deferred(what), args=["--help"], **about)
    heads = re.findall(r"^\W*?((?:--?[a-z][\w-]*(?:, )?)+)", shown.getvalue(), re.MULTILINE)  # --tie, --no-tie
    return list(dict.fromkeys(flag for head in heads for flag in re.findall(r"--[a-z][\w-]*", head)))


def _fault(given: Sequence[str], box: str, refused: Sequence[_Impossible], known: Sequence[str]) -> str:
    """What is wrong with a command line that tyro refused, in one line."""
    flags = [argument.partition("=")[0] for argument in given if _IS_FLAG.match(argument)]
    for flag in flags:
        if known and flag.replace("_", "-") not in known:
            near = _nearest(re.sub(rf"^[-{_DASHES}]+", "--", flag).replace("_", "-"), known)
            hint = f"did you mean {' or '.join(near)}?" if near else "--help lists all flags"
            return f"{shortened(ascii(flag)[1:-1], 40)} is no flag; {hint}"
    title, *parts = [part for part in _RULE.split(box) if part.strip()] or [""]
    texts = [" ".join(_FRAME.sub(" ", part).split()) for part in (title.partition("\n")[2], *parts)]
    text = next(filter(None, texts), "")
    for error in refused:  # tyro says it in Python's words, once for each type
        if text.startswith(f"Error parsing {_flag(given, error.text)}:"):
            return error.line(given)
    text = text.removeprefix("Error parsing ").rstrip(".! ") or "this command line cannot be read"
    return f"{text}; --help says what each flag takes"


def _nearest(flag: str, known: Sequence[str]) -> list[str]:
    """The flag that is spelled most alike, and those that have it for a word: --weight is --resource-weight, too."""
    names = {name[2:]: name for name in known}
    alike = difflib.get_close_matches(flag[2:], names, n=1)
    words = [name for name in names if flag[2:] in name.split("-")]
    return [names[name] for name in dict.fromkeys((*alike, *words))][:3]


def _read_strictly(info: PrimitiveTypeInfo, refused: list[_Impossible]) -> PrimitiveConstructorSpec | None:
    """How tyro reads an int, a float or a path; what is none, and may be something else, is noted in `refused`."""
    kind = info.type
    if kind not in _KINDS:
        return None

    def read(texts: list[str]) -> int | float | Path:
        if kind is not Path and len(texts[0]) > _MOST_DIGITS:
            raise _Impossible(kind, texts[0])
        try:
            value = kind(texts[0])
        except ValueError:
            refused.append(_Impossible(kind, texts[0]))
            raise  # tyro tries the next type
        if not _KINDS[kind][0].fullmatch(texts[0]):
            raise _Impossible(kind, texts[0])
        try:
            return files.at_home(value) if isinstance(value, Path) else value
        except UserError:  # which tyro would take for another type's turn
            raise _Impossible(kind, texts[0]) from None

    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=kind.__name__.upper(),
        instance_from_str=read,
        is_instance=lambda value: isinstance(value, (int, float) if kind is float else int),
        str_from_instance=lambda value: [str(value)],
    )


def _flag(given: Sequence[str], text: str) -> str:
    """The flag that a text was given to; `the value` where several have the same."""
    found = {flag for flag, value in _pairs(given) if value == text}
    return found.pop() if len(found) == 1 else "the value"


def _pairs(given: Sequence[str]) -> Iterator[tuple[str, str]]:
    flag = "the value"
    for argument in given:
        if argument.startswith("--"):
            flag, _, value = argument.partition("=")
            yield flag.replace("_", "-"), value
        else:
            yield flag.replace("_", "-"), argument
