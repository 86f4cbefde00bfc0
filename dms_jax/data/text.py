"""Text as fixed-length windows of tokens: files, directories, parquet or jsonl; bytes or a Hugging Face tokenizer.

Bundled: the source of the Python standard library that runs this very program, as bytes; nothing is downloaded.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dms_jax.data import batching
from dms_jax.data.documents import Document, documents, is_test
from dms_jax.data.tokens import Tokens, byte_tokens, huggingface_tokens
from dms_jax.errors import UserError

__all__ = [
    "Document",
    "MOST_TOKENS",
    "Split",
    "Tokens",
    "batches",
    "byte_tokens",
    "documents",
    "evenly_spread",
    "huggingface_tokens",
    "is_test",
    "load",
]

MOST_TOKENS = 2**31 - 1
"""Of a vocabulary: batches are int32."""


@dataclass(frozen=True)
class Split:
    """Windows of training and of test documents: {"tokens": `[N, T + 1]`}, in the smallest dtype that holds them.

    Neighbours share a token: the last one that a window predicts is the first that the next one sees.
    """

    name: str
    vocabulary: int
    train: dict[str, np.ndarray]
    test: dict[str, np.ndarray]


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
