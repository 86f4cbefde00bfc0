"""The search: pure, jit-able, knows no loop, file or device.

One step trains weights and pruning ratios together and evaluates the elements, all from one backward pass:

    masks, pull = vjp(ratios -> masks)                     # the strategy's; importance is a constant here
    loss, (g_params, g_masks) = value_and_grad(task loss of fold(params, masks))
    importance <- update(importance, masks, g_masks)       # outside the gradient step
    g_ratios = balance(pull(g_masks), pull(d resource loss / d masks))
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dms_jax.budgets.amounts import Given
from dms_jax.method import correction, effects, found, reading, refusals, resources, weights
from dms_jax.method import importance as evaluation
from dms_jax.method.dms import DMS
from dms_jax.method.gradients import value_and_grad
from dms_jax.method.importance import Evidence, Importance
from dms_jax.method.layout import Layout
from dms_jax.method.limits import Limits
from dms_jax.method.loss import Loss, each_its_own, joined, outcome
from dms_jax.method.movement import Movement, Situation
from dms_jax.method.schedule import Schedule
from dms_jax.method.state import SearchState
from dms_jax.method.strategy import Context, Strategy
from dms_jax.partition import combine, merged, owned, without_masks
from dms_jax.space import SearchSpace
from dms_jax.structure import Structure

NOISE = 1  # folded into the key of a step: the strategy's noise is not the loss's


@dataclass(frozen=True, eq=False)
class Search:
    """A search over one space. `init`, `step` and `structure` are pure functions of their arguments.

    Args:
      space: the search space.
      loss: `(params, batch, key)` -> the mean loss, or (it, {"state": ..., "metrics": ...}); see `dms_jax.method.loss`.
        It is traced, and its masks are put where it reads their axes: nothing in it knows of them.
      optimizer: for the weights; None trains the ratios alone (pipeline p-).
      budget: {"macs": x, ...}: shares of the full network in (0, 1], numbers above 1, or "2MB" (see `budgets.amounts`).
      steps: length of the search, or a `Schedule` with its warm-up, decay and refine.
      limits: groups to leave alone, smallest numbers, multiples.
      importance: how elements are evaluated.
      strategy: what turns ratios (its parameters) and importance into masks, and what moves them.
      resource_weight: None balances the resource gradient against the task gradient and lets w follow the miss; a
        number is the paper's plain w * log(r / r_t).
      accumulate: parts that a batch passes in, one after another (see `dms_jax.method.gradients`).
      batch: one batch, arrays or shapes: the loss is read before anything is trained, and the space with it (see
        `dms_jax.method.reading`). None: it is read at the first step, and refused if the space does not know all of it.

    Attributes:
      schedule: steps, warm-up, decay, refine.
      targets: {resource: number} the budgets in absolute numbers.
      layout: the groups end to end, as the strategy sees them.

    Raises:
      UserError: a budget that cannot be met, patterns that match nothing, or arguments of another type or range.
    """

    space: SearchSpace
    loss: Loss = field(repr=False)
    optimizer: optax.GradientTransformation | None = field(repr=False)
    budget: Mapping[str, Given]
    steps: int | Schedule = field(repr=False)
    limits: Limits = field(default_factory=Limits)
    importance: Importance = Importance()
    strategy: Strategy = DMS()
    resource_weight: float | None = None
    accumulate: int = 1
    batch: Any = field(default=None, repr=False)
    schedule: Schedule = field(init=False)
    targets: dict[str, Any] = field(init=False)
    layout: Layout = field(init=False, repr=False)
    _loss: Any = field(init=False, repr=False)
    _movement: Movement = field(init=False, repr=False)

    def __post_init__(self):
        refusals.check_kinds(self)
        loss, writes = outcome(self.loss), not self.strategy.zeros
        space = reading.read(self.space, loss, self.batch, self.accumulate, writes)
        object.__setattr__(self, "space", space.asked(self.budget))
        refusals.check_arguments(self)
        derived = {
            "optimizer": None if self.optimizer is None else weights.optimizer_of(self.optimizer),
            "schedule": self.steps if isinstance(self.steps, Schedule) else Schedule(self.steps),
            "targets": correction.targets(self.space, self.budget, self.limits),
            "layout": (layout := Layout.of(self.space, self.limits)),
            # masks of 0 under a ReLU would pass no gradient to themselves where they are folded into what writes
            "_loss": reading.masked(self.space, loss, self.batch, writes),
        }
        moves = self.strategy.optimizer(layout, derived["schedule"].active)
        derived["_movement"] = Movement(
            layout, self.strategy, derived["schedule"], moves, plain=self.resource_weight is not None
        )
        for name, value in derived.items():
            object.__setattr__(self, name, value)

    # --- state ---

    def init(self, params: Any) -> SearchState:
        """The state before the first step: ratios open, importance zero.

        Args:
          params: the supernet's variables, the whole tree, random or pretrained; "masks" is ignored. They are copied:
            a step that donates its state leaves them alone.
        """
        params = owned(self.space.parameters.only_full(without_masks(params)))
        ratios = self.strategy.init(self.layout)
        weight = 1.0 if self.resource_weight is None else self.resource_weight
        return SearchState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            opt_state=owned(weights.begun(self.optimizer, self.space.partition(params)[0]), params),
            ratios=ratios,
            ratio_opt_state=owned(self._movement.optimizer.init(ratios), ratios),
            importance={name: jnp.zeros((group.size,), jnp.float32) for name, group in self.space.groups.items()},
            task_norm=jnp.zeros((), jnp.float32),
            weights={name: jnp.asarray(weight, jnp.float32) for name in self.targets},
        )

    def masks(self, state: SearchState) -> dict[str, jax.Array]:
        """The masks of a state, {group: [N]}, without noise."""
        refusals.check_state_of(self, state)
        flat = self.flat_masks(state.ratios, self.space.flat(state.importance), state.step)
        return self.space.by_group(flat)

    def flat_masks(
        self, ratios: Any, importance: jax.Array, step: jax.Array, key: jax.Array | None = None
    ) -> jax.Array:
        """Masks `[elements]` as the strategy makes them; ones where a group is left alone.

        While refining, depth and heads are hard.

        Args:
          ratios: the strategy's parameters.
          importance: c `[elements]`.
          step: int32, steps done.
          key: of the step, for strategies that draw; None draws nothing.
        """
        c = self.layout
        soft = self.strategy.masks(c, ratios, self.context(importance, step, key))
        soft = jnp.where(c.to_elements(c.fixed), 1.0, soft)
        hard = jax.lax.stop_gradient(self.strategy.kept(c, soft))
        return jnp.where(c.to_elements(self._frozen(step)), hard, soft)

    def goals(self, step: jax.Array) -> dict[str, jax.Array]:
        """Where the targets stand at a step, as fractions of the full network."""
        full, since = self.space.resources(), step - self.schedule.warmup
        decay = self.schedule.decay_steps
        return {name: resources.target(since, most / full[name], decay) for name, most in self.targets.items()}

    def context(self, importance: jax.Array, step: jax.Array, key: jax.Array | None = None) -> Context:
        """What the strategy may look at."""
        quiet = self._frozen(step) | (step < self.schedule.warmup)
        return Context(importance, self.goals(step), key, quiet)

    def _frozen(self, step: jax.Array) -> jax.Array:
        """`[groups]` bool: depth and heads while refining."""
        return (step >= self.schedule.refined_from) & self.layout.settles_early

    # --- one step ---

    def step(self, state: SearchState, batch: Any, key: jax.Array) -> tuple[SearchState, dict[str, Any]]:
        """One step. Jit it with `donate_argnums=0`; it compiles once per search.

        Args:
          state: the state before.
          batch: whatever `loss` takes.
          key: the search's key; the step's own is `fold_in(key, step)`, and the strategy's is folded from that.

        Returns:
          The next state, and metrics: "loss"; per resource r "r" and "r_target" (fractions of the full network),
          "weight_r" (of its loss); "importance_skipped"; and what `loss` returned.
        """
        refusals.check_state_of(self, state)
        c, key = self.layout, jax.random.fold_in(refusals.checked_key(key), state.step)
        importance = self.space.flat(state.importance)
        noise = jax.random.fold_in(key, NOISE)
        masks, pull = jax.vjp(lambda ratios: self.flat_masks(ratios, importance, state.step, noise), state.ratios)
        active, learning = state.step >= self.schedule.warmup, ~self._frozen(state.step) & ~c.fixed
        probing = self.strategy.effects and len(c.blocks) > 0
        seen, probed = effects.probed(masks, c, state.step, learning) if probing else (masks, None)
        trained, rest = self.space.partition(state.params)
        task = partial(self.task, step=state.step)
        slope = refusals.explaining(value_and_grad(task, (0, 1), self.accumulate))
        (loss, (changed, metrics)), (g_trained, g_masks) = slope(trained, seen, rest, batch, key)
        score = self.importance.measure(self._evidence(masks, g_masks, state.params))
        new_importance, skipped = evaluation.update(
            importance, score, c.segments, learning, decay=self.importance.decay, across=self.strategy.across
        )
        if probed is not None:
            blocks = np.isin(np.arange(len(c.of_element)), c.blocks)
            judged = state.step + 1 >= effects.first_round(c.blocks)
            learning &= judged | ~c.gates  # no block goes before every one had its turn
            new_importance = jnp.where(blocks, effects.update(importance, g_masks, probed), new_importance)
            cost = partial(resources.total, self.space, self.targets)
            worth = effects.worth(new_importance, cost, self.strategy.kept(c, masks), blocks)
            g_masks = jnp.where(blocks, -worth, g_masks)
        goals = self.goals(state.step)
        moved = self._movement(
            Situation(
                state=state,
                masks=masks,
                pull=pull,
                context=self.context(importance, state.step),
                gradient=g_masks,
                goals=goals,
                following=self.goals(state.step + 1),
                active=active,
                learning=learning,
                next_masks=lambda ratios: self.flat_masks(ratios, new_importance, state.step + 1),
            )
        )
        trained, opt_state = self._move_weights(trained, g_trained, state.opt_state, loss)
        new = SearchState(
            step=state.step + 1,
            params=combine(trained, merged(rest, changed)),
            opt_state=opt_state,
            ratios=moved.ratios,
            ratio_opt_state=moved.opt_state,
            importance=self.space.by_group(new_importance),
            task_norm=moved.balance.task_norm,
            weights=moved.balance.weights,
        )
        return new, joined(metrics, {**moved.metrics(goals), "loss": loss, "importance_skipped": skipped})

    def task(
        self, trained: Any, masks: jax.Array, rest: Any, batch: Any, key: jax.Array, *, step: jax.Array | None = None
    ) -> tuple[jax.Array, tuple[Any, dict[str, Any]]]:
        """The task loss under masks `[elements]`, and (state, metrics), as `value_and_grad` takes it.

        Args:
          trained, rest: the variables, taken apart by `space.partition`.
          masks: of all groups end to end.
          batch, key: of the loss.
          step: of the search, where the program is to be compiled for a loop.
        """
        by_group = self.space.by_group(masks)
        if step is not None:
            by_group = each_its_own(by_group, step)
        return self._loss(combine(trained, rest), by_group, batch, key)

    def _evidence(self, masks: jax.Array, gradient: jax.Array, params: Any) -> Evidence:
        # dead code, and removed, where no measure reads it
        magnitude = self.space.flat(self.space.magnitudes(params))
        judged = jnp.ones_like(masks) if self.strategy.zeros else masks
        position = jnp.asarray(self.layout.position, jnp.float32)
        return Evidence(judged, gradient.astype(jnp.float32), magnitude, position)

    def _move_weights(self, trained: Any, gradient: Any, opt_state: Any, loss: jax.Array) -> tuple[Any, Any]:
        if self.optimizer is None:
            return trained, opt_state
        return weights.moved(self.optimizer, gradient, opt_state, trained, loss)

    # --- the result ---

    def reached(self, state: SearchState) -> dict[str, float]:
        """The resources of the network that the masks keep, as fractions of the full one: before any projection."""
        return found.reached(self, state)

    def structure(self, state: SearchState, model: Mapping[str, Any] | None = None) -> Structure:
        """Project the ratios onto the budget: never above it, as measured where it can be, an element's cost below it.

        Args:
          state: any state of this search; ready before its end, too.
          model: {"name", "arguments"} to write into the structure.

        Raises:
          UserError: the search diverged, or ended without having learned which elements of a group matter that has to
            lose some.
        """
        return found.structure(self, state, self.targets, model)

    def structures(
        self, state: SearchState, budgets: Sequence[Mapping[str, Given]], model: Mapping[str, Any] | None = None
    ) -> list[Structure]:
        """Several sizes of one search: of two, the smaller keeps the best elements of the larger (`dms_jax.Family`).

        Args:
          state: of this search, whose own budget is best the smallest of them: so its target passes all.
          budgets: [{"macs": 0.5}, {"macs": 0.25}, ...], one a structure; what one does not name holds as in the search.
          model: as in `structure`.

        Raises:
          UserError: as `structure`; or of two budgets neither is the smaller one.
        """
        return found.structures(self, state, budgets, model)
