"""Text as fixed-length windows of tokens: files, directories, parquet or jsonl; bytes or a Hugging Face tokenizer.

Bundled: the source of the Python standard library that runs this very program, as bytes; nothing is downloaded.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import platform
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dms_jax import reading
from dms_jax.data import batching
from dms_jax.data.corruption import FEW, SHARE
from dms_jax.errors import UserError, one_line, shortened

MOST_TOKENS = 2**31 - 1
"""Of a vocabulary: batches are int32."""

TEST_SHARE = 10
"""One document in ten is for testing: which one follows from its name alone, so it is the same in every run."""

_MOST_TOKENIZER = 2**28  # bytes
_MOST_FILE = 2**34
_MOST_LINE = 2**28
_NAMED = 10  # documents that cannot be read; the others are counted

TEXT_SUFFIXES = (".md", ".py", ".rst", ".txt")
TABLE_SUFFIXES = (".jsonl", ".parquet")


@dataclass(frozen=True)
class Tokens:
    """How text becomes numbers.

    Attributes:
      name: "bytes", or the tokenizer's path.
      vocabulary: numbers are below it.
      encode: text -> `[n]` numbers, the end of a document included.
    """

    name: str
    vocabulary: int
    encode: Callable[[str], np.ndarray]


@dataclass(frozen=True)
class Document:
    """A text and its name, by which documents are split into training and test ones."""

    name: str
    text: str


@dataclass(frozen=True)
class Split:
    """Windows of training and of test documents: {"tokens": `[N, T + 1]`}, in the smallest dtype that holds them.

    Neighbours share a token: the last one that a window predicts is the first that the next one sees.
    """

    name: str
    vocabulary: int
    train: dict[str, np.ndarray]
    test: dict[str, np.ndarray]


def byte_tokens() -> Tokens:
    """UTF-8 bytes; a zero byte, which no text has, ends a document."""

    def encode(text: str) -> np.ndarray:
        return np.frombuffer(text.encode() + b"\0", np.uint8)

    return Tokens("bytes", 256, encode)


def huggingface_tokens(path: str | os.PathLike[str], vocabulary: int) -> Tokens:
    """A tokenizer.json, or a directory that holds one.

    A document begins with what the tokenizer itself puts there and ends with the end-of-text token that a
    tokenizer_config.json beside it names, if there is one.

    Args:
      path: of the file or the directory.
      vocabulary: of the network.

    Raises:
      UserError: `tokenizers` is missing, there is no tokenizer, or it knows more tokens than the network.
    """
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise UserError("tokenizers is missing: install dms_jax[text]") from error
    file = Path(path) / "tokenizer.json" if Path(path).is_dir() else Path(path)
    hint = "give a tokenizer.json or its directory"
    content = reading.read_bytes(file, most=_MOST_TOKENIZER, hint=hint)
    try:
        tokenizer = Tokenizer.from_buffer(content)
    except BaseException as error:  # tokenizers raises nothing narrower, and panics, which are no Exception
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        raise UserError(f"{file} is not a tokenizer ({one_line(error, 200)}); {hint}") from None
    tokenizer.no_truncation()  # which some files ask for, as a model's input once needed it
    tokenizer.no_padding()
    known = tokenizer.get_vocab()
    if len(known) > vocabulary:
        raise UserError(
            f"tokenizer {file} knows {len(known)} tokens, the network {vocabulary}: it is another network's"
        )
    last = max(known, key=known.__getitem__, default=None)
    if last is not None and known[last] >= vocabulary:
        raise UserError(
            f"tokenizer {file} gives {reading.shown(last)} the number {known[last]:,}, the network has numbers below "
            f"{vocabulary:,}: it is another network's"
        )
    end = tokenizer.token_to_id(_end_token(file.with_name("tokenizer_config.json")))
    after = [] if end is None else [end]

    def encode(text: str) -> np.ndarray:
        return np.array(tokenizer.encode(text).ids + after, np.uint32)

    return Tokens(str(path), vocabulary, encode)


def load(
    source: str | os.PathLike[str] | None,
    tokens: Tokens,
    length: int,
    *,
    test: str | os.PathLike[str] | None = None,
    column: str = "text",
) -> Split:
    """Read text, split it by document, and pack the documents of each half into windows.

    Args:
      source: a file (.parquet and .jsonl: a document a row, anything else: a text), a directory of such files, or None
        for the source of the Python standard library.
      tokens: how text becomes numbers.
      length: T, tokens that the network sees at once.
      test: where the test documents are; None takes them out of `source`, one in ten, by name.
      column: of parquet and jsonl files.

    Raises:
      UserError: a source that is not there or empty, a column that is not there, or too little text for one window.
    """
    if length < 1:
        raise UserError(f"windows of {length} tokens are not possible; give the number the network sees at once")
    if not 2 <= tokens.vocabulary <= MOST_TOKENS:
        raise UserError(f"a vocabulary of {tokens.vocabulary:,} is not possible; give 2 to {MOST_TOKENS:,}")
    train, held = [], []
    for document in documents(source, column):
        (held if test is None and is_test(document.name) else train).append(_numbers(document, tokens))
    if test is not None:
        held = [_numbers(document, tokens) for document in documents(test, column)]
    python = f"source of the standard library of Python {platform.python_version()}"
    name = f"{python if source is None else source}, {tokens.name}"
    halves = {"training": train, "test": held}
    windows = {
        half: _windows(pieces, length, tokens.vocabulary, f"{half} half of {name}") for half, pieces in halves.items()
    }
    return Split(name, tokens.vocabulary, windows["training"], windows["test"])


def batches(
    windows: dict[str, np.ndarray], batch_size: int, seed: int, share: tuple[int, int] = (0, 1)
) -> Callable[[int], dict[str, np.ndarray]]:
    """Return `batch(step)`: {"tokens": `[batch_size, T + 1]` int32}, a function of the seed and the step alone.

    Every window is seen once an epoch, in a new order each (see `dms_jax.data.batching.batches`).

    Args:
      windows: of a `Split`.
      batch_size: windows of a batch, over all processes.
      seed: at least 0.
      share: (i, n) gives the i-th of n equal parts of every batch, `[batch_size / n, T + 1]`; n divides the batch.
    """
    index, count = share
    if batch_size % count:
        raise UserError(f"a batch of {batch_size} windows cannot be shared by {count} processes; take a multiple")
    draw, size = batching.batches(windows, batch_size, seed), batch_size // count
    mine = slice(index * size, (index + 1) * size)
    return lambda step: {name: array[mine].astype(np.int32) for name, array in draw(step).items()}


def evenly_spread(count: int, most: int) -> np.ndarray:
    """At most `most` of `count` indices, evenly spread from the first to the last: `[n]` int, in order."""
    return np.unique(np.linspace(0, count - 1, min(most, count)).astype(int))


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


def _numbers(document: Document, tokens: Tokens) -> np.ndarray:
    """The numbers of a document, every one of which the network has.

    Raises:
      UserError: one is not.
    """
    found = np.asarray(tokens.encode(document.text))
    if found.ndim != 1 or not np.issubdtype(found.dtype, np.integer):
        raise UserError(f"{tokens.name} made {found.dtype} {found.shape} of {document.name}, not a row of numbers")
    if found.size and not 0 <= int(found.min()) <= int(found.max()) < tokens.vocabulary:
        wrong = int(found.max()) if int(found.max()) >= tokens.vocabulary else int(found.min())
        raise UserError(
            f"{tokens.name} made the number {wrong:,} of {document.name}, the network has numbers from 0 to "
            f"{tokens.vocabulary - 1:,}: it is another network's tokenizer"
        )
    return found


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


def _windows(pieces: list[np.ndarray], length: int, vocabulary: int, what: str) -> dict[str, np.ndarray]:
    """Documents end to end, `[N, T + 1]` as a view without memory of its own; the last few tokens are left out."""
    kind = np.min_scalar_type(vocabulary - 1)
    flat = np.concatenate([piece.astype(kind) for piece in pieces]) if pieces else np.zeros(0, kind)
    if len(flat) <= length:
        raise UserError(
            f"the {what} has {len(pieces)} documents with {len(flat)} tokens in all, too few for a window of "
            f"{length} + 1; give more text, shorter windows, or test documents of their own"
        )
    return {"tokens": np.lib.stride_tricks.sliding_window_view(flat, length + 1)[::length]}


_NAMED_TOKEN = reading.record({}, {"content": reading.optional(reading.text())})
_TOKENIZER = reading.record(
    {}, {"eos_token": reading.optional(reading.either(reading.text(), _NAMED_TOKEN, title="a token"))}
)


def _end_token(config: Path) -> str:
    if not config.exists():
        return ""
    hint = "fetch it again, or remove it"
    token = reading.read_json(config, _TOKENIZER, hint=hint, title="a JSON object").get("eos_token")
    return (token.get("content") if isinstance(token, dict) else token) or ""
