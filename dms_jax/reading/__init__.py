"""The one reader of files that come from outside: how large, how deep, which types, and one line for all else.

What a file should say is a small schema of checks, each a function of a value and of where it stands:

    CONFIGURATION = record({"vocab_size": whole(1, 2**24)}, {"tie_word_embeddings": flag})
    config = read_json(path, CONFIGURATION, hint="give a Hugging Face model directory")

`content` reads files, `strict` parses JSON as its standard has it, `schemas` are the checks, `values` shows what was
found instead.
"""

from dms_jax.reading.content import MOST_BYTES, open_regular, parse, read_bytes, read_json, regular_file
from dms_jax.reading.schemas import (
    Check,
    Mismatch,
    anything,
    either,
    flag,
    listing,
    mapping,
    number,
    one_of,
    optional,
    record,
    text,
    whole,
)
from dms_jax.reading.strict import MOST_DEPTH, loads
from dms_jax.reading.values import shown

__all__ = [
    "Check",
    "MOST_BYTES",
    "MOST_DEPTH",
    "Mismatch",
    "anything",
    "either",
    "flag",
    "listing",
    "loads",
    "mapping",
    "number",
    "one_of",
    "open_regular",
    "optional",
    "parse",
    "read_bytes",
    "read_json",
    "record",
    "regular_file",
    "shown",
    "text",
    "whole",
]
