"""A decoder of bytes small enough to train every structure: all of them train in one program, and methods pick theirs.

A network with 0/1 masks computes, and trains, as the smaller one does, so that one compiled program trains them all.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dms_jax import baselines, models
from dms_jax.conduct import warm_cosine
from dms_jax.data import text
from dms_jax.method.importance import Importance
from dms_jax.method.limits import Limits
from dms_jax.method.schedule import Schedule
from dms_jax.method.search import Search
from dms_jax.space import SearchSpace
from dms_jax.structure import Structure
from dms_jax.training import supervised
from dms_jax.training.language import language_loss
from experiments.benchmarks.finding import strategy_of
from experiments.benchmarks.masked import Masks, masked_loss
from experiments.benchmarks.settings import Settings
from experiments.llama_prune import adamw


@dataclass(frozen=True)
class Size:
    """The space and how long everything is trained. Numbers of elements are multiples of the steps given."""

    layers: int = 2
    width: int = 32
    width_step: int = 8
    heads: int = 4
    head_step: int = 2
    head_dim: int = 8
    hidden: int = 48
    hidden_step: int = 16
    length: int = 32
    batch: int = 16
    steps: int = 250
    search_steps: int = 250
    learning_rate: float = 5e-3
    test_windows: int = 1024
    seeds: int = 3
    part: int = 20


QUICK = Size(width=8, width_step=2, heads=2, head_step=1, head_dim=2, hidden=4, hidden_step=4, length=8, batch=2,
             steps=4, search_steps=4, test_windows=4, seeds=2, part=64)  # fmt: skip

Key = tuple[int, ...]
"""A structure: the width, then heads and hidden features of every layer that stays, (24, 4, 48, 2, 16)."""


def structures(size: Size) -> list[Key]:
    """All structures. Which layers stay makes no other structure: from random weights all layers are alike."""
    widths = range(size.width_step, size.width + 1, size.width_step)
    heads = range(size.head_step, size.heads + 1, size.head_step)
    hidden = range(size.hidden_step, size.hidden + 1, size.hidden_step)
    layer = list(itertools.product(heads, hidden))
    stacks = [stack for n in range(size.layers + 1) for stack in itertools.product(layer, repeat=n)]
    return [(width, *itertools.chain(*stack)) for width in widths for stack in stacks]


class Space:
    """The decoder's search space and its structures."""

    def __init__(self, size: Size):
        self.size = size
        model = models.create(
            "llama", vocabulary=256, width=size.width, layers=size.layers, heads=size.heads, head_dim=size.head_dim,
            hidden=size.hidden, max_positions=size.length, search_width=True,
        )  # fmt: skip
        self.space = SearchSpace.from_model(model, jax.ShapeDtypeStruct((1, size.length), jnp.int32))
        multiples = {"width": size.width_step, "*/heads": size.head_step, "*/hidden": size.hidden_step}
        self.limits = Limits(divisible_by=multiples)
        self.loss = language_loss(model)
        self.data = text.load(None, text.byte_tokens(), size.length)
        self.test, self.valid = apart(self.data.test["tokens"], size.test_windows)
        self.train = jax.jit(self.trained)
        halves = {"test": self.test, "valid": self.valid}
        self.score = {half: jax.jit(partial(self._score, windows)) for half, windows in halves.items()}

    @property
    def keys(self) -> list[Key]:
        """All structures."""
        return structures(self.size)

    def kept(self, key: Key) -> dict[str, tuple[int, ...]]:
        """The first elements of every group."""
        width, layers = key[0], _pairs(key)
        counts = {"width": width, "depth": len(layers)}
        for i in range(self.size.layers):
            heads, hidden = layers[i] if i < len(layers) else (self.size.heads, self.size.hidden)
            counts |= {f"layer{i}/attention/heads": heads, f"layer{i}/feed_forward/hidden": hidden}
        return {name: tuple(range(counts[name])) for name in self.space.groups}

    def key(self, structure: Structure) -> Key:
        """The structure that has these numbers of elements."""
        kept = self.space.kept(structure)
        layers = [(len(kept[f"layer{i}/attention/heads"]), len(kept[f"layer{i}/feed_forward/hidden"]))
                  for i in kept["depth"]]  # fmt: skip
        return (len(kept["width"]), *itertools.chain(*layers))

    def share(self, key: Key) -> float:
        """Its MACs as a share of the full network's."""
        return self.space.resources(self.kept(key))["macs"] / self.space.resources()["macs"]

    @cache  # noqa: B019  a space lives as long as its benchmark
    def masks(self, key: Key) -> Masks:
        """Its masks, of 0 and 1."""
        return self.space.masks(self.kept(key))

    def batches(self, seed: int, first: int, steps: int) -> jax.Array:
        """Steps `first` and on of a seed, `[steps, B, T + 1]` int32."""
        draw = text.batches(self.data.train, self.size.batch, seed)
        return jnp.asarray(np.stack([draw(first + i)["tokens"] for i in range(steps)]))

    @cache  # noqa: B019
    def new(self, seed: int) -> Any:
        """Random parameters of the supernet."""
        inputs = jnp.zeros((1, self.size.length), jnp.int32)
        return jax.jit(self.space.model.init)(jax.random.key(seed), inputs)["params"]

    def bits(self, params: Any, masks: Masks, windows: np.ndarray) -> jax.Array:
        """Bits per byte on windows under masks."""
        loss = masked_loss(self.space, self.loss, masks)

        def nats(windows: jax.Array) -> jax.Array:
            return loss({"params": params}, {"tokens": windows}, jax.random.key(0))[0]

        parts = jnp.asarray(windows).reshape(4, -1, windows.shape[1])
        return jnp.mean(jax.lax.map(nats, parts)) / np.log(2)

    def _score(self, windows: np.ndarray, params: Any, masks: Masks, tokens: jax.Array) -> jax.Array:
        return self.bits(self.trained(params, masks, tokens), masks, windows)

    def trained(self, params: Any, masks: Masks, tokens: jax.Array) -> Any:
        """Parameters after training under 0/1 masks."""
        optimizer = adamw(warm_cosine(self.size.learning_rate, self.size.steps))
        step = supervised.make_step(masked_loss(self.space, self.loss, masks), optimizer)
        return run(step, supervised.init({"params": params}, optimizer), tokens, jax.random.key(0)).params["params"]


@cache
def supernet(space: Space, seed: int) -> Any:
    """Parameters of the full network, trained."""
    return space.train(space.new(seed), space.masks(space.keys[-1]), space.batches(seed, 0, space.size.steps))


def scorer(space: Space, seed: int, half: Literal["test", "valid"]) -> Callable[[Key], float]:
    """From a structure to its bits per byte, trained from its slice of this seed's random supernet."""
    params, tokens = space.new(seed), space.batches(seed, 0, space.size.steps)
    return lambda key: float(space.score[half](params, space.masks(key), tokens))


def run(step: Any, state: Any, tokens: jax.Array, key: jax.Array) -> Any:
    """The state after a step on each of `tokens`, `[steps, B, T + 1]`."""
    return jax.lax.scan(lambda s, windows: (step(s, {"tokens": windows}, key)[0], None), state, tokens)[0]


def apart(windows: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Two sets of at most `most` windows each, int32, both evenly spread and without a window in common."""
    first = text.evenly_spread(len(windows), most)
    rest = np.delete(np.arange(len(windows)), first)
    second = rest[text.evenly_spread(len(rest), most)]
    return windows[first].astype(np.int32), windows[second].astype(np.int32)


def _pairs(key: Key) -> list[tuple[int, ...]]:
    return [key[i : i + 2] for i in range(1, len(key), 2)]


def in_words(key: Key) -> str:
    """`24: 4x48 2x16`: width, then heads x hidden features of every layer."""
    return f"{key[0]}: {' '.join(f'{a}x{b}' for a, b in _pairs(key)) or 'no layer'}"


# --- picks ---


def _searched(space: Space, settings: Settings, seed: int) -> Structure:
    of, loop = search(space, settings)
    tokens = space.batches(seed, space.size.steps if settings.pretrained else 0, space.size.search_steps)
    start = supernet(space, seed) if settings.pretrained else space.new(seed)
    return of.structure(loop(space, of.init({"params": start}), tokens, jax.random.key(seed)))


@cache
def search(space: Space, settings: Settings) -> tuple[Search, Any]:
    """A search, and all its steps as a function of the space, a state, batches and a key."""
    made = Search(
        space.space, space.loss, adamw(optax.constant_schedule(space.size.learning_rate / 2)),
        {"macs": settings.budget}, Schedule(settings.search_steps, settings.warmup), space.limits,
        strategy=strategy_of(settings), resource_weight=settings.weight,
    )  # fmt: skip
    return made, jax.jit(lambda _, state, tokens, key: run(made.step, state, tokens, key), static_argnums=0)


def _uniform(space: Space, settings: Settings, seed: int) -> Structure:
    magnitudes = space.space.magnitudes({"params": supernet(space, seed)})
    return baselines.uniform(space.space, magnitudes, _target(space, settings.budget), space.limits)


def _threshold(space: Space, settings: Settings, seed: int) -> Structure:
    """Taylor importance of the pretrained network over as many batches as a search sees, then one threshold."""
    steps = space.size.search_steps
    schedule = Schedule(steps + 1, steps)
    search = Search(
        space.space, space.loss, None, {"macs": settings.budget}, schedule, space.limits,
        importance=Importance(decay=1 - 1 / steps),
    )  # fmt: skip
    tokens = space.batches(seed, space.size.steps, steps)
    start = search.init({"params": supernet(space, seed)})
    state = jax.jit(partial(run, search.step))(start, tokens, jax.random.key(0))
    return baselines.threshold(space.space, state.importance, _target(space, settings.budget), space.limits)


def _target(space: Space, budget: float) -> dict[str, int]:
    return {"macs": int(budget * space.space.resources()["macs"])}


_RULES = {"threshold": _threshold, "uniform": _uniform}


def picked(space: Space, settings: Settings, seed: int) -> Structure:
    """The structure that a method takes under a budget."""
    return _RULES.get(settings.strategy, _searched)(space, settings, seed)
