"""From a supernet to a structure: by a rule, by a search, or by what several searches say together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import optax

from dms_jax import baselines
from dms_jax.method.found import shallower
from dms_jax.method.limits import Limits
from dms_jax.method.schedule import Schedule
from dms_jax.method.search import Search
from dms_jax.method.state import SearchState
from dms_jax.method.strategy import Strategy
from dms_jax.shrink import shrink
from dms_jax.structure import Structure
from experiments.benchmarks.baselines import RULES, Asked, VariedDMS
from experiments.benchmarks.settings import CONTROL, Settings
from experiments.benchmarks.tasks import Phases, Task


@dataclass(frozen=True)
class Found:
    """A structure (None: the full network), its variables, the optimizer's state if it goes on, and steps taken."""

    structure: Structure | None
    variables: Any
    opt_state: Any = None
    steps: int = 0


def find(work: Phases, settings: Settings, supernet: Any, offset: int) -> Found:
    """What a method makes of a supernet.

    Args:
      work: whose task and seed; its phases are timed.
      settings: of the method.
      supernet: its variables.
      offset: the first batch that may be looked at.

    Raises:
      Interrupted: the flag of the work was up.
      UserError: no structure is within the budget, or the search diverged.
    """
    space = work.task.space
    if settings.strategy == CONTROL:
        return Found(None, supernet)
    if settings.strategy in RULES:
        asked = Asked(int(settings.budget * space.resources()["macs"]), work.seed, settings.blocks, settings.draw)
        structure = RULES[settings.strategy](work, supernet, asked, offset)
        return Found(structure, shrink(space, supernet, structure))
    search, state = _searched(work, settings, supernet, offset)
    structure = search.structure(state)
    candidates = [_cut(settings, search, state, structure)]
    if not settings.horizon:
        return candidates[0]
    if settings.beside == "all blocks":
        depth = Limits(freeze=[name for name, group in space.groups.items() if group.rules.gates])
        held, at_last = _searched(work, settings, supernet, offset, depth)
        candidates.append(_cut(settings, held, at_last, held.structure(at_last)))
    else:
        candidates += [_cut(settings, search, state, one) for one in shallower(search, state, structure, None)]
    return _better(work, settings, offset, candidates)


def _searched(
    work: Phases, settings: Settings, supernet: Any, offset: int, limits: Limits | None = None
) -> tuple[Search, SearchState]:
    """A search and its last state; of several, the first one's with the means of ratios and importances."""
    search, steps = search_of(work.task, settings, limits), settings.search_steps
    states = [
        work.run("search", search.step, search.init(supernet), steps, offset + i * steps)
        for i in range(settings.searches)
    ]
    state = states[0]
    if len(states) > 1:
        ratios, importance = jax.tree.map(lambda *x: sum(x) / len(x), *((s.ratios, s.importance) for s in states))
        state = state.replace(ratios=ratios, importance=importance)
    return search, state


def _cut(settings: Settings, search: Search, state: SearchState, structure: Structure) -> Found:
    """The network of a structure, with the weights of a search."""
    opt_state = shrink(search.space, state.opt_state, structure) if settings.joint else None
    return Found(structure, shrink(search.space, state.params, structure), opt_state, settings.search_steps)


def _better(work: Phases, settings: Settings, offset: int, candidates: Sequence[Found]) -> Found:
    """The network with the best validation score of several, each finetuned for some steps."""
    task = work.task
    if not settings.joint:
        raise ValueError(
            f"a horizon goes on with the search's optimizer, which schedule={settings.schedule!r} does not"
        )
    compared: list[tuple[float, Found]] = []
    for one in candidates:
        small = task.model.clone(structure=one.structure)
        start = offset + one.steps
        state = work.finetune(small, one.variables, settings.horizon, start, one.opt_state, settings.steps)
        score = work.timed("measure", lambda n=small, s=state: task.scores(n, s.params, work.seed))[task.choice[0]]
        compared.append((score, Found(one.structure, state.params, state.opt_state, one.steps + settings.horizon)))
    return min(compared, key=lambda pair: pair[0])[1]


def search_of(task: Task, settings: Settings, limits: Limits | None = None) -> Search:
    """The search of these settings."""
    constant = optax.constant_schedule(task.options.learning_rate / 2)
    optimizer = task.over(settings.steps) if settings.joint else task.optimizer(constant)
    return Search(
        task.space,
        task.loss(task.model),
        None if settings.retrain == "none" else optimizer,
        {"macs": settings.budget},
        Schedule(settings.search_steps, settings.warmup, settings.decay, settings.refine),
        importance=replace(baselines.importances()[settings.importance], decay=settings.importance_decay),
        strategy=strategy_of(settings),
        resource_weight=settings.weight,
        limits=limits or Limits(),
    )


def strategy_of(settings: Settings) -> Strategy:
    """The strategy of these settings."""
    moved = {"rate": settings.rate, "schedule": settings.ratio_schedule, "together": settings.ratio_together}
    slack = math.inf if settings.slack is None else settings.slack
    moved |= {"slack": slack, "on_target": settings.on_target, "effects": settings.effects}
    if settings.sharpness == 1.0 and settings.start_open:
        return baselines.create(settings.strategy, **moved)
    if settings.strategy != "dms":
        raise ValueError(f"sharpness and start are DMS's; {settings.strategy} has neither")
    return VariedDMS(**moved, sharpness=settings.sharpness, start_open=settings.start_open)
