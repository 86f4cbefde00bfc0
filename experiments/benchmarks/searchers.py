"""Searches that a space of which everything is known can compare: by scores, shared weights, many trainings, ratios.

`experiments.benchmarks.kinds` says what each of them does.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dms_jax.conduct import warm_cosine
from dms_jax.training import supervised
from experiments.benchmarks import exhaustive, regret
from experiments.benchmarks.exhaustive import Key, Space
from experiments.benchmarks.masked import Masks, masked_loss
from experiments.benchmarks.methods import OURS
from experiments.benchmarks.settings import Settings
from experiments.llama_prune import adamw

ZICO_BATCHES = 8
POPULATION, GENERATIONS = 8, 4
ROUNDS = 3


@dataclass(eq=False)
class Search:
    """One search under a budget, and the CPU seconds of its programs once they are compiled.

    Attributes:
      among: all structures.
      settings: of its strategy: the budget; of DMS, how it searches.
      seed: of everything drawn.
      programs: what is compiled, for searches to come.
      steps: training steps of the full network's size, all networks together.
      seconds: of all calls so far.
    """

    among: regret.Benchmark
    settings: Settings
    seed: int
    programs: dict[Any, Any]
    steps: int = 0
    seconds: float = 0.0
    scores: dict[Key, float] = field(default_factory=dict)

    @property
    def space(self) -> Space:
        """Where it looks."""
        return self.among.space

    def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function of the space and of arrays."""
        name = (function, *(x.shape for x in jax.tree.leaves(arguments)))
        if name not in self.programs:
            self.programs[name] = jax.jit(partial(function, self.space)).lower(*arguments).compile()
        began = time.process_time()
        result = jax.block_until_ready(self.programs[name](*arguments))
        self.seconds += time.process_time() - began
        return result

    @property
    def allowed(self) -> list[Key]:
        """All structures under the budget."""
        return [key for key, share in self.among.shares.items() if share <= self.settings.budget]

    def best(self, keys: Sequence[Key], score: Callable[[Key], float]) -> Key:
        """The one of the lowest score; none gets it twice."""
        for key in keys:
            if key not in self.scores:
                self.scores[key] = score(key)
        return min(keys, key=self.scores.__getitem__)

    def trained(self, key: Key) -> float:
        """Bits per byte of a structure on validation windows, trained by itself."""
        space = self.space
        masks, tokens = space.masks(key), space.batches(self.seed, 0, space.size.steps)
        params = self.run(Space.trained, space.new(self.seed), masks, tokens)
        self.steps += space.size.steps
        return float(self.run(Space.bits, params, masks, space.valid))


# --- zero-shot ---


def zico(space: Space, params: Any, masks: Masks, tokens: jax.Array) -> jax.Array:
    """ZiCo's score under masks, `[]`; batches are `[batches, B, T + 1]` int32."""
    loss = masked_loss(space.space, space.loss, masks)

    def gradients(windows: jax.Array) -> Any:
        return jax.grad(lambda p: loss({"params": p}, {"tokens": windows}, jax.random.key(0))[0])(params)

    leaves = jax.tree.leaves_with_path(jax.lax.map(gradients, tokens))
    return sum((_zico(g) for path, g in leaves if g.ndim > 2 and path[-1].key != "embedding"), jnp.zeros(()))


def _zico(gradients: jax.Array) -> jax.Array:
    """Of one kernel, `[batches, ...]`; 0 for one that masks removed."""
    size = jnp.abs(gradients)
    spread = size.std(axis=0)
    total = jnp.sum(jnp.where(spread > 0, size.mean(axis=0) / jnp.where(spread > 0, spread, 1.0), 0.0))
    return jnp.where(total > 0, jnp.log(jnp.where(total > 0, total, 1.0)), 0.0)


def _by_zico(search: Search) -> Key:
    params, tokens = search.space.new(search.seed), search.space.batches(search.seed, 0, ZICO_BATCHES)
    return search.best(search.allowed, lambda key: -float(search.run(zico, params, search.space.masks(key), tokens)))


def _by_parameters(search: Search) -> Key:
    space = search.space.space
    return search.best(search.allowed, lambda key: -space.resources(search.space.kept(key))["params"])


# --- one-shot ---


def shared(space: Space, params: Any, masks: Masks, tokens: jax.Array) -> Any:
    """Parameters of a supernet that is trained under other masks, `[steps, ...]`, in every step."""
    optimizer = adamw(warm_cosine(space.size.learning_rate, len(tokens)))

    def step(state: Any, now: tuple[Masks, jax.Array]) -> tuple[Any, None]:
        train = supervised.make_step(masked_loss(space.space, space.loss, now[0]), optimizer)
        return train(state, {"tokens": now[1]}, jax.random.key(0))[0], None

    return jax.lax.scan(step, supervised.init({"params": params}, optimizer), (masks, tokens))[0].params["params"]


def _one_shot(search: Search, trainings: int) -> Key:
    space, steps = search.space, trainings * search.space.size.steps
    random = np.random.default_rng(search.seed)
    every = {key: space.masks(key) for key in space.keys}
    drawn = [every[space.keys[i]] for i in random.integers(len(every), size=steps)]
    masks = jax.tree.map(lambda *m: jnp.stack(m), *drawn)
    params = search.run(shared, space.new(search.seed), masks, space.batches(search.seed, 0, steps))
    search.steps += steps

    def score(key: Key) -> float:
        return float(search.run(Space.bits, params, every[key], space.valid))

    return evolved(search.allowed, partial(search.best, score=score), random)


def evolved(allowed: Sequence[Key], best: Callable[[Sequence[Key]], Key], random: np.random.Generator) -> Key:
    """The best that a small evolution finds: the better half of a population stays and has a child each.

    Args:
      allowed: structures.
      best: of some of them.
      random: draws the first ones, and of each one's neighbors a child.
    """
    living = [allowed[i] for i in random.choice(len(allowed), min(POPULATION, len(allowed)), replace=False)]
    for _ in range(GENERATIONS):
        rest, parents = list(living), []
        while rest and len(parents) < max(1, POPULATION // 2):
            parents.append(best(rest))
            rest.remove(parents[-1])
        near = [[key for key in allowed if neighbors(key, parent)] for parent in parents]
        children = [keys[random.integers(len(keys))] for keys in near if keys]
        living = list(dict.fromkeys([*parents, *children]))
    return best(living)


def neighbors(one: Key, other: Key) -> bool:
    """Whether they differ in one number, or by one layer."""
    short, long = sorted((one, other), key=len)
    if len(short) == len(long):
        return sum(x != y for x, y in zip(short, long, strict=True)) == 1
    return any(short == (*long[:i], *long[i + 2 :]) for i in range(1, len(long), 2))


# --- multi-shot ---


def contains(large: Key, small: Key) -> bool:
    """Whether the one could grow from the other."""
    layers, wanted = ([key[i : i + 2] for i in range(1, len(key), 2)] for key in (large, small))
    return large[0] >= small[0] and any(
        all(x >= y for a, b in zip(chosen, wanted, strict=True) for x, y in zip(a, b, strict=True))
        for chosen in itertools.combinations(layers, len(wanted))
    )


def _grown(search: Search) -> Key:
    now = search.space.keys[0]
    for k in reversed(range(ROUNDS)):
        larger = [key for key in search.among.band(search.settings.budget / 2**k) if contains(key, now)]
        now = search.best(larger, search.trained) if larger else now
    return now


def _all_trained(search: Search) -> Key:
    return search.best(search.among.band(search.settings.budget), search.trained)


# --- DMS ---


def dms(search: Search) -> Key:
    space, size, settings = search.space, search.space.size, search.settings
    params, first = space.new(search.seed), 0
    if settings.pretrained:
        full, first = space.masks(space.keys[-1]), size.steps
        params = search.run(Space.trained, params, full, space.batches(search.seed, 0, size.steps))
        search.steps += size.steps
    of, loop = exhaustive.search(space, settings)
    tokens = space.batches(search.seed, first, size.search_steps)
    state = search.run(loop, of.init({"params": params}), tokens, jax.random.key(search.seed))
    search.steps += size.search_steps
    return space.key(of.structure(state))


KINDS: Mapping[str, Callable[[Search], Key]] = {
    "zero-shot: parameters": _by_parameters,
    "zero-shot: ZiCo": _by_zico,
    "one-shot: a supernet trained once as long": partial(_one_shot, trainings=1),
    "one-shot: a supernet trained 4 times as long": partial(_one_shot, trainings=4),
    "multi-shot: grown": _grown,
    "multi-shot: every structure trained": _all_trained,
    f"{OURS} from random weights": dms,
    f"{OURS}, a network trained first": dms,
}
