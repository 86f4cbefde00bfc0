"""A search on its target: what moves the ratios, the shift, and whole searches over drawn networks and budgets."""

# Linen's `apply` gives a value or a tuple, and some arguments are wrong on purpose:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false

import dataclasses

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dms_jax import Schedule, Search, Searchable, SearchSpace, UserError, baselines
from dms_jax.baselines.gradient_estimated import GradientEstimated
from dms_jax.baselines.multiple import MultipleElement
from dms_jax.method import resources, tracking
from dms_jax.method.dms import DMS
from dms_jax.training.results import projection_warnings, unused_warnings
from tests.moved import moved_by

X = jnp.asarray(np.random.default_rng(0).normal(size=(16, 5)), jnp.float32)
Y = jnp.sum(jnp.square(X[:, :2]), axis=-1, keepdims=True)
KEY = jax.random.key(0)


class Blocks(Searchable):
    """Residual blocks of several inner widths behind a stem that may shrink."""

    inner: tuple[int, ...] = (8, 8, 8, 8)
    width: int = 12

    @nn.compact
    def __call__(self, x):
        stream, depth = self.elements("stream", self.width), self.elements("depth", len(self.inner))
        x = nn.Dense(stream.size, name="stem")(x)
        for i in depth.kept:
            hidden = self.elements(f"inner{i}", self.inner[i])
            y = hidden(nn.tanh(nn.Dense(hidden.size, name=f"up{i}")(stream(x))))
            x = x + depth.gate(i) * nn.Dense(stream.size, name=f"down{i}")(y)
        return nn.Dense(1, name="out")(stream(x))


def search_of(model, budget, schedule, strategy, rate=1e-2):
    space = SearchSpace.from_model(model, X[:1])

    def loss(params, batch, key):
        return jnp.mean(jnp.square(model.apply(params, batch[0]) - batch[1]))

    search = Search(space, loss, optax.adam(rate) if rate else None, budget, schedule, strategy=strategy)
    variables = jax.jit(model.init)(jax.random.key(1), X[:1])
    return search, search.init({name: tree for name, tree in variables.items() if name != "masks"})


def run(search, state, steps):
    step, found = jax.jit(chex.assert_max_traces(search.step, n=1)), []
    chex.clear_trace_counter()
    for _ in range(steps):
        state, metrics = step(state, (X, Y), KEY)
        found.append(jax.device_get(metrics))
    return state, found


DRAWN = given(
    inner=st.lists(st.sampled_from((16, 24, 32)), min_size=6, max_size=8).map(tuple),
    width=st.sampled_from((24, 32)),
    macs=st.floats(0.1, 0.9),
    params=st.none() | st.floats(0.15, 0.9),
    steps=st.sampled_from((40, 60, 120)),
    warm=st.booleans(),
    rate=st.sampled_from((0.0, 1e-2)),
    knobs=st.sampled_from(({"rate": 1.0}, {"rate": 20.0}, {"rate": 5.0, "schedule": "constant", "together": 0.8})),
    effects=st.booleans(),
)


@settings(max_examples=6, deadline=None)
@DRAWN
def test_a_search_stays_on_its_target_from_both_sides(inner, width, macs, params, steps, warm, rate, knobs, effects):
    """|log(r / r_t)| of the budget that binds stays below 0.1 after the first tenth, whatever moves the ratios."""
    budget = {"macs": macs} if params is None else {"macs": macs, "params": params}
    warmup = steps // 2 if warm else 0
    strategy = DMS(on_target=True, effects=effects, **knobs)
    search, state = search_of(Blocks(inner, width), budget, Schedule(steps, warmup), strategy, rate)
    state, metrics = run(search, state, steps)
    settled = warmup + max((steps - warmup) // 10, len(inner) + 2)  # no block is judged before all had a turn
    misses = [max(np.log(m[name] / m[f"{name}_target"]) for name in budget) for m in metrics[settled:]]
    assert np.max(np.abs(misses)) < 0.1
    structure = search.structure(state)
    assert not projection_warnings(search, search.reached(state), search.space.resources(structure), {})
    for name, most in search.targets.items():
        assert search.space.resources(structure)[name] <= most


@settings(max_examples=3, deadline=None)
@DRAWN
def test_a_search_with_slack_stays_near_its_target(inner, width, macs, params, steps, warm, rate, knobs, effects):
    """log(r / r_t) leaves the slack by no more than an element of these coarse networks, and ends below 0.1."""
    budget = {"macs": macs} if params is None else {"macs": macs, "params": params}
    schedule = Schedule(steps, steps // 2 if warm else 0)
    search, state = search_of(Blocks(inner, width), budget, schedule, DMS(effects=effects, **knobs), rate)
    state, metrics = run(search, state, steps)
    misses = np.array([max(np.log(m[name] / m[f"{name}_target"]) for name in budget) for m in metrics])
    gone = resources.progress(jnp.arange(steps) - schedule.warmup, schedule.decay_steps)
    limits = np.asarray(tracking.slack(0.7, gone))
    np.testing.assert_allclose([limits[0], limits[-1]], [0.7, 0.09], rtol=1e-5)
    assert np.all(np.abs(misses) <= np.maximum(limits, 0.1) + 1e-5)
    structure = search.structure(state)
    assert not projection_warnings(search, search.reached(state), search.space.resources(structure), {})


@pytest.mark.parametrize("first", [0.7, 0.05, 1.0, 1e30, 1e300, np.inf])
def test_the_slack_narrows_to_what_the_projection_can_mend(first):
    limits = np.asarray(tracking.slack(first, jnp.linspace(0, 1, 50)))
    assert np.all(np.isfinite(limits)) and np.all(np.diff(limits) <= 0)
    np.testing.assert_allclose([limits[0], limits[-1]], [min(first, 1e3), min(first, 0.09)], rtol=1e-5)


def test_within_its_slack_a_search_is_the_one_that_nothing_holds():
    found = []
    for slack in (0.7, np.inf):
        search, state = search_of(Blocks(), {"macs": 0.7}, Schedule(60), DMS(rate=1.0, slack=slack))
        found.append(run(search, state, 60))
    (held, metrics), (loose, others) = found
    misses = np.array([np.log(m["macs"] / m["macs_target"]) for m in others])
    limits = np.asarray(tracking.slack(0.7, resources.progress(jnp.arange(60), Schedule(60).decay_steps)))
    assert np.max(np.abs(misses)) > 0.02 and np.all(np.abs(misses) < limits)  # it moves, and within its slack
    chex.assert_trees_all_close((held, metrics), (loose, others), rtol=1e-4, atol=1e-6)  # two programs, one search


def test_a_search_that_falls_far_below_is_held_by_its_slack_alone():
    for slack, least in ((np.inf, None), (0.7, -0.7), (0.2, -0.2)):
        search, state = search_of(Blocks((24,) * 6, 24), {"macs": 0.4}, Schedule(40), DMS(rate=40.0, slack=slack))
        _, metrics = run(search, state, 40)
        lowest = min(np.log(m["macs"] / m["macs_target"]) for m in metrics)
        assert lowest < -0.8 if least is None else lowest >= least


def test_a_step_without_a_number_moves_no_ratio():
    """Neither the optimizer's part nor the shift, which a shrinking target would ask for."""
    for strategy in (DMS(slack=0.1), DMS(on_target=True)):
        search, state = search_of(Blocks(), {"macs": 0.2}, Schedule(20), strategy)
        step = jax.jit(search.step)
        for _ in range(6):
            state, _ = step(state, (X, Y), KEY)
        before = state.replace(step=jnp.int32(14))  # where the target has long gone on
        after, _ = step(before, (X.at[0].set(jnp.nan), Y), KEY)
        np.testing.assert_array_equal(after.ratios, before.ratios)


def test_it_opens_again_where_it_fell_below_its_target():
    search, state = search_of(Blocks(), {"macs": 0.5}, Schedule(40), DMS(on_target=True, rate=0.1))
    state, _ = run(search, state, 30)
    closed = state.replace(ratios=jnp.minimum(state.ratios + 0.3, 0.9))
    assert search.reached(closed)["macs"] < 0.3
    after, metrics = run(search, closed, 1)
    assert metrics[0]["macs"] < 0.3 and abs(np.log(search.reached(after)["macs"] / metrics[0]["macs_target"])) < 0.1


@pytest.mark.parametrize("name", sorted(baselines.strategies()))
def test_only_who_can_be_held_on_the_target_is_advised_so(name):
    search, _ = search_of(Blocks(), {"macs": 0.5}, Schedule(4), baselines.create(name))
    (line,) = projection_warnings(search, {"macs": 0.7}, {"macs": search.targets["macs"]}, {})
    try:
        dataclasses.replace(search.strategy, on_target=True)
    except UserError:
        assert line.endswith("search longer (more steps)")
    else:
        assert line.endswith("or hold the search on its target (`on_target`)")


def test_the_balanced_search_says_how_far_its_result_had_to_be_moved():
    search, state = search_of(Blocks(), {"macs": 0.5}, Schedule(4), DMS(slack=np.inf))
    state, _ = run(search, state, 4)
    found = search.space.resources(search.structure(state))
    (line,) = projection_warnings(search, search.reached(state), found, {})
    assert "% of the MACs, and the projection gave elements back" in line and "(50.0 % were asked)" in line
    assert "`on_target`" in line
    (line,) = projection_warnings(search, {"macs": 0.7}, found, {})
    assert line.startswith("the search ended at 70.0 % of the MACs, and the projection took more elements")
    assert not projection_warnings(search, {"macs": found["macs"] / search.space.resources()["macs"]}, found, {})
    (line,) = projection_warnings(search, {"macs": 0.7}, found, {"macs": 0.6 * search.space.resources()["macs"]})
    assert "took more elements, as" in line and "% predicted are 60.0 % measured (50.0 % were asked)" in line
    assert line.endswith("or hold the search on its target (`on_target`)")
    # what was predicted was wrong, and the search ended where it was asked to: nothing that more steps would change
    corrected, full = {"macs": 0.4 * search.space.resources()["macs"]}, search.space.resources()["macs"]
    (line,) = projection_warnings(search, {"macs": 0.5}, corrected, {"macs": 0.5 * full})
    assert line.endswith("40.0 % predicted are 50.0 % measured (50.0 % were asked): what it chose is not searched")


@pytest.mark.parametrize("budget", [{"macs": 0.5}, {"macs": 0.5, "params": 0.9}, {"macs": 0.9, "params": 0.5}])
def test_what_moves_the_ratios_is_the_task_and_as_much_of_the_budget_that_binds(budget):
    """g + n d / |d|, with d the gradient of log r on either side of the target, and n the moving norm of g; w stays."""
    kept = optax.GradientTransformation(jnp.zeros_like, lambda g, state, params=None: (jnp.zeros_like(g), g))
    strategy = moved_by(kept, DMS(on_target=True))
    search, state = search_of(Blocks(), budget, Schedule(20, decay=0.5), strategy)
    norm = 0.0
    for _ in range(14):
        before = state
        state, metrics = search.step(before, (X, Y), KEY)
        g, d = both(search, before, max(budget, key=lambda name, m=metrics: m[name] / m[f"{name}_target"]))
        norm = jnp.linalg.norm(g) if norm == 0 else 0.9 * norm + 0.1 * jnp.linalg.norm(g)
        size = jnp.linalg.norm(d)
        expected = g + (norm * d / size if size > 0 else 0.0)
        np.testing.assert_allclose(state.ratio_opt_state, expected, rtol=1e-3, atol=1e-6)
        assert all(metrics[f"weight_{name}"] == 1 for name in budget)
    assert norm > 0 and size > 0


def both(search, state, name):
    """The gradients of the task and of log r on the ratios, each by itself."""
    c, key = search.space.flat(state.importance), jax.random.fold_in(KEY, state.step)
    masks, pull = jax.vjp(lambda a: search.flat_masks(a, c, state.step), state.ratios)
    trained, rest = search.space.partition(state.params)
    task = jax.grad(lambda m: search.task(trained, m, rest, (X, Y), key)[0])(masks)
    hard = jnp.where(masks >= 0.5, 1.0, 0.0)
    return pull(task)[0], pull(jax.grad(lambda m: jnp.log(search.space.fractions(m)[name]))(hard))[0]


@settings(max_examples=25, deadline=None)
@given(st.sampled_from((1, 2, 5, 12)), st.integers(1, 64), st.floats(-2.0, 0.5), st.integers(0, 11))
def test_the_shift_comes_as_near_as_one_element_of_one_group(groups, size, goal, first):
    """Groups of one size, whose counts all step at one shift: the last of the way is gone one group after another."""

    def missed(x):
        kept = jnp.clip(size - jnp.ceil(x * size), 0, 2 * size)
        return jnp.log(jnp.maximum(jnp.sum(kept), 1e-3) / (groups * size)) - goal

    found = tracking.shift(missed, (jnp.arange(groups) + first) % groups, np.ones(groups, bool))
    total = float(jnp.exp(missed(found) + goal)) * groups * size
    assert abs(total - np.exp(goal) * groups * size) <= 1.01


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(20, 64), min_size=3, max_size=9), st.floats(0.15, 0.85), st.integers(0, 9))
def test_where_one_element_is_a_large_step_the_others_make_up_for_it(sizes, share, first):
    """Two groups of coarse elements, each worth a sixth of all; the others' are small, and step at different shifts."""
    sizes = np.array([3, 3, *sizes], np.float32)
    worth = np.array([100.0, 100.0, *[300.0 / size / (len(sizes) - 2) for size in sizes[2:]]], np.float32)

    def total(x):
        return jnp.sum(worth * jnp.clip(jnp.round(sizes * (0.6 - x)), 0, sizes))

    goal = 100.0 + 600.0 * share
    order = (jnp.arange(len(sizes)) + first) % len(sizes)
    found = tracking.shift(lambda x: jnp.log(jnp.maximum(total(x), 1e-3) / goal), order, sizes > 3)
    assert abs(float(total(found)) - goal) <= worth[2:].sum()


def test_nothing_moves_where_no_shift_helps():
    assert not np.any(tracking.shift(lambda x: jnp.float32(0.7) + 0 * x[0], jnp.arange(3), np.ones(3, bool)))


@pytest.mark.parametrize("share", [1.0, 0.5, 0.25, 0.125, 0.0])
def test_the_largest_share_that_fits(share):
    assert tracking.largest_share(lambda x: x <= share + 0.01) == share


def test_refusals():
    with pytest.raises(UserError, match="no ratios that a shift could hold on the target"):
        MultipleElement(on_target=True)
    with pytest.raises(UserError, match="no ratios that a shift could hold near the target; leave `slack` out"):
        MultipleElement(slack=0.5)
    MultipleElement(slack=float("inf"))  # as it is
    with pytest.raises(UserError, match="on the target there is no slack of 0.5; leave `slack` or `on_target` out"):
        DMS(on_target=True, slack=0.5)
    limits = [s.limit for s in (DMS(), DMS(slack=0.5), DMS(on_target=True), MultipleElement())]
    assert limits == [0.7, 0.5, np.inf, np.inf] and "slack" not in repr(DMS())
    for slack in (0, -1.0, float("nan"), "wide"):
        with pytest.raises(UserError, match=r"slack .* around the target is not possible; give a number in \(0, inf\]"):
            DMS(slack=slack)
    with pytest.raises(UserError, match="no way between"):
        GradientEstimated(effects=True)
    with pytest.raises(UserError, match="on_target 'yes' is not possible; give True or False"):
        DMS(on_target="yes")


def test_of_two_budgets_the_one_that_bounds_the_result_is_told_of():
    search, _ = search_of(Blocks(), {"macs": 0.5, "params": 0.9}, Schedule(4), DMS())
    full = search.space.resources()
    found = {"macs": 0.5 * full["macs"], "params": 0.5 * full["params"]}
    for ended in (0.1, 0.3, 0.9):  # whichever moved farther
        (line,) = projection_warnings(search, {"macs": ended, "params": ended / 2}, found, {})
        assert f"ended at {100 * ended:.1f} % of the MACs" in line and "(50.0 % were asked)" in line
    (line,) = projection_warnings(search, {"macs": 0.5, "params": 0.2}, found, {})
    assert "% of the parameters" in line and "(89.9 % were asked)" in line  # 0.9 in whole parameters


@pytest.mark.parametrize("share", [1.0, 0.951, 0.94, 0.3])
def test_a_budget_of_what_is_measured_that_is_left_is_told_of(share):
    search, _ = search_of(Blocks(), {"macs": 0.5, "params": 0.5}, Schedule(4), DMS())
    one, other = search.targets.values()
    found = unused_warnings(search, {"macs": 0, "params": 0.5 * other}, {"macs": share * one})
    assert len(found) == (share < 0.95) and all(f"measured, {100 * share:.0f} % of the" in line for line in found)
    # where another budget is what bounds the result, nothing is left that could be used
    assert not unused_warnings(search, {"macs": 0, "params": other}, {"macs": share * one})
    assert not unused_warnings(search, {"macs": share * one, "params": 0}, {})
