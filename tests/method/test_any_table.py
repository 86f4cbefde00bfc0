"""Resources that are no sums of what elements cost: tables that fall, largest parts, blocks whose width decides."""

import functools

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import strategies as st

from dms_jax import Resource, Search, SearchSpace, baselines
from dms_jax.errors import UserError
from dms_jax.method.limits import Limits
from dms_jax.method.problem import smallest
from dms_jax.method.projection import project

WIDTHS = {"stem": 8, "blocks/0": 12, "blocks/1": 12, "blocks/2": 12}


@functools.cache
def space():
    """A stem and three residual blocks that may go."""
    draw = np.random.default_rng(0)
    weight = lambda *shape: jnp.asarray(draw.normal(size=shape), jnp.float32)  # noqa: E731
    params = {
        "stem": weight(5, 8),
        "blocks": [{"u": weight(8, 12), "d": weight(12, 8)} for _ in range(3)],
        "out": weight(8, 3),
    }

    def fn(p, x):
        x = jnp.tanh(x @ p["stem"])
        for block in p["blocks"]:
            x = x + jax.nn.relu(x @ block["u"]) @ block["d"]
        return x @ p["out"]

    return SearchSpace.from_function(fn, params, jnp.ones((1, 5)))


def sized(counts):
    return space().resources({name: tuple(range(n)) for name, n in counts.items()})


def largest(rng):
    return lambda kept: 4.0 * max(n for name, n in kept.items() if name != "blocks/depth")


def lanes(rng):
    wide = int(rng.integers(2, 7))
    return lambda kept: float(sum(-(-n // wide) for n in kept.values()))


def misaligned(rng):
    """Widths that fill no whole lanes take longer than the next that do."""
    wide, extra = int(rng.integers(2, 7)), float(rng.uniform(0, 12))
    return lambda kept: 1 + sum(-(-n // wide) * wide + extra * (n % wide > 0) for n in kept.values())


def any_sum(rng):
    """A table of each group by itself, as it comes."""
    tables = {name: rng.uniform(0, 10, group.size + 1) for name, group in space().groups.items()}
    return lambda kept: 0.1 + sum(float(tables[name][n]) for name, n in kept.items())


def any_table(rng):
    """No order in it at all."""
    salt = int(rng.integers(2**31))
    return lambda kept: 1.0 + hash((salt, *kept.values())) % 97


def product(rng):
    return lambda kept: 1.0 + kept["stem"] * max(kept["blocks/0"], kept["blocks/1"]) + 20.0 * (kept["blocks/2"] % 3)


KINDS = (largest, lanes, misaligned, any_sum, any_table, product)


@hypothesis.settings(max_examples=150, deadline=None)
@hypothesis.given(st.sampled_from(KINDS), st.integers(0, 2**16), st.floats(0.05, 1.0), st.booleans())
def test_no_structure_is_above_its_budget(kind, seed, share, both):
    rng = np.random.default_rng(seed)
    some = space().with_resources(Resource("own", "u", kind(rng)))
    budget = {"own": share * some.resources()["own"]} | ({"macs": rng.uniform(0.3, 1.0) * 400} if both else {})
    ratios = {name: float(rng.uniform(0, 1)) for name in some.groups}
    ranking = {name: rng.uniform(size=group.size) for name, group in some.groups.items()}
    try:
        kept = project(some, ratios, ranking, budget)
    except UserError as error:
        assert "\n" not in str(error) and ("no structure has at most" in str(error) or "are above" in str(error))
        return
    found = some.resources(kept)
    assert all(found[name] <= most for name, most in budget.items())


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(st.sampled_from(KINDS), st.integers(0, 2**16), st.floats(0.05, 1.0))
def test_controls_are_within_it_too(kind, seed, share):
    rng = np.random.default_rng(seed)
    some = space().with_resources(Resource("own", "u", kind(rng)))
    budget = {"own": share * some.resources()["own"]}
    ranking = {name: rng.uniform(size=group.size) for name, group in some.groups.items()}
    for control in (
        lambda: baselines.uniform(some, ranking, budget),
        lambda: baselines.uniform(some, ranking, budget, blocks="same"),
        lambda: baselines.uniform(some, ranking, budget, blocks=0.6),
        lambda: baselines.threshold(some, ranking, budget),
        lambda: baselines.knapsack(some, ranking, budget),
        lambda: baselines.random(some, budget, seed=seed),
    ):
        try:
            assert some.resources(control())["own"] <= budget["own"]
        except UserError as error:
            assert "\n" not in str(error)


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(st.sampled_from((lanes, misaligned, any_sum)), st.integers(0, 2**16))
def test_what_a_sum_over_groups_can_reach_is_reached(kind, seed):
    """The smallest value that is said is that of the best number of every group, and a budget of it is met."""
    rng = np.random.default_rng(seed)
    function = kind(rng)
    own = Resource("own", "u", function)
    some = space().with_resources(own)
    full = {name: group.size for name, group in some.groups.items()}
    best = dict(full, **{"blocks/depth": 3})
    for name, group in some.groups.items():
        if name != "blocks/depth":
            best[name] = min(range(group.least, group.size + 1), key=lambda n, name=name: function(best | {name: n}))
    held = Limits(freeze=("blocks/depth",))  # without a block its elements are not there
    least = smallest(some, held, ["own"])["own"]
    assert least == pytest.approx(function(best))
    ratios = {name: float(rng.uniform(0, 1)) for name in some.groups}
    ranking = {name: rng.uniform(size=group.size) for name, group in some.groups.items()}
    assert some.resources(project(some, ratios, ranking, {"own": least}, held))["own"] <= least


def test_a_search_reaches_what_more_elements_make_cheaper():
    """Refused before: "below 15, the smallest reachable", which is what one element costs."""
    table = lambda kept: -(-kept["stem"] // 8) * 8 + 6.0 * (kept["stem"] % 8 > 0) + 1 + 2 * kept["blocks/depth"]  # noqa: E731
    some = space().with_resources(Resource("energy", "mJ", table))
    search = Search(
        some, lambda p, b, k: jnp.mean((some.fn(p, b) - 1) ** 2), optax.adam(1e-3), {"energy": "10 mJ"}, steps=4
    )
    state, step = search.init(some.source.params), jax.jit(search.step)
    for i in range(4):
        state, _ = step(state, jnp.ones((2, 5)), jax.random.key(i))
    structure = search.structure(state)
    assert len(some.kept(structure)["stem"]) == 8 and some.resources(structure)["energy"] <= 10


def test_the_smallest_that_is_measured_is_of_the_cheapest():
    """Refused before: "below 107, the smallest reachable", which is what one element of each takes."""
    table = lambda kept: 1.0 + sum(-(-n // 4) * 4 + 20.0 * (n % 4 > 0) for n in kept.values())  # noqa: E731
    meter = lambda sized: 1.1 * table({name: len(found) for name, found in sized.kept.items()})  # noqa: E731
    some = space().with_resources(Resource("time", "ms", table, measure=meter))
    held = Limits(freeze=("blocks/depth",))
    budget = {"time": 1.1 * (1 + 4 * 4 + 4 + 20)}
    loss = lambda p, b, k: jnp.mean((some.fn(p, b) - 1) ** 2)  # noqa: E731
    search = Search(some, loss, optax.adam(1e-3), {"time": f"{budget['time']} ms"}, steps=4, limits=held)
    assert search.targets == pytest.approx(budget)
    ranking = {name: np.arange(group.size) for name, group in some.groups.items()}
    kept = project(some, dict.fromkeys(some.groups, 0.5), ranking, budget, held)
    assert some.measured(kept)["time"] <= budget["time"] * (1 + 1e-12)


@pytest.mark.parametrize("most", [8.0, 12.0, 24.0, 28.0, 40.0])
def test_what_is_there_is_as_wide_as_the_budget_allows(most):
    """What is free beside narrow blocks need not be free beside wide ones."""
    some = space().with_resources(Resource("peak", "B", largest(None)))
    for seed in range(30):
        rng = np.random.default_rng(seed)
        ratios = {name: float(rng.uniform(0, 1)) for name in some.groups}
        ranking = {name: rng.uniform(size=group.size) for name, group in some.groups.items()}
        kept = project(some, ratios, ranking, {"peak": most})
        assert some.resources(kept)["peak"] == most
        there = [f"blocks/{i}" for i in kept["blocks/depth"]]
        assert all(len(kept[name]) == most // 4 for name in there) and len(kept["stem"]) == min(most // 4, 8)
