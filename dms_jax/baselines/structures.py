"""Structures that no search found: the same ratio everywhere, one threshold, and chance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import jax.numpy as jnp
import numpy as np

from dms_jax import topk
from dms_jax.baselines.iterative import thresholded
from dms_jax.errors import UserError
from dms_jax.method.correction import corrected
from dms_jax.method.layout import Layout
from dms_jax.method.limits import Limits
from dms_jax.method.problem import Counts, Problem
from dms_jax.method.projection import ATTEMPTS, growing, nearest, project, shifted
from dms_jax.space import SearchSpace
from dms_jax.structure import Structure

Blocks: TypeAlias = float | Literal["most", "same"]


def uniform(
    space: SearchSpace,
    ranking: Mapping[str, Any],
    budget: Mapping[str, int],
    limits: Limits | None = None,
    *,
    blocks: Blocks = "most",
    within: Structure | None = None,
) -> Structure:
    """The control: the same keep ratio in every width and head group under the same budget.

    How many blocks stay is settled first, the same share of every stage; the widths have one ratio after that, the
    largest under the budget at which every number of elements is the nearest one. What is left of the budget buys
    single elements, the ones of most importance per cost first, and no further block.

    Args:
      space: the search space.
      ranking: {group: [N]} which elements stay; `space.magnitudes(params)`, say.
      budget: {"macs": int, "params": int}, either or both; `search.targets`.
      limits: groups to leave alone, smallest numbers, multiples.
      blocks: "most", all blocks, or as many as fit; "same", the keep ratio of the widths, as nearly as whole blocks
        allow; or the share that stays, in (0, 1].
      within: a larger network, of which elements stay: a control of several sizes is nested, too.

    Raises:
      UserError: the smallest structure within the limits, or with that share of blocks, is above the budget; `blocks`
        is none of these.
    """
    if blocks not in ("most", "same") and not (isinstance(blocks, float | int) and 0 < blocks <= 1):
        raise UserError(f'blocks={blocks!r}: give "most", "same", or a share above 0 and at most 1')
    worth, larger = {name: np.asarray(x) for name, x in ranking.items()}, None if within is None else space.kept(within)

    def predicted(budget: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        return _even(Problem.of(space, worth, budget, limits, larger), blocks)

    grow = growing(space, worth, limits, larger, blocks=False)
    return space.structure(corrected(space, budget, limits, predicted, grow))


def _even(problem: Problem, blocks: Blocks) -> dict[str, tuple[int, ...]]:
    """Kept elements of every group, under the budget as it is predicted."""
    even = {name: even_ratio(group.size) for name, group in problem.space.groups.items()}
    fitting = (
        (abs(_share_of_widths(problem, found[0]) - share), held)
        for share, held in _depths(problem, None if isinstance(blocks, str) else blocks).items()
        if (found := shifted(problem, even, held)) is not None
    )
    chosen = min(fitting, key=lambda one: one[0], default=None) if blocks == "same" else next(fitting, None)
    if chosen is None and not isinstance(blocks, str):
        raise UserError(f"no structure with a share of {blocks} of its blocks is within the budget; give a smaller one")
    held = problem if chosen is None else problem.holding(chosen[1])  # at no depth one ratio for all, on some tables
    return problem.kept(nearest(held, even, ATTEMPTS))


def even_ratio(size: int) -> float:
    """A pruning ratio that keeps half of the elements, and moved by x the number that is nearest to (0.5 - x) N.

    The same ratio for all would round every number down, which costs a group of three elements up to a third of them
    and one of 100 not a hundredth: the control would have fewer heads than its ratio says.
    """
    return 0.5 + (float(topk.lowest_fraction(size)) - 0.5) / size


def _depths(problem: Problem, share: float | None) -> dict[float, Counts]:
    """Share of blocks -> numbers of blocks, from all of them to the fewest there may be, or one share alone."""
    sizes = {names: problem.group(names).size for names in problem.allowed if problem.group(names).rules.gates}
    shares = {k / size for names, size in sizes.items() for k in problem.allowed[names].tolist()} or {1.0}

    def nearest_to(names: Any, number: float) -> int:
        return int(problem.allowed[names][np.argmin(np.abs(problem.allowed[names] - number))])

    return {
        x: {names: nearest_to(names, x * size) for names, size in sizes.items()}
        for x in sorted(shares if share is None else {share}, reverse=True)
    }


def _share_of_widths(problem: Problem, counts: Counts) -> float:
    """The mean share of elements kept, over all but depth groups."""
    groups = {names: problem.group(names) for names in counts}
    kept = [k / groups[names].size for names, k in counts.items() if not groups[names].rules.gates]
    return float(np.mean(kept)) if kept else 1.0


def threshold(
    space: SearchSpace, importance: Mapping[str, Any], budget: Mapping[str, int], limits: Limits | None = None
) -> Structure:
    """One global threshold on importance per cost, as `Iterative` does at every step, once.

    The importance of a pretrained network is `state.importance` after some steps of a search in its warm-up:
    `Search(space, loss, None, budget, Schedule(n, warmup=n - 1))`, which changes no weights.

    Args:
      space: the search space.
      importance: {group: [N]}.
      budget, limits: as in `uniform`.

    Raises:
      UserError: nothing within the limits is under the budget.
    """
    layout, full = Layout.of(space, limits), space.resources()
    flat = space.flat({name: jnp.asarray(c, jnp.float32) for name, c in importance.items()})
    masks = thresholded(layout, flat, {name: jnp.float32(most / full[name]) for name, most in budget.items()})
    ranking = {name: np.asarray(c) for name, c in importance.items()}
    return _projected(space, layout.ratios(layout.counts(masks)), ranking, budget, limits, hold=False)


def random(space: SearchSpace, budget: Mapping[str, int], limits: Limits | None = None, *, seed: int) -> Structure:
    """Numbers of elements and elements drawn by chance, then brought to the budget.

    Pruning ratios are uniform in [0, 1], one for groups that share one; any element is as likely as another.

    Args:
      space: the search space.
      budget, limits: as in `uniform`.
      seed: of everything drawn.

    Raises:
      UserError: nothing within the limits is under the budget.
    """
    draw = np.random.default_rng(seed)
    ratios = draw.uniform(size=len(space.counted))
    ranking = {name: draw.uniform(size=group.size) for name, group in space.groups.items()}
    return _projected(space, ratios, ranking, budget, limits)


def _projected(
    space: SearchSpace,
    ratios: np.ndarray,
    ranking: Mapping[str, np.ndarray],
    budget: Mapping[str, int],
    limits: Limits | None,
    *,
    hold: bool = True,
) -> Structure:
    by_name = {name: float(ratio) for names, ratio in zip(space.counted, ratios, strict=True) for name in names}
    return space.structure(project(space, by_name, ranking, budget, limits, hold=hold))
