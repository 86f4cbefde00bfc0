"""The knapsack by brute force, and the structures it allocates."""

# Linen's `apply` gives a value or a tuple, options come as dictionaries, and some arguments are wrong on purpose:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportIndexIssue=false, reportOptionalSubscript=false

import itertools

import flax.linen as nn
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dms_jax import Limits, Searchable, SearchSpace, UserError, baselines
from dms_jax.baselines.knapsack import allocate
from tests.baselines.small import LIMITS, X

LISTS = st.lists(st.lists(st.tuples(st.integers(-3, 12), st.integers(0, 9)), min_size=1, max_size=4), max_size=4)


@settings(max_examples=150, deadline=None)
@given(lists=LISTS, capacity=st.integers(-8, 40), scale=st.sampled_from([1, 64, 0.1]))
def test_the_allocation_is_the_best_of_all(lists, capacity, scale):
    costs = [np.array([c for c, _ in each]) * scale for each in lists]
    values = [np.array([v for _, v in each], float) for each in lists]
    chosen = allocate(costs, values, capacity * scale)
    ways = list(itertools.product(*(range(len(each)) for each in lists)))
    spent = {way: sum(lists[i][j][0] for i, j in enumerate(way)) for way in ways}
    worth = {way: sum(lists[i][j][1] for i, j in enumerate(way)) for way in ways}
    fitting = [way for way in ways if spent[way] <= capacity]
    if not fitting:
        assert spent[tuple(chosen)] == min(spent.values())
    elif scale != 0.1:
        assert spent[tuple(chosen)] <= capacity and worth[tuple(chosen)] == max(worth[way] for way in fitting)
    else:  # on a grid: never above, and as good as all that leave a cell a list
        room = capacity - min(spent.values())
        clear = [way for way in fitting if spent[way] <= capacity - len(lists) * max(room, 0) / 8192]
        assert spent[tuple(chosen)] <= capacity
        assert worth[tuple(chosen)] >= max((worth[way] for way in clear), default=0)


class Beside(Searchable):
    """Two hidden layers beside each other: MACs are a sum over groups."""

    @nn.compact
    def __call__(self, x):
        a, b = self.elements("a", 6), self.elements("b", 5)
        left = nn.Dense(2, name="left")(a(nn.relu(nn.Dense(a.size, name="up")(x))))
        return left + nn.Dense(2, name="right")(b(nn.relu(nn.Dense(b.size, name="over")(x[:, :3]))))


@pytest.mark.parametrize("share", [0.2, 0.45, 0.7, 1.0])
def test_where_costs_are_a_sum_no_structure_is_worth_more(share):
    space, draw = SearchSpace.from_model(Beside(), X[:1]), np.random.default_rng(3)
    importance = {"a": draw.exponential(size=6), "b": draw.exponential(size=5)}
    most = int(share * space.resources()["macs"])
    best = {name: np.argsort(-c) for name, c in importance.items()}

    def worth(kept):
        return sum(float(importance[name][list(kept[name])].sum()) for name in importance)

    ways = (
        {"a": tuple(sorted(best["a"][:i].tolist())), "b": tuple(sorted(best["b"][:j].tolist()))}
        for i in range(1, 7) for j in range(1, 6)
    )  # fmt: skip
    fitting = [worth(kept) for kept in ways if space.resources(kept)["macs"] <= most]
    found = baselines.knapsack(space, importance, {"macs": most})
    assert found.resources["after"]["macs"] <= most
    assert worth({name: np.asarray(kept) for name, kept in found.kept.items()}) == pytest.approx(max(fitting))


@settings(max_examples=15, deadline=None)
@given(share=st.floats(0.12, 1.0), seed=st.integers(0, 99))
def test_a_knapsack_holds_its_budget_and_limits(space, share, seed):
    draw = np.random.default_rng(seed)
    importance = {name: draw.exponential(size=group.size) for name, group in space.groups.items()}
    budget = {"macs": int(share * space.resources()["macs"])}
    try:
        found = baselines.knapsack(space, importance, budget, LIMITS)
    except UserError:
        with pytest.raises(UserError):
            baselines.threshold(space, importance, budget, LIMITS)
        return
    assert found.resources["after"]["macs"] <= budget["macs"]
    assert len(found.kept["inner3"]) == 16 and len(found.kept["wide"]) >= 5
    assert len(found.kept["inner0"]) == len(found.kept["inner1"])
    for name, kept in found.kept.items():  # of every group the best
        assert set(kept) == set(np.argsort(-importance[name])[: len(kept)].tolist())


def test_a_knapsack_takes_what_is_worth_it(space):
    draw = np.random.default_rng(0)
    ranking = {name: draw.exponential(size=group.size) for name, group in space.groups.items()}
    budget = {"macs": int(0.4 * space.resources()["macs"]), "params": int(0.5 * space.resources()["params"])}
    valued = {name: c * (100 if name == "wide" else 1) for name, c in ranking.items()}
    found = baselines.knapsack(space, valued, budget)
    assert len(found.kept["wide"]) == 40
    assert all(found.resources["after"][name] <= most for name, most in budget.items())
    with pytest.raises(UserError, match="no structure has at most"):
        baselines.knapsack(space, ranking, {"macs": 1}, Limits())


@pytest.mark.parametrize("seed", range(3))
def test_a_knapsack_loses_no_more_than_a_threshold(space, seed):
    """Of the importance of all that is live: what lies in removed blocks is not lost twice."""
    draw = np.random.default_rng(seed)
    importance = {name: draw.exponential(size=group.size) ** 2 for name, group in space.groups.items()}
    budget = {"macs": int(0.3 * space.resources()["macs"])}
    left = []
    for structure in (baselines.knapsack(space, importance, budget), baselines.threshold(space, importance, budget)):
        kept = {n: range(len(c)) if n in structure.removed else structure.kept[n] for n, c in importance.items()}
        left.append(sum(float(c[list(kept[n])].sum()) for n, c in importance.items()))
    assert left[0] >= 0.99 * left[1]
