"""Text as fixed-length windows of tokens: files, directories, parquet or jsonl; bytes or a Hugging Face tokenizer.

Bundled: the source of the Python standard library that runs this very program, as bytes; nothing is downloaded.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dms_jax.data import batching
from dms_jax.errors import UserError

TEST_SHARE = 10
"""One document in ten is for testing: which one follows from its name alone, so it is the same in every run."""

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
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # tokenizers raises nothing narrower
        raise UserError(f"{file} is not a tokenizer ({error}); give a tokenizer.json or its directory") from None
    tokenizer.no_truncation()  # which some files ask for, as a model's input once needed it
    tokenizer.no_padding()
    size = tokenizer.get_vocab_size()
    if size > vocabulary:
        raise UserError(f"tokenizer {file} knows {size} tokens, the network {vocabulary}: it is another network's")
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
    train, held = [], []
    for document in documents(source, column):
        (held if test is None and is_test(document.name) else train).append(tokens.encode(document.text))
    if test is not None:
        held = [tokens.encode(document.text) for document in documents(test, column)]
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
    for file in files:
        name = file.relative_to(root).as_posix()
        if file.suffix == ".parquet":
            rows: Iterable[Any] = _parquet(file, column)
        elif file.suffix == ".jsonl":
            rows = _jsonl(file, column)
        else:
            yield Document(name, _text(file))
            continue
        for number, text in enumerate(rows):
            if not isinstance(text, str):
                raise UserError(f"{file}: row {number} holds {text!r} in column {column!r}, not a text")
            yield Document(f"{name}:{number}", text)


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
    try:
        return file.read_bytes().decode()  # line ends as they are
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not UTF-8 text ({error.reason} at byte {error.start})") from None


def _jsonl(file: Path, column: str) -> Iterator[Any]:
    with file.open("rb") as lines:
        for number, line in enumerate(lines):
            try:
                row = json.loads(line.decode())
            except UnicodeDecodeError as error:
                raise UserError(
                    f"{file}: line {number + 1} is not UTF-8 text ({error.reason} at byte {error.start})"
                ) from None
            except ValueError:
                raise UserError(f"{file}: line {number + 1} is not JSON") from None
            if not isinstance(row, dict) or column not in row:
                has = ", ".join(row) if isinstance(row, dict) else type(row).__name__
                raise UserError(f"{file}: line {number + 1} has no column {column!r}; it has: {has}")
            yield row[column]


def _parquet(file: Path, column: str) -> Iterator[Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UserError("parquet files are read with pyarrow, which is missing: install dms_jax[text]") from error
    try:
        table = pyarrow.parquet.ParquetFile(file)
    except pyarrow.ArrowInvalid as error:
        raise UserError(f"{file} is not a parquet file ({error})") from None
    with table:
        if column not in table.schema_arrow.names:
            raise UserError(f"{file} has no column {column!r}; it has: {', '.join(table.schema_arrow.names)}")
        for batch in table.iter_batches(columns=[column]):
            yield from batch.column(0).to_pylist()


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


def _end_token(config: Path) -> str:
    try:
        token = json.loads(config.read_text()).get("eos_token")
    except OSError:
        return ""
    except (ValueError, AttributeError):
        raise UserError(f"{config} is not a JSON object; fetch it again, or remove it") from None
    return (token.get("content") if isinstance(token, dict) else token) or ""
