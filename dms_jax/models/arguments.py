"""What files may say about a network of the zoo: every argument with its type and range.

Python code may make any network it likes; a file comes from outside, and a number in it must not fill the memory.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from dms_jax.errors import UserError
from dms_jax.reading import (
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

MOST_BLOCKS = 512
"""Blocks or layers of one network."""

MOST_PIXELS = 2**26
"""Numbers of an example."""

_WIDTH, _SHARE = whole(1, 2**18), number(0, 1)
_STAGES = listing(listing(whole(1, 2**14), 4, 5), 1, 16)

ARGUMENTS: dict[str, Check] = {
    "attention_bias": flag,
    "bins": whole(2, 1024),
    "block_multiplier": number(0, 64, above=True),
    "blocks": listing(whole(1, MOST_BLOCKS), 1, 16),
    "depth": whole(1, MOST_BLOCKS),
    "distilled": flag,
    "drop_path": _SHARE,
    "dropout": _SHARE,
    "dtype": one_of("float32", "bfloat16", "float16", "float64"),
    "embed": _WIDTH,
    "epsilon": number(0, 1, above=True),
    "feed_forward_bias": flag,
    "head": _WIDTH,
    "head_dim": optional(whole(1, 2**14)),
    "heads": either(whole(1, 2**14), listing(whole(1, 2**14), 1, 16), title="heads, or heads of every stage"),
    "hidden": whole(1, 2**20),
    "image_size": whole(1, 4096),
    "kv_heads": optional(whole(1, 2**14)),
    "layers": whole(1, MOST_BLOCKS),
    "max_positions": whole(1, 2**30),
    "mlp_ratio": whole(1, 64),
    "norm_epsilon": number(0, 1, above=True),
    "num_classes": whole(1, 2**22),
    "output_bias": flag,
    "patch_size": whole(1, 1024),
    "query_key_norm": flag,
    "remat": flag,
    "rope_scaling": optional(mapping(anything, 16)),
    "rope_theta": number(0, 1e15, above=True),
    "search_width": flag,
    "small_images": flag,
    "stages": _STAGES,
    "stem": _WIDTH,
    "symmetric": flag,
    "tied": flag,
    "vocabulary": whole(1, 2**24),
    "widest": _WIDTH,
    "width": _WIDTH,
    "width_multiplier": number(0, 64, above=True),
    "widths": listing(_WIDTH, 1, 16),
    "window": optional(whole(1, 2**30)),
    "window_layers": optional(listing(whole(0, MOST_BLOCKS - 1), most=MOST_BLOCKS)),
}
"""Argument of a network of the zoo -> what a file may say."""

_SWIN = {**ARGUMENTS, "window": whole(1, 64)}
_EXAMPLE = listing(record({"shape": listing(whole(1, 2**20), 1, 8), "dtype": text(32)}), 1, 8)


def check_arguments(name: str, arguments: Mapping[str, Any], source: str) -> None:
    """Refuse arguments that no network of the zoo has, or that are out of range.

    Args:
      name: of the network.
      arguments: that a file has for it.
      source: the file.

    Raises:
      UserError: it says which argument, and what is possible.
    """
    try:
        record({}, _SWIN if name.startswith("swin") else ARGUMENTS, closed=True)(dict(arguments), "")
        blocks = sum(arguments.get("blocks", ()))
        blocks += sum(s[2] for s in arguments.get("stages", ())) * math.ceil(arguments.get("block_multiplier", 1))
        if blocks > MOST_BLOCKS:
            raise Mismatch(f"they make {blocks:,} blocks, more than {MOST_BLOCKS}")
    except Mismatch as error:
        raise UserError(f"{source}: the arguments of model {name!r} are not possible: {error.fault}") from None


def check_example(example: Any) -> None:
    """Refuse an example that is none, or larger than any network takes.

    Raises:
      Mismatch: it says why.
    """
    _EXAMPLE(example, "example")
    for entry in example:
        if math.prod(entry["shape"]) > MOST_PIXELS:
            raise Mismatch(f"an example of shape {entry['shape']} has more than {MOST_PIXELS:,} numbers")
