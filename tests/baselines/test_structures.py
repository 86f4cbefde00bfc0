"""The global threshold, and structures without a search."""

# Linen's `apply` gives a value or a tuple, options come as dictionaries, and some arguments are wrong on purpose:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportIndexIssue=false, reportOptionalSubscript=false

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dms_jax import SearchSpace, UserError, baselines
from dms_jax.baselines.iterative import thresholded
from dms_jax.baselines.structures import even_ratio
from dms_jax.method.dms import DMS
from dms_jax.method.layout import Layout
from dms_jax.method.problem import Problem
from dms_jax.method.projection import shifted
from tests.baselines.small import LIMITS, Toy, X, context


@pytest.mark.parametrize("goal", [0.2, 0.5, 0.9, 1.0])
def test_the_threshold_is_the_smallest_that_fits(layout, goal):
    c, untied = context(layout, goal=goal), Layout.of(SearchSpace.from_model(Toy(), X[:1]), LIMITS)
    masks = np.asarray(jax.jit(lambda c: thresholded(untied, c, {"macs": jnp.float32(goal)}))(c.importance))
    space, importance = untied.space, np.asarray(c.importance)
    full = space.resources()["macs"]
    cost = {name: full - space.resources({name: tuple(range(1, g.size))})["macs"] for name, g in space.groups.items()}
    worth = importance / np.repeat([cost[name] for name in space.groups], untied.size)
    places = [np.argsort(np.argsort(x)) for x in np.split(importance, np.cumsum(untied.size)[:-1])]
    always = np.concatenate([x >= len(x) - least for x, least in zip(places, untied.least, strict=True)])
    spent = {}
    for t in [*worth, np.inf]:
        mask = ((worth >= t) | always).astype(np.float32)
        spent[t] = float(space.fractions(jnp.asarray(mask))["macs"])
    best = min(t for t, r in spent.items() if r <= goal + 1e-6)
    np.testing.assert_array_equal(masks, (worth >= best) | always)


def test_tied_groups_pool_their_worth(layout):
    masks = layout.space.by_group(thresholded(layout, context(layout).importance, {"macs": jnp.float32(0.4)}))
    assert int(masks["inner0"].sum()) == int(masks["inner1"].sum())


def test_structures_without_a_search(space):
    draw = np.random.default_rng(0)
    ranking = {name: draw.exponential(size=group.size) for name, group in space.groups.items()}
    budget = {"macs": int(0.4 * space.resources()["macs"])}
    found = {
        "uniform": baselines.uniform(space, ranking, budget, LIMITS),
        "threshold": baselines.threshold(space, ranking, budget, LIMITS),
        "random": baselines.random(space, budget, LIMITS, seed=0),
    }
    for structure in found.values():
        assert 0.9 * budget["macs"] < structure.resources["after"]["macs"] <= budget["macs"]
        assert len(structure.kept["inner3"]) == 16 and len(structure.kept["wide"]) >= 5
        assert len(structure.kept["inner0"]) == len(structure.kept["inner1"])
    assert baselines.random(space, budget, LIMITS, seed=0) == found["random"]
    assert baselines.random(space, budget, LIMITS, seed=1) != found["random"]
    valued = {name: c * (100 if name == "wide" else 1) for name, c in ranking.items()}
    assert len(baselines.threshold(space, valued, budget, LIMITS).kept["wide"]) == 40
    with pytest.raises(UserError, match="no structure has at most"):
        baselines.random(space, {"macs": 1}, LIMITS, seed=0)


@settings(max_examples=30, deadline=None)
@given(share=st.floats(0.1, 1.0))
def test_even_ratios_round_to_the_nearest_number_of_elements(space, share):
    most = int(share * space.resources()["macs"])
    ranking = {name: np.arange(group.size) for name, group in space.groups.items()}
    held = {("depth",): 2}
    found = shifted(
        Problem.of(space, ranking, {"macs": most}, None),
        {name: even_ratio(group.size) for name, group in space.groups.items()},
        held,
    )
    sizes = {names: space.groups[names[0]].size for names in space.counted if names not in held}

    def even(x: float) -> dict:  # halves are rounded up, and something stays
        return {names: max(int(np.floor(x * n + 0.5 + 1e-9)), 1) for names, n in sizes.items()} | held

    def macs(counts) -> int:
        return space.resources(
            {name: tuple(range(space.groups[name].size))[-k:] for names, k in counts.items() for name in names}
        )["macs"]

    fitting = [x for n in sizes.values() for j in range(n) if macs(even(x := (j + 0.5) / n)) <= most]
    assert (found is None) == (macs(even(0)) > most)
    if found is not None:
        assert found[0] == even(max(fitting, default=0.0))


def test_by_name():
    assert [type(baselines.create(name)) for name in baselines.strategies()] == [*baselines.strategies().values()]
    assert baselines.create("dms") == DMS(5.0) and baselines.create("single", rate=7.0).rate == 7
    with pytest.raises(UserError, match="unknown strategy 'topk'; there are dms, capped_simplex, dms_raw"):
        baselines.create("topk")
    for rate in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(UserError, match=r"give a number in \(0, inf\)"):
            baselines.create("dms", rate=rate)
