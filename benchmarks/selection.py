"""Structures without a search: the same keep ratio everywhere, one threshold, at random."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.task import Task
from dms_jax import projection, strategies
from dms_jax.search import Schedule, Search
from dms_jax.structure import Structure

EVIDENCE_STEPS = 100
"""Batches that the importance of a pretrained network is averaged over."""

# (task, the pretrained supernet, fraction of the MACs, seed, batches from there on) -> the structure
Select = Callable[[Task, Any, float, int, Callable[[int], Any]], Structure]


def uniform(task: Task, variables: Any, budget: float, seed: int, batches: Callable[[int], Any]) -> Structure:
    """The same keep ratio in every width and all heads, every block kept; the largest magnitudes stay."""
    return strategies.uniform(task.space, _magnitudes(task, variables), _macs(task, budget))


def uniform_taylor(task: Task, variables: Any, budget: float, seed: int, batches: Callable[[int], Any]) -> Structure:
    """As `uniform`, but the elements of the most Taylor importance stay."""
    ranking = {name: np.asarray(c) for name, c in _taylor(task, variables, seed, batches).items()}
    return strategies.uniform(task.space, ranking, _macs(task, budget))


def uniform_depth(task: Task, variables: Any, budget: float, seed: int, batches: Callable[[int], Any]) -> Structure:
    """The same keep ratio everywhere, blocks included; the largest magnitudes stay."""
    space, ranking = task.space, _magnitudes(task, variables)
    kept = projection.project(space, dict.fromkeys(space.groups, 0.5), ranking, _macs(task, budget))
    return space.structure(kept)


def threshold(task: Task, variables: Any, budget: float, seed: int, batches: Callable[[int], Any]) -> Structure:
    """One threshold on Taylor importance per cost, measured on the pretrained supernet before anything is changed."""
    return strategies.threshold(task.space, _taylor(task, variables, seed, batches), _macs(task, budget))


def random(task: Task, variables: Any, budget: float, seed: int, batches: Callable[[int], Any]) -> Structure:
    """Keep ratios and elements drawn by chance, moved onto the budget."""
    return strategies.random(task.space, _macs(task, budget), seed=seed)


SELECTIONS: dict[str, Select] = {f.__name__: f for f in (uniform, uniform_taylor, uniform_depth, threshold, random)}


def _macs(task: Task, budget: float) -> dict[str, int]:
    return {"macs": int(budget * task.space.resources()["macs"])}


def _magnitudes(task: Task, variables: Any) -> dict[str, np.ndarray]:
    return {name: np.asarray(m) for name, m in task.space.magnitudes(variables["params"]).items()}


def _taylor(task: Task, variables: Any, seed: int, batches: Callable[[int], Any]) -> dict[str, jax.Array]:
    """The importance of a network's elements, with weights and masks left as they are."""
    schedule = Schedule(EVIDENCE_STEPS, warmup=EVIDENCE_STEPS - 1)
    search = Search(task.space, task.loss(task.model), None, {"macs": 1.0}, schedule)
    step, key = jax.jit(search.step, donate_argnums=0), jax.random.key(seed)
    state = jax.tree.map(jnp.copy, search.init(variables))
    for i in range(EVIDENCE_STEPS):
        state, _ = step(state, batches(i), key)
    return state.importance
