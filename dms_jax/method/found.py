"""What a search found: one structure within its budget, or a nested family of several sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dms_jax.budgets.amounts import Given
from dms_jax.errors import UserError
from dms_jax.method import correction, projection, refusals
from dms_jax.method.state import SearchState
from dms_jax.reading import shown
from dms_jax.structure import Structure

if TYPE_CHECKING:
    from dms_jax.method.search import Search


def reached(search: Search, state: SearchState) -> dict[str, float]:
    """The resources of what the masks keep, as fractions of the full network's: before any projection."""
    refusals.check_state_of(search, state)
    masks = search.flat_masks(state.ratios, search.space.flat(state.importance), state.step)
    fractions = search.space.fractions(search.strategy.kept(search.layout, masks))
    return {name: float(fractions[name]) for name in search.targets}


def structure(
    search: Search,
    state: SearchState,
    targets: Mapping[str, Any],
    model: Mapping[str, Any] | None,
    within: Structure | None = None,
) -> Structure:
    """What the strategy decides, projected onto budgets in absolute numbers, among the elements of a larger structure.

    Raises:
      UserError: as `Search.structure`.
    """
    refusals.check_state_of(search, state)
    space, layout = search.space, search.layout
    refusals.check_finite(state, space.partition(state.params)[0])
    by_name, ranking = _decided(search, state)
    how = {"hold": not search.strategy.across, "within": None if within is None else within.kept}
    found = space.structure(projection.project(space, by_name, ranking, targets, search.limits, **how), model)
    if search.strategy.uses_importance and state.step >= search.schedule.steps:
        uninformative = np.asarray(layout.uninformative(space.flat(state.importance)))
        refusals.check_informed(found, layout.names(uninformative), search.schedule.steps)
    return found


def shallower(search: Search, state: SearchState, found: Structure, model: Mapping[str, Any] | None) -> list[Structure]:
    """The same search projected again without the weakest block that a structure kept: what it cost goes to the rest.

    One structure; none where no block may go, or nothing without it meets the budget.
    """
    space, ranking = search.space, _decided(search, state)[1]
    allowed = search.limits.counts(space)
    kept = {name: found.kept[name] for name, group in space.groups.items() if group.rules.gates}
    able = {name: blocks for name, blocks in kept.items() if blocks and min(allowed[name]) < len(blocks)}
    if not able:
        return []
    _, weakest, name = min((float(ranking[name][i]), i, name) for name, blocks in able.items() for i in blocks)
    within = {name: tuple(range(group.size)) for name, group in space.groups.items()} | kept
    within[name] = tuple(i for i in kept[name] if i != weakest)
    try:
        return [structure(search, state, search.targets, model, space.structure(within))]
    except UserError:
        return []


def _decided(search: Search, state: SearchState) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """What the strategy decides of every group: its pruning ratio, and the ranking of its elements."""
    space, layout = search.space, search.layout
    context = search.context(space.flat(state.importance), state.step)
    decision = search.strategy.decide(layout, state.ratios, context)
    by_name = {n: float(a) for names, a in zip(space.counted, decision.ratios, strict=True) for n in names}
    return by_name, dict(zip(space.groups, np.split(decision.ranking, np.cumsum(layout.size)[:-1]), strict=True))


def structures(
    search: Search,
    state: SearchState,
    budgets: Sequence[Mapping[str, Given]],
    model: Mapping[str, Any] | None,
) -> list[Structure]:
    """A nested family: elements sorted once, and every smaller structure among the elements of the next larger one.

    Raises:
      UserError: as `Search.structures`.
    """
    refusals.check_state_of(search, state)
    wanted = [targets(search, budget) for budget in checked(search, budgets)]
    order = sorted(range(len(wanted)), key=lambda i: tuple(wanted[i].values()), reverse=True)
    for i, j in zip(order, order[1:], strict=False):
        worse = next((name for name, most in wanted[j].items() if most > wanted[i][name]), None)
        if worse is not None:
            raise UserError(
                f"budgets {dict(budgets[i])} and {dict(budgets[j])}: neither is the smaller one; let every budget of a "
                "smaller network be at most that of a larger one"
            )
    found: dict[int, Structure] = {}
    within = None
    for i in order:
        found[i] = within = structure(search, state, wanted[i], model, within)
    return [found[i] for i in range(len(wanted))]


def targets(search: Search, budget: Mapping[str, Given]) -> dict[str, Any]:
    """A budget in absolute numbers; what it does not name is bounded as in the search."""
    return correction.targets(search.space, {**search.budget, **budget}, search.limits)


def checked(search: Search, budgets: Sequence[Mapping[str, Given]]) -> Sequence[Mapping[str, Given]]:
    """Budgets of several sizes, each on what the search is on.

    Raises:
      UserError: something else.
    """
    several = isinstance(budgets, Sequence) and not isinstance(budgets, str | bytes) and len(budgets) > 0
    if not several or any(not isinstance(budget, Mapping) or not budget for budget in budgets):
        raise UserError(f'budgets {shown(budgets)} are not possible; give [{{"macs": 0.5}}, {{"macs": 0.25}}], say')
    strange = next((name for budget in budgets for name in budget if name not in search.budget), None)
    if strange is not None:
        raise UserError(
            f"budget on {shown(strange)}, and the search was on {' and '.join(search.budget)}: its sizes differ in that"
        )
    return budgets
