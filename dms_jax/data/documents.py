"""Documents of files, directories, parquet and jsonl, by name; what cannot be read is skipped, said and counted."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dms_jax import reading
from dms_jax.data.corruption import FEW, SHARE
from dms_jax.errors import UserError, one_line, shortened

TEST_SHARE = 10
"""One document in ten is for testing: which one follows from its name alone, so it is the same in every run."""

_MOST_FILE = 2**34
_MOST_LINE = 2**28
_NAMED = 10  # documents that cannot be read; the others are counted

TEXT_SUFFIXES = (".md", ".py", ".rst", ".txt")
TABLE_SUFFIXES = (".jsonl", ".parquet")


@dataclass(frozen=True)
class Document:
    """A text and its name, by which documents are split into training and test ones."""

    name: str
    text: str


def is_test(name: str) -> bool:
    """Whether a document of this name is for testing."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) % TEST_SHARE == 0


def documents(source: str | os.PathLike[str] | None, column: str = "text") -> Iterator[Document]:
    """All documents of a source, in the order of their names.

    Raises:
      UserError: see `load`.
    """
    if source is None:
        root = Path(sysconfig.get_path("stdlib"))
        files = _library_files(root)
    else:
        root, files = _files(Path(source))
    unreadable = _Unreadable()
    for file in files:
        name = file.relative_to(root).as_posix()
        if file.suffix == ".parquet":
            rows: Iterable[Any] = _parquet(file, column, unreadable)
        elif file.suffix == ".jsonl":
            rows = _jsonl(file, column)
        else:
            yield Document(name, _text(file))
            unreadable.read += 1
            continue
        for number, text in enumerate(rows):
            if text is _LOST:  # named and counted already
                continue
            if not isinstance(text, str):
                shown = reading.shown(text)
                raise UserError(f"{file}: row {number} holds {shown} in column {column!r}, not a text")
            if not _is_unicode(text):
                unreadable.add(f"{file}: row {number}", "it holds half a surrogate pair, which is no text")
                continue
            unreadable.read += 1
            yield Document(f"{name}:{number}", text)
    unreadable.check()


_LOST = object()


class _Unreadable:
    """Documents that cannot be read: named on stderr, skipped, counted, and an error when they are many."""

    def __init__(self) -> None:
        self.read = self.lost = 0
        self._last = ""

    def add(self, what: str, why: str, documents: int = 1) -> None:
        """Name and count `documents` of them."""
        self.lost += documents
        self._last = what
        if self.lost <= _NAMED:
            print(f"skipped, cannot be read: {what} ({why})", file=sys.stderr, flush=True)

    def check(self) -> None:
        """Say how many there were.

        Raises:
          UserError: more than a few of all documents.
        """
        of_all = self.lost + self.read
        if self.lost > max(FEW, SHARE * of_all):
            raise UserError(
                f"{self.lost:,} of {of_all:,} documents cannot be read, the last is {self._last}; more than "
                f"{SHARE:.1%} is too many: fetch the data again"
            )
        if self.lost:
            print(f"skipped {self.lost:,} of {of_all:,} documents", file=sys.stderr, flush=True)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _library_files(root: Path) -> list[Path]:
    """Modules of the standard library, without tests, installed packages and files generated for this machine."""
    left_out = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
    files = [
        file
        for file in root.rglob("*.py")
        if not left_out.intersection(file.relative_to(root).parts)
        and not file.name.startswith("_sysconfigdata")
        and not file.relative_to(root).parts[0].startswith("config-")
    ]
    if not files:
        raise UserError(f"this Python has no source of its standard library in {root}; give text files")
    return sorted(files)


def _files(source: Path) -> tuple[Path, list[Path]]:
    if source.is_file():
        return source.parent, [source]
    if not source.is_dir():
        raise UserError(f"{source} is not there; give a file or a directory of text")
    suffixes = (*TEXT_SUFFIXES, *TABLE_SUFFIXES)
    files = sorted(file for file in source.rglob("*") if file.suffix in suffixes and file.is_file())
    if not files:
        raise UserError(f"{source} holds no file that ends in {', '.join(suffixes)}")
    return source, files


def _text(file: Path) -> str:
    content = reading.read_bytes(file, most=_MOST_FILE, hint="give files of text")
    try:
        return content.decode()  # line ends as they are
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not UTF-8 text ({error.reason} at byte {error.start})") from None


def _jsonl(file: Path, column: str) -> Iterator[Any]:
    try:
        lines = os.fdopen(reading.open_regular(file), "rb")
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}); give files of text") from None
    with lines:
        for number in itertools.count(1):
            line = lines.readline(_MOST_LINE + 1)
            if not line:
                return
            if len(line) > _MOST_LINE:
                raise UserError(f"{file}: line {number} has more than {_MOST_LINE:,} bytes")
            try:
                row = json.loads(line.decode())
            except UnicodeDecodeError as error:
                raise UserError(
                    f"{file}: line {number} is not UTF-8 text ({error.reason} at byte {error.start})"
                ) from None
            except (ValueError, RecursionError):
                raise UserError(f"{file}: line {number} is not JSON") from None
            if not isinstance(row, dict) or column not in row:
                has = shortened(", ".join(map(ascii, row)).replace("'", ""), 200) if isinstance(row, dict) else None
                has = type(row).__name__ if has is None else has
                raise UserError(f"{file}: line {number} has no column {column!r}; it has: {has}")
            yield row[column]


def _parquet(file: Path, column: str, unreadable: _Unreadable) -> Iterator[Any]:
    """The rows of a column; of a row group with damaged pages, what can be read, and `_LOST` for the rest."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UserError("parquet files are read with pyarrow, which is missing: install dms_jax[text]") from error
    # what pyarrow raises on damaged bytes: ArrowInvalid and its like are ValueErrors, others OSErrors
    broken = (pyarrow.ArrowException, OSError, ValueError, OverflowError)
    if not reading.regular_file(file):
        raise UserError(f"{file} is not a parquet file (it is no file)")
    try:
        table = pyarrow.parquet.ParquetFile(file, page_checksum_verification=True)
        names = table.schema_arrow.names
    except broken as error:
        raise UserError(f"{file} is not a parquet file ({one_line(error, 200)})") from None
    with table:
        if column not in names:
            raise UserError(f"{file} has no column {column!r}; it has: {shortened(', '.join(names), 200)}")
        for group in range(table.num_row_groups):
            rows, read = table.metadata.row_group(group).num_rows, 0
            try:
                for batch in table.iter_batches(row_groups=[group], columns=[column]):
                    for value in batch.column(0):
                        yield _value(value)
                        read += 1
                if read != rows:
                    raise ValueError(f"{read} rows are there")
            except broken as error:
                lost = max(rows - read, 1)
                what = f"{file}: {lost:,} of the {rows:,} rows of row group {group}"
                unreadable.add(what, one_line(error, 200), lost)
                for _ in range(min(lost, rows - read)):
                    yield _LOST


def _value(value: Any) -> Any:
    try:
        return value.as_py()
    except UnicodeDecodeError:
        return "\ud800"  # which is no text, either
