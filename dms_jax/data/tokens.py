"""How text becomes numbers: bytes, or a Hugging Face tokenizer."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dms_jax import reading
from dms_jax.errors import UserError, one_line

_MOST_TOKENIZER = 2**28  # bytes


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
