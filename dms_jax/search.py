"""The search: pure, jit-able, knows no loop, file or device.

One step trains weights and pruning ratios together and evaluates the elements, all from one backward pass:

    masks, pull = vjp(ratios -> masks)                     # the strategy's; importance is a constant here
    loss, (g_params, g_masks) = value_and_grad(task loss of fold(params, masks))
    importance <- update(importance, masks, g_masks)       # outside the gradient step
    g_ratios = pull(g_masks) + balanced pull(d resource loss / d masks)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, TypeAlias

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from dms_jax import importance as evaluation
from dms_jax import projection, resources
from dms_jax.errors import UserError
from dms_jax.gradients import value_and_grad
from dms_jax.importance import Evidence, Measure
from dms_jax.projection import Limits
from dms_jax.ratio_optimizer import adam_together
from dms_jax.space import SearchSpace
from dms_jax.strategies import DMS, Context, Layout, Strategy
from dms_jax.structure import Structure

NOISE = 1  # folded into the key of a step: the strategy's noise is not the loss's

# (variables, batch, key) -> (mean loss, (collections that changed, such as batch_stats, and metrics))
Loss: TypeAlias = Callable[[dict[str, Any], Any, jax.Array], tuple[jax.Array, tuple[dict[str, Any], dict[str, Any]]]]


@flax.struct.dataclass
class SearchState:
    """Everything a search carries from step to step.

    Attributes:
      step: int32, steps done.
      params, model_state: the supernet's parameters and its other collections (batch_stats).
      opt_state, ratio_opt_state: optimiser states.
      ratios: the strategy's parameters, a pytree. Of DMS: `[ratios]` float32 pruning ratios, in the order of
        `space.counted`: one a group, but for tied groups.
      importance: {group: [N]} float32 moving averages.
      task_norm: float32, moving average of the norm of the task gradient on the ratios.
      weights: {resource: float32} multipliers w.
    """

    step: jax.Array
    params: Any
    model_state: dict[str, Any]
    opt_state: Any
    ratios: Any
    ratio_opt_state: Any
    importance: dict[str, jax.Array]
    task_norm: jax.Array
    weights: dict[str, jax.Array]

    @property
    def variables(self) -> dict[str, Any]:
        """The supernet's variables, without masks."""
        return {"params": self.params, **self.model_state}


@dataclass(frozen=True)
class Schedule:
    """When what happens.

    Attributes:
      steps: length of the search.
      warmup: first steps in which the ratios stay open while weights train and importance gathers.
      decay: share of what follows the warm-up after which the target stands at the budget.
      refine: last share of what follows the warm-up in which depth and heads are frozen at their hard masks.
    """

    steps: int
    warmup: int = 0
    decay: float = 0.8
    refine: float = 0.2

    def __post_init__(self):
        if self.steps < 1 or not 0 <= self.warmup < self.steps:
            raise UserError(
                f"a search of {self.steps} steps with {self.warmup} of warm-up: at least one step must follow"
            )
        if not (0 < self.decay <= 1 and 0 <= self.refine < 1):
            raise UserError(f"decay {self.decay} must lie in (0, 1], refine {self.refine} in [0, 1)")

    @property
    def active(self) -> int:
        """Steps after the warm-up."""
        return self.steps - self.warmup


@dataclass(frozen=True, eq=False)
class Search:
    """A search over one space. `init`, `step` and `structure` are pure functions of their arguments.

    Args:
      space: the search space.
      loss: `(variables, batch, key) -> (mean loss, (changed collections, metrics))`. `variables` holds "params" (masks
        folded in), the remaining "masks", and the model state.
      optimizer: for the weights; None trains the ratios alone (pipeline p-).
      budget: {"macs": x, "params": y}, either or both: a fraction of the full network in (0, 1], or a number above 1.
      schedule: steps, warm-up, decay, refine.
      limits: groups to leave alone, smallest numbers, multiples.
      measure: how elements are evaluated.
      importance_decay: of the moving average.
      strategy: what turns ratios (its parameters) and importance into masks.
      ratio_schedule: "cosine" lets Adam's rate on the ratios fall from twice `strategy.rate` / (steps after warm-up) to
        0, so that they settle while the target stands still; "constant" is the paper's, at the mean of that.
        None becomes the strategy's own.
      ratio_together: share in [0, 1) of that rate at which the ratios of widths and heads move together; at the rest
        each moves by itself, and depth at all of it (`ratio_optimizer.adam_together`). 0 is the paper's, None becomes
        the strategy's own.
      ratio_optimizer: instead of Adam at that rate, without weight decay.
      weight: None balances the resource gradient against the task gradient and lets w follow the miss; a number is the
        paper's plain w * log(r / r_t).
      fold: multiply masks into parameters where possible; False runs every mask on activations (the reference).
      accumulate: parts that a batch passes in, one after another (see `dms_jax.gradients`).

    Attributes:
      targets: {resource: int} the budgets in absolute numbers.
      layout: the groups end to end, as the strategy sees them.

    Raises:
      UserError: a budget that cannot be met, or patterns that match nothing.
    """

    space: SearchSpace
    loss: Loss
    optimizer: optax.GradientTransformation | None
    budget: Mapping[str, float]
    schedule: Schedule
    limits: Limits = field(default_factory=Limits)
    measure: Measure = evaluation.taylor
    importance_decay: float = 0.99
    strategy: Strategy = DMS()
    ratio_schedule: Literal["cosine", "constant"] | None = None
    ratio_together: float | None = None
    ratio_optimizer: optax.GradientTransformation | None = None
    weight: float | None = None
    fold: bool = True
    accumulate: int = 1
    targets: dict[str, int] = field(init=False)
    layout: Layout = field(init=False)
    _folding: SearchSpace = field(init=False)

    def __post_init__(self):
        unknown = set(self.budget) - set(self.space.costs)
        if unknown or not self.budget:
            raise UserError(
                f"budget on {sorted(unknown) or 'nothing'}: give one on {' or '.join(self.space.costs)}, or both"
            )
        full, least = self.space.resources(), projection.smallest(self.space, self.limits)
        title = self.space.title
        targets = {name: resources.budget(name, x, full[name], least[name], title) for name, x in self.budget.items()}
        object.__setattr__(self, "targets", targets)
        if self.ratio_schedule is None:
            object.__setattr__(self, "ratio_schedule", self.strategy.schedule)
        if self.ratio_together is None:
            object.__setattr__(self, "ratio_together", self.strategy.together)
        object.__setattr__(self, "layout", Layout.of(self.space, self.limits))
        if self.ratio_optimizer is None:
            object.__setattr__(self, "ratio_optimizer", self._usual_ratio_optimizer())
        object.__setattr__(self, "_folding", self.space.folding_reads() if self.strategy.zeros else self.space)

    # --- state ---

    def init(self, variables: Mapping[str, Any]) -> SearchState:
        """The state before the first step: ratios open, importance zero.

        Args:
          variables: the supernet's variables, random or pretrained; "masks" is ignored.
        """
        params = variables["params"]
        ratios = self.strategy.init(self.layout)
        return SearchState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            model_state={name: tree for name, tree in variables.items() if name not in ("params", "masks")},
            opt_state=self.optimizer.init(params) if self.optimizer else (),
            ratios=ratios,
            ratio_opt_state=self._ratio_optimizer.init(ratios),
            importance={name: jnp.zeros((group.size,), jnp.float32) for name, group in self.space.groups.items()},
            task_norm=jnp.zeros((), jnp.float32),
            weights={
                name: jnp.asarray(1.0 if self.weight is None else self.weight, jnp.float32) for name in self.targets
            },
        )

    def masks(self, state: SearchState) -> dict[str, jax.Array]:
        """The masks of a state, {group: [N]}, without noise."""
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
        c, frozen = self.layout, self._frozen(step)
        soft = self.strategy.masks(c, ratios, self._context(importance, step, key))
        soft = jnp.where(c.fixed[c.of_element], 1.0, soft)
        hard = jax.lax.stop_gradient(self.strategy.kept(c, soft))
        return jnp.where(frozen[c.of_element], hard, soft)

    def _context(self, importance: jax.Array, step: jax.Array, key: jax.Array | None = None) -> Context:
        quiet = self._frozen(step) | (step < self.schedule.warmup)
        return Context(importance, self.goals(step), key, quiet)

    def goals(self, step: jax.Array) -> dict[str, jax.Array]:
        """Where the targets stand at a step, as fractions of the full network."""
        full, since = self.space.resources(), step - self.schedule.warmup
        decay = self.schedule.decay * self.schedule.active
        return {name: resources.target(since, most / full[name], decay) for name, most in self.targets.items()}

    # --- one step ---

    def step(self, state: SearchState, batch: Any, key: jax.Array) -> tuple[SearchState, dict[str, Any]]:
        """One step. Jit it with `donate_argnums=0`; it compiles once per search.

        Args:
          state: the state before.
          batch: whatever `loss` takes.
          key: the search's key; the step's own is `fold_in(key, step)`, and the strategy's is folded from that.

        Returns:
          The next state, and metrics: "loss"; per resource r "r" and "r_target" (fractions of the full network),
          "weight_r"; "importance_skipped"; and what `loss` returned.
        """
        c, key = self.layout, jax.random.fold_in(key, state.step)
        importance = self.space.flat(state.importance)
        noise = jax.random.fold_in(key, NOISE)
        masks, pull = jax.vjp(lambda ratios: self.flat_masks(ratios, importance, state.step, noise), state.ratios)
        task = partial(self._task, one=jnp.where(state.step < 0, 2.0, 1.0))
        (loss, (changed, metrics)), (g_params, g_masks) = value_and_grad(task, (0, 1), self.accumulate)(
            state.params, masks, state.model_state, batch, key
        )
        learning = ~self._frozen(state.step) & ~c.fixed
        score = self.measure(self._evidence(masks, g_masks, state.params))
        importance, skipped = evaluation.update(
            importance, score, c.segments, learning, decay=self.importance_decay, across=self.strategy.across
        )
        (g_task,) = pull(g_masks)
        g_ratios, balance, report = self._balance(state, masks, pull, g_task)
        ratios, ratio_opt_state = self._move_ratios(state, g_ratios, learning)
        params, opt_state = self._move_params(state, g_params)
        new = SearchState(
            step=state.step + 1,
            params=params,
            model_state={**state.model_state, **changed},
            opt_state=opt_state,
            ratios=ratios,
            ratio_opt_state=ratio_opt_state,
            importance=self.space.by_group(importance),
            **balance,
        )
        return new, {**metrics, "loss": loss, **report, "importance_skipped": skipped}

    def _task(
        self, params: Any, masks: jax.Array, model_state: dict[str, Any], batch: Any, key: jax.Array, one: jax.Array
    ):
        # XLA's CPU backend would cut a group's masks out of the flat ones within every loop that reads them, so that
        # layers alike are no longer alike to it: a Llama of six layers compiles in 17 seconds instead of 11. It does
        # not repeat a division, and cannot know that this one is by 1.
        collection = jax.tree.map(lambda mask: mask / one, self.space.collection(masks))
        if self.fold:
            params, collection = self._folding.fold(params, collection)
        return self.loss({"params": params, "masks": collection, **model_state}, batch, key)

    def _evidence(self, masks: jax.Array, gradient: jax.Array, params: Any) -> Evidence:
        magnitude = self.space.flat(self.space.magnitudes(params))  # dead code, and removed, where no measure reads it
        judged = jnp.ones_like(masks) if self.strategy.zeros else masks
        return Evidence(judged, gradient.astype(jnp.float32), magnitude, jnp.asarray(self.layout.position))

    def _balance(self, state: SearchState, masks: jax.Array, pull: Any, g_task: Any):
        """The gradient on the ratios: task plus resources, and the balance and metrics that go with it."""
        active = state.step >= self.schedule.warmup
        norm = _norm(g_task)
        average = jnp.where(state.task_norm == 0, norm, 0.9 * state.task_norm + 0.1 * norm)
        task_norm = jnp.where(active & jnp.isfinite(norm), average, state.task_norm)
        kept = self.strategy.kept(self.layout, masks)
        fractions, to_masks = jax.vjp(lambda m: self.space.fractions(resources.straight_through(m, kept)), masks)
        total, weights, report = g_task, {}, {}
        for name, goal in self.goals(state.step).items():
            fraction, w = fractions[name], state.weights[name]
            slope = jax.grad(resources.excess)(fraction, goal)
            cotangent = {other: slope if other == name else jnp.zeros_like(slope) for other in fractions}
            (g,) = pull(*to_masks(cotangent))
            scale = 1.0 if self.weight is not None else task_norm / jnp.maximum(_norm(g), 1e-20)
            total = jax.tree.map(lambda t, x, by=w * scale: t + by * x, total, g)
            follow = active & (self.weight is None)
            weights[name] = jnp.where(follow, resources.next_weight(w, fraction, goal), w)
            report |= {name: fraction, f"{name}_target": goal, f"weight_{name}": w}
        return total, {"task_norm": task_norm, "weights": weights}, report

    def _move_ratios(self, state: SearchState, gradient: Any, learning: jax.Array):
        c = self.layout
        updates: Any
        updates, opt_state = self._ratio_optimizer.update(gradient, state.ratio_opt_state, state.ratios)
        ratios = self.strategy.clip(c, optax.apply_updates(state.ratios, updates))
        # a gradient that is not finite would stay in the ratios and their optimiser for good
        active = (state.step >= self.schedule.warmup) & jnp.all(jnp.isfinite(ravel_pytree(gradient)[0]))
        opt_state = jax.tree.map(lambda new, old: jnp.where(active, new, old), opt_state, state.ratio_opt_state)

        def moved(new: jax.Array, old: jax.Array, owner: np.ndarray) -> jax.Array:
            free = (active & learning[owner]).reshape(-1, *[1] * (new.ndim - 1))
            return jnp.where(free, new, old)

        return jax.tree.map(moved, ratios, state.ratios, self.strategy.owners(c)), opt_state

    def _move_params(self, state: SearchState, gradient: Any):
        if self.optimizer is None:
            return state.params, state.opt_state
        updates, opt_state = self.optimizer.update(gradient, state.opt_state, state.params)
        return optax.apply_updates(state.params, updates), opt_state

    def _frozen(self, step: jax.Array) -> jax.Array:
        """`[groups]` bool: depth and heads while refining."""
        refining = step >= self.schedule.steps - self.schedule.refine * self.schedule.active
        return refining & self.layout.coarse

    def _usual_ratio_optimizer(self) -> optax.GradientTransformation:
        """Adam, with what widths and heads have in common apart where they move together."""
        share, c = self.ratio_together or 0.0, self.layout
        if not 0 <= share < 1:
            raise UserError(f"ratio_together {share} is not possible; give a share of at least 0 and below 1")
        if not share:
            return optax.adam(self._ratio_rate())
        if not self.strategy.ratios:
            raise UserError(f"{self.strategy.title} has no ratios that could move together; leave ratio_together out")
        depth = np.array([group.kind == "depth" for group in self.space.groups.values()])
        return adam_together(self._ratio_rate(), share, c.per_ratio(~depth & ~c.fixed))

    def _ratio_rate(self) -> optax.Schedule | float:
        """By the steps after the warm-up, which alone count for the ratios' optimiser."""
        rate = self.strategy.rate / self.schedule.active
        if self.ratio_schedule not in ("cosine", "constant"):
            raise UserError(f"ratio_schedule {self.ratio_schedule!r} is not possible; give 'cosine' or 'constant'")
        return optax.cosine_decay_schedule(2 * rate, self.schedule.active) if self.ratio_schedule == "cosine" else rate

    @property
    def _ratio_optimizer(self) -> optax.GradientTransformation:
        assert self.ratio_optimizer is not None
        return self.ratio_optimizer

    # --- the result ---

    def structure(self, state: SearchState, model: Mapping[str, Any] | None = None) -> Structure:
        """Project the ratios onto the budget: never above it, within one element's cost below it.

        Args:
          state: any state of this search; ready before its end, too.
          model: {"name", "arguments"} to write into the structure.
        """
        context = self._context(self.space.flat(state.importance), state.step)
        found = self.strategy.decide(self.layout, state.ratios, context)
        by_name = {n: float(a) for names, a in zip(self.space.counted, found.ratios, strict=True) for n in names}
        pieces = np.split(found.ranking, np.cumsum(self.layout.size)[:-1])
        ranking = dict(zip(self.space.groups, pieces, strict=True))
        kept = projection.project(
            self.space, by_name, ranking, self.targets, self.limits, hold=not self.strategy.across
        )
        return self.space.structure(kept, model)


def _norm(gradient: Any) -> jax.Array:
    """The Euclidean norm over all leaves."""
    return jnp.linalg.norm(ravel_pytree(gradient)[0])
