"""Every strategy through one short search, and each by closed form or a slow reference."""

# Linen's `apply` gives a value or a tuple, options come as dictionaries, and some arguments are wrong on purpose:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportIndexIssue=false, reportOptionalSubscript=false

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.test_util import check_grads

from dms_jax import Schedule, Search, Searchable, SearchSpace, baselines
from dms_jax.baselines.dms_raw import RawDMS
from dms_jax.baselines.gradient_estimated import GradientEstimated
from dms_jax.baselines.multiple import MultipleElement
from dms_jax.baselines.single import SingleNumber
from dms_jax.method.importance import Importance
from dms_jax.method.layout import Layout
from dms_jax.method.strategy import Context
from experiments.benchmarks.masked import inserted
from tests.baselines.small import KEY, LIMITS, Toy, X, Y, context, loss
from tests.counting import random_variables
from tests.moved import moved_by

EXACT = ("multiple", "gradient_estimated", "iterative")
"""Those whose masks are exactly 0 or 1, and start at exactly 1."""
STEPS, WARMUP, MIDDLE, BUDGET = 160, 10, 60, 0.35


class Ran:
    """One search: all states, the metrics of each step, and the jitted step, which may be traced once."""

    def __init__(self, name, space):
        self.name, self.space = name, space
        self.search = Search(
            space, loss, optax.adam(3e-3), {"macs": BUDGET}, Schedule(STEPS, WARMUP), LIMITS,
            strategy=baselines.create(name),
        )  # fmt: skip
        chex.clear_trace_counter()
        self.flat = jax.jit(self.search.flat_masks)
        self.step = jax.jit(chex.assert_max_traces(self.search.step, n=1))
        variables = jax.jit(Toy().init)(jax.random.key(1), X[:1])
        self.states, self.metrics = [self.search.init(variables)], []
        self.go(self.states, self.metrics, STEPS)

    def go(self, states, metrics, steps):
        for _ in range(steps):
            state, report = self.step(states[-1], (X, Y), KEY)
            states.append(state)
            metrics.append(report)

    def masks(self, i, key=None):
        state = self.states[i]
        return self.flat(state.ratios, self.space.flat(state.importance), state.step, key)

    def kept(self, i, key=None):
        """{group: how many elements the masks stand for}."""
        kept = self.search.strategy.kept(self.search.layout, self.masks(i, key))
        return {name: int(x.sum()) for name, x in self.space.by_group(kept).items()}


@pytest.fixture(scope="module", params=baselines.strategies())
def ran(request, space):
    return Ran(request.param, space)


# --- every strategy through one search ---------------------------------------------------------------------------


def test_masks_are_in_the_unit_interval(ran):
    for i in (0, 15, 70, 110, STEPS):
        for key in (None, KEY) if i == STEPS else (KEY,):
            masks = np.asarray(ran.masks(i, key))
            assert masks.dtype == np.float32 and masks.min() >= 0 and masks.max() <= 1
            if ran.name in EXACT:
                assert set(masks) <= {0.0, 1.0}


def test_it_starts_at_the_supernet(ran):
    """To 0.982 a mask, as DMS does; what has exact masks starts at exactly one. (Noise comes after the warm-up.)"""
    for i in (0, 5):
        masks = np.asarray(ran.masks(i, KEY))
        assert masks.min() == 1 if ran.name in EXACT else masks.min() > 0.98
        assert np.mean(masks) > 0.98
    chex.assert_trees_all_equal(ran.states[0].ratios, ran.states[WARMUP].ratios)


def test_it_reaches_its_budget(ran):
    """Not 2 % of the full network above it before the projection (below it no force acts but the task's), and never
    above it after."""
    reached = np.mean([float(m["macs"]) for m in ran.metrics[-20:]])
    assert BUDGET - 0.1 < reached < BUDGET + 0.02
    structure = ran.search.structure(ran.states[-1])
    most, after = ran.search.targets["macs"], structure.resources["after"]["macs"]
    assert 0.9 * most < after <= most


def test_it_learns_something(ran):
    before, after = (float(ran.metrics[i]["loss"]) for i in (0, -1))
    assert np.isfinite(after) and after < before
    moved = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), ran.states[0].ratios, ran.states[-1].ratios)
    assert all(jax.tree.leaves(moved))
    assert (ran.states[-1].importance["wide"] > 0).any()


def test_resumed_is_not_interrupted(ran):
    """From a state that went to the host and back, without a second compilation, and bit for bit."""
    states, metrics = [jax.tree.map(jnp.asarray, jax.device_get(ran.states[MIDDLE]))], []
    ran.go(states, metrics, 15)
    chex.assert_trees_all_equal(states[-1], ran.states[MIDDLE + 15])
    chex.assert_trees_all_equal(metrics, ran.metrics[MIDDLE : MIDDLE + 15])


def test_tied_groups_share_their_count(ran):
    for i in (70, 120, STEPS):
        kept = ran.kept(i, KEY)
        assert kept["inner0"] == kept["inner1"] or ran.name == "dms_raw"  # they share a ratio of what is unlike
    kept = ran.search.structure(ran.states[-1]).kept
    assert len(kept["inner0"]) == len(kept["inner1"])


def test_limits_are_respected(ran):
    for i in (40, 120, STEPS):
        np.testing.assert_array_equal(ran.space.by_group(ran.masks(i, KEY))["inner3"], 1)
        kept = ran.kept(i, KEY)
        assert all(kept[name] >= group.least for name, group in ran.space.groups.items())
        assert kept["wide"] >= 5 or ran.name == "dms_raw"  # its ratio says nothing about counts
    kept = ran.search.structure(ran.states[-1]).kept
    assert len(kept["inner3"]) == 16 and len(kept["wide"]) >= 5


def test_refining_freezes_depth(ran):
    frozen = [i for i in range(STEPS + 1) if i >= STEPS - 0.2 * (STEPS - WARMUP)]
    masks = [np.asarray(ran.space.by_group(ran.masks(i, jax.random.key(i)))["depth"]) for i in frozen]
    for mask in masks:
        assert set(mask) <= {0.0, 1.0}
        if ran.name != "iterative":  # the threshold is one for all groups
            np.testing.assert_array_equal(mask, masks[0])
    at = [ran.states[i].importance["depth"] for i in frozen]
    np.testing.assert_array_equal(at[0], at[-1])


# --- what is out is judged, too ----------------------------------------------------------------------------------


class Narrow(Searchable):
    """What writes the axis is smaller than what reads it: masks fold into the writer, under a ReLU."""

    @nn.compact
    def __call__(self, x):
        a = self.elements("a", 8)
        return nn.Dense(30, name="read")(a(nn.relu(nn.Dense(a.size, name="write")(x))))


def test_masks_of_zero_pass_their_gradients():
    """Folded as without folding; what is out goes on being judged, and moves the ratio."""
    space = SearchSpace.from_model(Narrow(), X[:1, :3])
    variables, after = random_variables(space), []

    def task(params, batch, key):
        return jnp.mean(jnp.sin(Narrow().apply(params, batch)))

    for way in (lambda search: search, inserted):
        search = Search(
            space, task, None, {"macs": 0.5}, 10, importance=Importance(decay=0.0), resource_weight=0.0,
            strategy=moved_by(optax.sgd(1.0), GradientEstimated()),
        )  # fmt: skip
        search = way(search)
        state = search.init(variables)
        state = state.replace(ratios=jnp.full((1,), 0.5), importance={"a": jnp.arange(8.0)})
        np.testing.assert_array_equal(search.masks(state)["a"], [0, 0, 0, 0, 1, 1, 1, 1])
        folded, rest = space.fold(variables, search.masks(state))
        assert rest == {} and changed(folded, variables) == {"write"}
        after.append(jax.jit(search.step)(state, X[:, :3], KEY)[0])
    folded, masked = after
    np.testing.assert_allclose(folded.importance["a"], masked.importance["a"], rtol=1e-3)
    np.testing.assert_allclose(folded.ratios, masked.ratios, rtol=1e-4)
    assert (masked.importance["a"][:4] > 0).any() and masked.ratios[0] != 0.5


def changed(folded, variables):
    """The layers whose parameters are others."""
    return {
        name
        for name, layer in variables["params"].items()
        if any((layer[key] != folded["params"][name][key]).any() for key in layer)
    }


# --- one by one, by closed form ------------------------------------------------------------------------------------


def pulled(strategy, layout, parameters, c, weights):
    """The gradient of the weighted sum of masks."""
    return jax.grad(lambda p: jnp.sum(weights * strategy.masks(layout, p, c)))(parameters)


@pytest.fixture(scope="module")
def weights(layout):
    return jnp.asarray(np.random.default_rng(2).normal(size=len(layout.of_element)), jnp.float32)


def per_ratio(layout, x):
    return np.bincount(layout.to_elements(layout.ratio), np.asarray(x), len(layout.first))


def test_dms_without_normalisation(layout, weights):
    strategy, c = RawDMS(), context(layout)
    a = jnp.linspace(0.1, 0.6, len(layout.first))
    importance = np.split(np.asarray(c.importance, np.float64), np.cumsum(layout.size)[:-1])
    scaled = np.concatenate([(x - x.min()) / (x.max() - x.min()) for x in importance])
    slope, margin = layout.to_elements(layout.sharpness), scaled - np.asarray(a)[layout.to_elements(layout.ratio)]
    m = 1 / (1 + np.exp(-slope * margin))
    np.testing.assert_allclose(strategy.masks(layout, a, c), m, rtol=1e-4, atol=1e-6)
    expected = per_ratio(layout, -slope * m * (1 - m) * np.asarray(weights))
    np.testing.assert_allclose(pulled(strategy, layout, a, c, weights), expected, rtol=1e-3, atol=1e-4)


def test_gradient_estimated(layout, weights):
    """The k most important, and a gradient of -1 through each mask."""
    strategy, c = GradientEstimated(), context(layout)
    a = jnp.linspace(0.2, 0.7, len(layout.first))
    masks = layout.space.by_group(strategy.masks(layout, a, c))
    importance = layout.space.by_group(c.importance)
    for i, (name, mask) in enumerate(masks.items()):
        n, ratio = len(mask), float(a[layout.ratio[i]])
        k = int(np.floor(n * (1 - ratio) + 0.5))
        np.testing.assert_array_equal(mask, importance[name] >= np.sort(importance[name])[n - k])
    np.testing.assert_allclose(
        pulled(strategy, layout, a, c, weights), per_ratio(layout, -weights), rtol=1e-4, atol=1e-5
    )


def test_multiple_element_selection(layout, weights):
    strategy, c = MultipleElement(), context(layout, KEY)
    logits = jnp.asarray(np.random.default_rng(3).normal(size=(len(layout.of_shared), 2)), jnp.float32)
    noise = jax.random.gumbel(KEY, logits.shape)
    lead = np.asarray((logits + noise)[:, 0] - (logits + noise)[:, 1], np.float64)
    masks = np.asarray(strategy.masks(layout, logits, c))
    np.testing.assert_array_equal(masks[lead[layout.to_shared(layout.position)] >= 0], 1)
    soft = 1 / (1 + np.exp(-lead / 0.1))
    slope = np.bincount(layout.to_shared(layout.position), weights) * soft * (1 - soft) / 0.1
    expected = np.stack([slope, -slope], axis=-1)
    np.testing.assert_allclose(pulled(strategy, layout, logits, c, weights), expected, rtol=1e-2, atol=1e-4)


def test_elements_are_drawn_as_often_as_their_logits_say(space):
    strategy, layout = MultipleElement(), Layout.of(space)
    lead = jnp.full((len(layout.of_shared),), 0.8)
    logits = jnp.stack([lead, 0 * lead], axis=-1)
    keys = jax.random.split(KEY, 400)
    c = context(layout)
    draw = jax.jit(jax.vmap(lambda k: strategy.masks(layout, logits, Context(c.importance, c.targets, k, c.quiet))))
    draws = draw(keys)
    assert abs(float(jnp.mean(draws)) - 1 / (1 + np.exp(-0.8))) < 0.01
    decided = strategy.decide(layout, logits, context(layout))
    assert decided.ratios[list(layout.space.groups).index("depth")] == pytest.approx(1 - (5 * 0.69 + 0.5) / 5, abs=1e-3)


def test_too_few_drawn_leaves_the_best(layout):
    logits = jnp.zeros((len(layout.of_shared), 2)).at[:, 0].set(-50.0)
    masks = layout.space.by_group(MultipleElement().masks(layout, logits, context(layout, KEY)))
    assert {name: int(x.sum()) for name, x in masks.items()} == dict(zip(masks, layout.least.tolist(), strict=True))


def test_single_number_selection(layout):
    """Masks are the probabilities that the number reaches an element; derivatives by finite differences."""
    strategy, c = SingleNumber(), context(layout)
    logits = 0.1 * jnp.asarray(np.random.default_rng(4).normal(size=strategy.init(layout).shape), jnp.float32)
    masks, importance = (layout.space.by_group(x) for x in (strategy.masks(layout, logits, c), c.importance))
    for i, (name, group) in enumerate(layout.space.groups.items()):
        numbers = np.arange(layout.least[i], group.size + 1)
        p = np.exp(np.asarray(logits, np.float64)[layout.ratio[i], numbers] / 0.1)
        better = np.argsort(np.argsort(-np.asarray(importance[name])))
        expected = [np.sum(p[numbers > place]) / np.sum(p) for place in better]
        np.testing.assert_allclose(masks[name], expected, atol=1e-5)
    check_grads(lambda x: strategy.masks(layout, x, c), (logits,), 1, modes=["rev"], atol=0.05, rtol=0.05, eps=1e-2)


def test_noise_is_off_where_it_is_quiet(layout):
    for strategy in (MultipleElement(), SingleNumber()):
        start, c = strategy.init(layout), context(layout, KEY)
        quiet = Context(c.importance, c.targets, KEY, jnp.ones(len(layout.size), bool))
        silent = Context(c.importance, c.targets, None, c.quiet)
        np.testing.assert_array_equal(strategy.masks(layout, start, quiet), strategy.masks(layout, start, silent))
