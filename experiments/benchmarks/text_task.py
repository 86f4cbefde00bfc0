"""A Llama-style decoder of bytes on the source of the Python standard library: a task that separates methods.

The documents are split by name into training, validation (one in ten of what is left) and test ones (one in ten).
Choices such as learning rates look at the validation documents alone.
"""

from __future__ import annotations

import hashlib
import platform
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dms_jax import models
from dms_jax.data import text
from dms_jax.space import SearchSpace
from dms_jax.training.joint import Answers
from dms_jax.training.language import bits_per_token, language_loss
from experiments.benchmarks.tasks import Task, TaskOptions, Unit
from experiments.llama_prune import adamw

VALIDATION_SHARE = 10
UNIT = Unit("bits per byte")


@dataclass(frozen=True)
class TextOptions(TaskOptions):
    """The size of the task: about a minute and a half of one core for a search to 20 % and 800 steps in all."""

    width: int = 96
    layers: int = 6
    heads: int = 6
    kv_heads: int = 3
    head_dim: int = 16
    hidden: int = 256
    length: int = 128
    batch: int = 8
    pretrain_rate: float = 3e-3
    pretrain_steps: int = 1200
    learning_rate: float = 5e-3
    valid_windows: int = 512
    test_windows: int = 1024


QUICK = TextOptions(
    width=8, layers=1, heads=2, kv_heads=2, head_dim=4, hidden=256, length=16, batch=2, pretrain_steps=2,
    valid_windows=4, test_windows=4,
)  # fmt: skip


def text_task(options: TextOptions, name: str = "text") -> Task:
    """The task of these options, with bits per byte as its scores; under another name these are its usual ones."""
    documents = _documents()
    length, batch = options.length, options.batch
    valid = spread(_windows(documents["valid"], length), options.valid_windows)
    test = spread(_windows(documents["test"], length), options.test_windows)
    train = {"tokens": _windows(documents["train"], length)}
    shape = {name: getattr(options, name) for name in ("width", "layers", "heads", "kv_heads", "head_dim", "hidden")}
    model = models.create("llama", vocabulary=256, max_positions=length, **shape)

    def scores(network: Any, variables: Any, seed: int) -> dict[str, float]:
        bits, tested = (bits_per_token(network.apply, variables, _batches(windows)) for windows in (valid, test))
        return {"valid": bits.value, "test": tested.value, "test_window_error": tested.stderr}

    return Task(
        name=name,
        options=options,
        usual=TextOptions() if name == "text" else options,
        data=f"source of the standard library of Python {platform.python_version()}, bytes",  # another's is other text
        space=SearchSpace.from_model(model, jax.ShapeDtypeStruct((1, length), jnp.int32)),
        residual=model.clone(search_width=True),
        loss=language_loss,
        batches=lambda seed: text.batches(train, batch, seed),
        optimizer=adamw,
        later=("learning_rate", "valid_windows", "test_windows"),
        scores=scores,
        unit=UNIT,
        choice=("valid", UNIT),
        answers=answers,
    )


def answers(network: Any) -> Answers:
    """Logits of a decoder as its loss computes them."""
    return lambda variables, batch, key: network.apply(variables, batch["tokens"][:, :-1])


@lru_cache(maxsize=1)
def _documents() -> dict[str, list[np.ndarray]]:
    tokens, halves = text.byte_tokens(), {"train": [], "valid": [], "test": []}
    for document in text.documents(None):
        half = "test" if text.is_test(document.name) else "valid" if _is_valid(document.name) else "train"
        halves[half].append(tokens.encode(document.text))
    return halves


def _is_valid(name: str) -> bool:
    """By another digest than the test documents, so that the two splits do not depend on each other."""
    return int.from_bytes(hashlib.sha256(f"validation {name}".encode()).digest()[:8]) % VALIDATION_SHARE == 0


def _windows(pieces: list[np.ndarray], length: int) -> np.ndarray:
    """Documents end to end, `[N, T + 1]` uint8; neighbours share a byte."""
    return np.lib.stride_tricks.sliding_window_view(np.concatenate(pieces), length + 1)[::length]


def spread(windows: np.ndarray, most: int) -> np.ndarray:
    """At most so many windows, evenly spread, as int32."""
    return windows[text.evenly_spread(len(windows), most)].astype(np.int32)


def _batches(windows: np.ndarray, size: int = 32) -> list[dict[str, np.ndarray]]:
    return [{"tokens": windows[i : i + size]} for i in range(0, len(windows), size)]
