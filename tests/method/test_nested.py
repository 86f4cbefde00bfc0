"""Several sizes of one search: nested, each within its budget, and the largest what one size alone would be."""

# Linen's `apply` gives a value or a tuple:
# pyright: reportArgumentType=false, reportOptionalSubscript=false

import contextlib
from functools import cache

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dms_jax import Limits, Searchable, SearchSpace, UserError, models
from dms_jax.baselines import uniform
from dms_jax.budgets.own import Resource
from dms_jax.method.problem import smallest
from dms_jax.method.projection import project
from tests.method.small import Toy, X, searcher

LANES = 4


@cache
def spaces(name):
    """A toy with blocks, one whose hidden features come in lanes, and a ResNet whose blocks share a count."""
    if name == "resnet20, tied":
        return SearchSpace.from_model(
            models.create("resnet20"), jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32), tie=("stage1/*/mid",)
        )
    toy = SearchSpace.from_model(Toy(), X[:1])
    if name == "toy":
        return toy
    lanes = Resource("lanes", "lanes", lambda kept: float(sum(-(-n // LANES) for n in kept.values())))
    return toy.with_resources(lanes)


NAMES = {"toy": "macs", "lanes": "lanes", "resnet20, tied": "macs"}


@st.composite
def projections(draw):
    """A space, ratios, a ranking with ties and NaN, limits, and shares of what can be reached, in any order."""
    name = draw(st.sampled_from(list(NAMES)))
    space, chance = spaces(name), np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    ratios = {group: a for names in space.counted for a in [float(chance.uniform())] for group in names}
    ranking = {n: chance.integers(0, 4, group.size).astype(np.float32) for n, group in space.groups.items()}
    if draw(st.booleans()):
        ranking[next(iter(ranking))][0] = np.nan
    if draw(st.booleans()):
        ranking = {n: chance.normal(size=len(c)).astype(np.float32) for n, c in ranking.items()}
    limits = Limits(divisible_by={"*": 2}) if draw(st.booleans()) else Limits()
    shares = draw(st.lists(st.floats(0.0, 1.0), min_size=2, max_size=4))
    return space, NAMES[name], ratios, ranking, limits, shares


@settings(max_examples=60)
@given(projections(), st.booleans())
def test_smaller_structures_are_the_best_elements_of_larger_ones_and_within_their_budgets(drawn, hold):
    space, resource, ratios, ranking, limits, shares = drawn
    least, full = smallest(space, limits, [resource])[resource], space.resources()[resource]
    within = None
    for share in sorted(shares, reverse=True):
        most = int(least + share * (full - least))
        budget = {resource: max(most, least)}
        kept = project(space, ratios, ranking, budget, limits, hold=hold, within=within)
        assert space.resources(kept)[resource] <= budget[resource]
        counts = limits.counts(space)
        assert all(len(kept[name]) in counts[name] for name in space.groups)
        assert all(len({len(kept[name]) for name in names}) == 1 for names in space.counted)
        alone = project(space, ratios, ranking, budget, limits, hold=hold)
        if within is None:
            assert kept == alone
        else:
            assert all(set(kept[name]) <= set(within[name]) for name in space.groups)
        for name, elements in kept.items():  # a prefix of the elements sorted once
            order = np.argsort(np.where(np.isnan(ranking[name]), -np.inf, ranking[name]), kind="stable")[::-1]
            assert set(elements) == set(order[: len(elements)].tolist())
        within = kept


@settings(max_examples=30)
@given(projections(), st.integers(0, 2**32 - 1))
def test_within_any_network_only_its_elements_are_kept(drawn, seed):
    """Not only within one that was found by the same ranking."""
    space, resource, ratios, ranking, _, shares = drawn
    chance, least = np.random.default_rng(seed), smallest(space, Limits(), [resource])[resource]
    larger = {}
    for names in space.counted:
        count = int(chance.integers(max(space.groups[names[0]].least, 1), space.groups[names[0]].size + 1))
        for name in names:
            larger[name] = tuple(sorted(chance.choice(space.groups[name].size, count, replace=False).tolist()))
    budget = {resource: max(least, int(shares[0] * space.resources()[resource]))}
    kept = project(space, ratios, ranking, budget, within=larger)
    assert space.resources(kept)[resource] <= budget[resource]
    assert all(set(kept[name]) <= set(larger[name]) for name in space.groups)
    for name, elements in kept.items():
        inside = sorted((i for i in larger[name]), key=lambda i, c=ranking[name]: (np.nan_to_num(c[i], nan=-1e9), i))
        assert set(elements) == set(inside[len(inside) - len(elements) :])


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), share=st.floats(0.3, 0.9))
def test_what_is_measured_grows_inside_the_larger_network(seed, share):
    """Sizes that are slow or fast by chance leave much of the budget to candidates moved at once."""
    chance = np.random.default_rng(seed)

    def predicted(kept):
        return float(sum(kept.values()) ** 2)

    def truth(network):
        kept = {name: len(indices) for name, indices in network.kept.items()}
        return predicted(kept) * np.exp(np.random.default_rng((seed, *kept.values())).uniform(-0.4, 0.4))

    space = spaces("toy").with_resources(Resource("work", "ops", predicted, measure=truth))
    larger = {
        n: tuple(sorted(chance.permutation(g.size)[: (g.size + 1) // 2].tolist())) for n, g in space.groups.items()
    }
    ranking = {name: chance.normal(size=group.size) for name, group in space.groups.items()}
    most = share * space.measured(larger)["work"]
    ratios = dict.fromkeys(space.groups, 0.5)
    try:
        found = [project(space, ratios, ranking, {"work": most}, within=larger)]
    except UserError:  # none of the candidates was fast enough
        return
    with contextlib.suppress(UserError):
        control = uniform(space, ranking, {"work": most}, within=space.structure(larger))
        found.append(space.kept(control))
    for kept in found:
        assert space.measured(kept)["work"] <= most
        assert all(set(kept[name]) <= set(larger[name]) for name in space.groups)


def test_a_search_gives_one_structure_a_budget_in_their_order(usual):
    search, states, _ = usual
    budgets = [{"macs": 0.5}, {"macs": 0.9}, {"macs": 0.4}]
    found = search.structures(states[-1], budgets)
    full = search.space.resources()["macs"]
    assert found[2].resources is not None and found[1].resources is not None
    for structure, budget in zip(found, budgets, strict=True):
        assert structure.resources["after"]["macs"] <= budget["macs"] * full
    assert all(set(found[2].kept[n]) <= set(found[0].kept[n]) <= set(found[1].kept[n]) for n in search.space.groups)
    assert search.structures(states[-1], [{"macs": 0.4}]) == [search.structure(states[-1])]
    named = search.structures(states[-1], budgets, {"name": "toy", "arguments": {}})
    assert [one.model["name"] for one in named] == ["toy"] * 3 and named == found


def test_what_a_budget_does_not_name_holds_for_every_size(space, variables):
    search = searcher(space, budget={"macs": 0.4, "params": 0.5})
    large, small = search.structures(search.init(variables), [{"macs": 0.95}, {"macs": 0.4}])
    most = 0.5 * space.resources()["params"]
    assert max(one.resources["after"]["params"] for one in (large, small)) <= most


@pytest.mark.parametrize(
    ("budgets", "message"),
    [
        ({"macs": 0.5}, "budgets .* are not possible; give"),
        ([], "are not possible"),
        ([0.5, 0.25], "are not possible"),
        ([{"macs": 0.5}, {}], "are not possible"),
        ([{"bytes": 0.5}], "budget on 'bytes', and the search was on macs"),
        ([{"macs": 0.5}, {"macs": 1e-9}], "below .* the smallest reachable"),
        ([{"macs": "0.5 kg"}], "unknown unit"),
    ],
)
def test_other_budgets_are_refused_in_one_line(usual, budgets, message):
    search, states, _ = usual
    with pytest.raises(UserError, match=message) as error:
        search.structures(states[-1], budgets)
    assert "\n" not in str(error.value)


def test_budgets_that_cross_are_refused(space, variables):
    search = searcher(space, budget={"macs": 0.4, "params": 0.4})
    crossing = [{"macs": 0.5, "params": 0.6}, {"macs": 0.6, "params": 0.5}]
    with pytest.raises(UserError, match="neither is the smaller one"):
        search.structures(search.init(variables), crossing)


def test_a_larger_network_outside_of_the_limits_is_refused(space):
    ranking = {name: np.arange(group.size) for name, group in space.groups.items()}
    larger = {name: tuple(range(group.size)) for name, group in space.groups.items()} | {"wide": (0, 1)}
    with pytest.raises(UserError, match="keeps 2 of 'wide', fewer than the limits allow"):
        how = {"limits": Limits(min_size={"wide": 4}), "within": larger}
        project(space, dict.fromkeys(space.groups, 0.5), ranking, {"macs": 60}, **how)


class Uneven(Searchable):
    """Two removable blocks, of 2 and of 9 hidden features."""

    @nn.compact
    def __call__(self, x):
        depth, wide = self.elements("depth", 2), self.elements("wide", 3)
        for i in depth.kept:
            y = nn.Dense((2, 9)[i], use_bias=False, name=f"up{i}")(x)
            x = x + depth.gate(i) * nn.Dense(4, use_bias=False, name=f"down{i}")(y)
        return nn.Dense(1, use_bias=False, name="out")(wide(nn.Dense(wide.size, use_bias=False, name="in")(x)))


def test_where_the_best_block_alone_is_above_the_budget_that_is_said():
    space = SearchSpace.from_model(Uneven(), jnp.ones((1, 4)))
    ranking = {name: np.arange(group.size) for name, group in space.groups.items()}
    with pytest.raises(UserError, match="the best ones, are above 30 macs; ask for more"):
        project(space, dict.fromkeys(space.groups, 0.5), ranking, {"macs": 30}, Limits(min_size={"depth": 1}))
