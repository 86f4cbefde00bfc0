"""How the ratios move in one step: along the sum of two gradients, balanced or plain, and onto the target."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from dms_jax.method import resources, tracking
from dms_jax.method.layout import Layout
from dms_jax.method.resources import Balance
from dms_jax.method.schedule import Schedule
from dms_jax.method.state import SearchState
from dms_jax.method.strategy import Context, Strategy


@dataclass(frozen=True, eq=False)
class Situation:
    """What a step has found out when it moves the ratios.

    Attributes:
      state: before the step.
      masks: `[elements]` as the strategy made them.
      pull: from a gradient on the masks to one on the ratios, in a tuple.
      context: that the masks were made in, without noise.
      gradient: of the task loss on the masks, `[elements]`.
      goals, following: {resource: float32} the targets of this step and of the next.
      active: bool; in the warm-up nothing moves.
      learning: `[groups]` bool; groups that are frozen or left alone do not move.
      next_masks: from ratios to the masks of the next step.
    """

    state: SearchState
    masks: jax.Array
    pull: Callable[[jax.Array], tuple[Any]]
    context: Context
    gradient: jax.Array
    goals: Mapping[str, jax.Array]
    following: Mapping[str, jax.Array]
    active: jax.Array
    learning: jax.Array
    next_masks: Callable[[Any], jax.Array]


@dataclass(frozen=True, eq=False)
class Moved:
    """What comes of it: the next state's fields, and for every budget r and what its loss is weighted with."""

    ratios: Any
    opt_state: Any
    balance: Balance
    fractions: Mapping[str, jax.Array]
    weights: Mapping[str, jax.Array]

    def metrics(self, goals: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """{"r", "r_target", "weight_r"} of every budget r."""
        found: dict[str, jax.Array] = {}
        for name, goal in goals.items():
            found |= {name: self.fractions[name], f"{name}_target": goal, f"weight_{name}": self.weights[name]}
        return found


@dataclass(frozen=True, eq=False)
class Movement:
    """Moves the ratios of a strategy.

    Attributes:
      layout, strategy, schedule: of the search.
      optimizer: of the ratios.
      plain: the paper's loss, neither balanced nor with multipliers that follow.
    """

    layout: Layout
    strategy: Strategy
    schedule: Schedule
    optimizer: optax.GradientTransformation
    plain: bool

    def __call__(self, s: Situation) -> Moved:
        """One step: by the optimizer along the sum of both gradients, and towards the target as far as a shift says."""
        fractions, to_masks = self._fractions(s.masks)
        (task,) = s.pull(s.gradient)
        slopes = self._slopes(s, fractions, to_masks)
        held = self.strategy.on_target  # there the shift sees to the miss, and w stays
        misses = {name: (goal if held else fractions[name], goal) for name, goal in s.goals.items()}
        before = Balance(s.state.task_norm, s.state.weights)
        gradient, after = resources.balance(task, slopes, misses, before, s.active, plain=self.plain)
        with jax.numpy_dtype_promotion("standard"):  # optax raises a float to an int32
            updates, opt_state = self.optimizer.update(gradient, s.state.ratio_opt_state, s.state.ratios)
        proposed = self.strategy.clip(self.layout, optax.apply_updates(s.state.ratios, updates))
        finite = s.active & jnp.all(jnp.isfinite(ravel_pytree(gradient)[0]))  # else it would stay so for good
        opt_state = jax.tree.map(lambda new, old: jnp.where(finite, new, old), opt_state, s.state.ratio_opt_state)

        def moved(new: jax.Array, old: jax.Array, owner: np.ndarray) -> jax.Array:
            free = (finite & s.learning[owner]).reshape(-1, *[1] * (new.ndim - 1))
            return jnp.where(free, new, old)

        ratios = jax.tree.map(moved, proposed, s.state.ratios, self.strategy.owners(self.layout))
        if held or self.strategy.limit < math.inf:
            ratios = self._shifted(s, ratios, finite)
        return Moved(ratios, opt_state, after, fractions, s.state.weights)

    def _fractions(self, masks: jax.Array) -> tuple[dict[str, jax.Array], Any]:
        """r of the network that would be exported now, and its pull back to the masks."""
        kept = self.strategy.kept(self.layout, masks)
        return jax.vjp(lambda m: self.layout.space.fractions(resources.straight_through(m, kept)), masks)

    def _slopes(self, s: Situation, fractions: dict[str, jax.Array], to_masks: Any) -> dict[str, Any]:
        """{budget: the gradient of its loss on the ratios}: of a miss above, on the target of log r where it binds."""
        on_target = self.strategy.on_target
        miss = jax.grad(tracking.miss)(fractions, s.goals) if on_target else {}
        slopes, pull = {}, self._pull(s)
        for name, goal in s.goals.items():
            slope = miss[name] if on_target else jax.grad(resources.excess)(fractions[name], goal)
            one = {other: slope if other == name else jnp.zeros_like(slope) for other in fractions}
            (slopes[name],) = pull(*to_masks(one))
        return slopes

    def _pull(self, s: Situation) -> Callable[[jax.Array], tuple[Any]]:
        """What takes the resources' gradient to the ratios: through the masks, or what stands in for them."""
        free = self.layout.to_elements(s.learning)

        def retention(ratios: Any) -> Any:
            found = self.strategy.retention(self.layout, ratios, s.context)
            return None if found is None else jnp.where(free, found, jax.lax.stop_gradient(found))

        return s.pull if retention(s.state.ratios) is None else jax.vjp(retention, s.state.ratios)[1]

    def _shifted(self, s: Situation, wanted: jax.Array, finite: jax.Array) -> jax.Array:
        """The ratios that the optimizer wants, shifted together so that r is the next target, or within its slack."""
        c, ratios, held = self.layout, s.state.ratios, self.strategy.on_target
        gone = resources.progress(s.state.step + 1 - self.schedule.warmup, self.schedule.decay_steps)
        within = 0.0 if held else tracking.slack(self.strategy.limit, gone)
        informed = ~c.uninformative(c.space.flat(s.state.importance))  # others have masks of 1 wherever they stand
        free = c.to_ratios(finite & s.learning & informed)
        reach = c.to_ratios(c.closed - c.open)
        common = c.to_ratios(c.moves_together)
        common = common if common.any() else np.ones_like(common)
        sizes = c.to_ratios(np.asarray(c.segments.sizes))
        fine = common & (sizes >= np.median(sizes[common]))  # of few elements, heads say, one is a large step

        def missed(ratios: jax.Array) -> jax.Array:
            kept = self.strategy.kept(c, s.next_masks(ratios))
            return tracking.miss(c.space.fractions(kept), s.following)

        def shifted(start: jax.Array, x: jax.Array) -> jax.Array:
            """By x of the range; beyond 1 the others follow, for there the common ones are at their end."""
            beyond = jnp.maximum(x - 1.0, 0.0) + jnp.minimum(x + 1.0, 0.0)
            by = reach * jnp.where(common, jnp.clip(x, -1.0, 1.0), beyond)
            return jnp.where(free, self.strategy.clip(c, start + by), start)

        def partly(share: jax.Array) -> jax.Array:
            return jnp.where(common, wanted, ratios + share * (wanted - ratios))

        def solved() -> jax.Array:
            # a block is a large step of r: it goes where the widths, wide open, have room to make up for it
            share = tracking.largest_share(lambda share: missed(shifted(partly(share), jnp.float32(-1.0))) >= -within)
            start = partly(share)
            order = (jnp.arange(len(reach)) + s.state.step) % len(reach)
            return shifted(start, tracking.shift(lambda x: missed(shifted(start, x)), order, fine, within))

        return solved() if held else jax.lax.cond(jnp.abs(missed(wanted)) <= within, lambda: wanted, solved)
