"""Gates of every element by itself: hard-concrete ones by their distribution, deterministic ones by closed form."""

# Linen's `apply` gives a value or a tuple, options come as dictionaries, and some arguments are wrong on purpose:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportIndexIssue=false, reportOptionalSubscript=false

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dms_jax import Search, SearchSpace
from dms_jax.baselines.hard_concrete import BETA, HardConcrete
from dms_jax.baselines.soft_l0 import SoftL0, soft_gate
from dms_jax.method.layout import Layout
from dms_jax.method.strategy import Context
from tests.baselines.small import KEY, Toy, X, Y, context, loss

GATES = (HardConcrete(), SoftL0())


def with_scores(strategy, layout, scores):
    start = strategy.init(layout)
    return scores if isinstance(strategy, HardConcrete) else {**start, "score": scores}


# --- hard-concrete ---


@pytest.mark.parametrize("logit", [-3.0, -1.0, 0.5, 2.0])
def test_hard_concrete_gates_are_drawn_as_their_distribution_says(space, logit):
    """P(0), P(1) and the mean by numbers against the closed form and a quadrature over u."""
    strategy, layout = HardConcrete(), Layout.of(space)
    logits, c = jnp.full(len(layout.of_shared), logit), context(layout)
    free = ~np.asarray(layout.forced(layout.ranks(logits[layout.to_shared(layout.position)])))
    draw = jax.vmap(lambda key: strategy.masks(layout, logits, Context(c.importance, c.targets, key, c.quiet)))
    gates = np.asarray(jax.jit(draw)(jax.random.split(KEY, 300)))
    loose = layout.to_elements(layout.least == 0)  # the best of other groups are always 1
    gates = gates[:, loose] if loose.any() else gates[:, free]
    u = (np.arange(100_000) + 0.5) / 100_000
    exact = np.clip(1.2 / (1 + np.exp(-(np.log(u / (1 - u)) + logit) / BETA)) - 0.1, 0, 1)
    for of in (lambda m: m == 0, lambda m: m == 1, lambda m: m):
        assert abs(np.mean(of(gates)) - np.mean(of(exact))) < 0.03
    retention = strategy.retention(layout, logits, c)
    np.testing.assert_allclose(retention, np.mean(exact > 0), atol=1e-4)


def test_hard_concrete_without_noise_is_the_gate_of_test_time(layout):
    strategy, draw = HardConcrete(), np.random.default_rng(0)
    logits = jnp.asarray(draw.normal(scale=3, size=len(layout.of_shared)), jnp.float32)
    c = context(layout)
    masks = np.asarray(strategy.masks(layout, logits, c))
    each = np.asarray(logits)[layout.to_shared(layout.position)]
    best = np.asarray(layout.forced(layout.ranks(jnp.asarray(each))))
    expected = np.where(best, 1.0, np.clip(1.2 / (1 + np.exp(-each)) - 0.1, 0, 1))
    np.testing.assert_allclose(masks, expected, atol=1e-6)
    quiet = Context(c.importance, c.targets, KEY, jnp.ones(len(layout.size), bool))
    np.testing.assert_array_equal(strategy.masks(layout, logits, quiet), masks)
    np.testing.assert_array_equal(strategy.kept(layout, masks), masks > 0)


def test_the_budget_reaches_gates_that_are_whole():
    """A gate of exactly 1 has no gradient of the task; the probability that it stays has one of the resources."""

    space = SearchSpace.from_model(Toy(), X[:1])
    search = Search(
        space, lambda *_: 0.0 * loss(*_), None, {"macs": 0.3}, 20, strategy=HardConcrete(rate=10.0), resource_weight=1.0
    )
    state, step = search.init(jax.jit(Toy().init)(jax.random.key(1), X[:1])), jax.jit(search.step)
    for _ in range(3):
        state, _ = step(state, (X, Y), KEY)
    assert (np.asarray(state.ratios) < 4.0).all()


# --- deterministic ---


def test_soft_gates_by_closed_form():
    z, width = np.linspace(-0.4, 1.4, 37), 0.3
    sigmoid = 1 / (1 + np.exp(-np.log(11) * (z - width) / width))
    masks, slope = jax.vmap(jax.value_and_grad(soft_gate), (0, None))(jnp.asarray(z, jnp.float32), jnp.float32(width))
    np.testing.assert_allclose(masks, np.clip(1.2 * sigmoid - 0.1, 0, 1), atol=1e-6)
    np.testing.assert_allclose(slope, 1.2 * np.log(11) / width * sigmoid * (1 - sigmoid), rtol=1e-3)  # at the ends, too
    for width in (0.5, 0.05):
        ends = np.array([0.0, 2 * width], np.float32)
        np.testing.assert_allclose(soft_gate(jnp.asarray(ends), jnp.float32(width)), [0, 1], atol=1e-6)
    assert (np.diff(masks) >= 0).all()


def test_gates_harden_from_a_ramp_to_a_step(layout):
    """The width follows its schedule, whatever the gradient, and stands where a group is frozen; z moves by Adam."""
    strategy, steps = SoftL0(), 40
    optimizer, parameters = strategy.optimizer(layout, steps), strategy.init(layout)
    state = optimizer.init(parameters)
    for t in range(1, steps + 1):
        gradient = jax.tree.map(jnp.ones_like, parameters)
        updates, state = optimizer.update(gradient, state, parameters)
        parameters = optax.apply_updates(parameters, updates)
        np.testing.assert_allclose(parameters["width"], 0.5 - 0.45 * np.sqrt(t / steps), rtol=1e-5)
    np.testing.assert_allclose(parameters["score"], 1 - strategy.rate, rtol=1e-3)
    slope = jax.grad(lambda p: jnp.sum(strategy.masks(layout, p, context(layout))))(parameters)
    assert not np.asarray(slope["width"]).any()


# --- both ---


@pytest.mark.parametrize("strategy", GATES, ids=lambda s: s.title)
def test_tied_groups_share_their_gates_and_the_best_stay(layout, strategy):
    draw = np.random.default_rng(1)
    scores = jnp.asarray(draw.normal(size=len(layout.of_shared)), jnp.float32)
    masks = layout.space.by_group(strategy.masks(layout, with_scores(strategy, layout, scores), context(layout, KEY)))
    np.testing.assert_array_equal(masks["inner0"], masks["inner1"])
    none = with_scores(strategy, layout, scores - 90.0)
    masks = strategy.masks(layout, none, context(layout, KEY))
    kept = layout.space.by_group(strategy.kept(layout, masks))
    assert {name: int(x.sum()) for name, x in kept.items()} == dict(zip(kept, layout.least.tolist(), strict=True))
    slope = jax.grad(lambda p: jnp.sum(strategy.masks(layout, p, context(layout, KEY))))(none)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(slope))


@pytest.mark.parametrize("strategy", GATES, ids=lambda s: s.title)
def test_what_is_decided_is_the_largest_and_as_many_as_expected(layout, strategy):
    draw = np.random.default_rng(2)
    scores = jnp.asarray(draw.normal(scale=2, size=len(layout.of_shared)), jnp.float32)
    parameters, c = with_scores(strategy, layout, scores), context(layout)
    decided = strategy.decide(layout, parameters, c)
    each = np.asarray(scores)[layout.to_shared(layout.position)]
    for start, n in zip(np.cumsum(layout.size) - layout.size, layout.size, strict=True):
        place = slice(start, start + n)
        assert (np.diff(decided.ranking[place][np.argsort(each[place])]) >= 0).all()
    retention = strategy.retention(layout, parameters, c)
    kept = strategy.kept(layout, strategy.masks(layout, parameters, c)) if retention is None else retention
    np.testing.assert_allclose(decided.ratios, layout.ratios(layout.counts(kept)), rtol=1e-5)
