"""The search step, by closed form where there is one."""

# Linen's `apply` gives a value or a tuple, options come as dictionaries, and some arguments are wrong on purpose:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportIndexIssue=false, reportOptionalSubscript=false

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dms_jax import Limits, Schedule, UserError
from dms_jax.baselines.gradient_estimated import GradientEstimated
from dms_jax.baselines.iterative import Iterative
from dms_jax.method import resources
from dms_jax.method.dms import DMS
from experiments.benchmarks.masked import inserted
from tests.helpers import FINITE_DIFFERENCES, FLOAT32_GRADIENTS
from tests.method.small import KEY, Counted, X, Y, loss, run, searcher
from tests.moved import moved_by

# --- start and warm-up -------------------------------------------------------------------------------------------


def test_the_start(space, variables):
    search = searcher(space, budget={"macs": 0.4, "params": 0.5})
    state = search.init({**variables, "masks": space.masks()})
    assert state.params.keys() == {"params"}
    opened = [-4 / group.sharpness for group in space.groups.values()]
    np.testing.assert_allclose(state.ratios, opened, rtol=1e-6)
    assert {name: c.shape for name, c in state.importance.items()} == {n: (g.size,) for n, g in space.groups.items()}
    for mask in search.masks(state).values():
        np.testing.assert_array_equal(mask, 1)
    assert state.weights == {"macs": 1.0, "params": 1.0}


def test_warm_up_gathers_importance_and_trains_weights_but_leaves_ratios(usual):
    _, states, metrics = usual
    for state in states[:5]:
        np.testing.assert_array_equal(state.ratios, states[0].ratios)
        chex.assert_trees_all_equal(state.ratio_opt_state, states[0].ratio_opt_state)
        assert state.task_norm == 0 and state.weights["macs"] == 1
    assert (states[4].importance["wide"] > 0).any()
    assert (states[4].params["params"]["in"]["kernel"] != states[0].params["params"]["in"]["kernel"]).any()
    assert (states[5].ratios != states[4].ratios).any()
    assert all(m["macs_target"] == 1 for m in metrics[:5])


def test_the_schedule_of_targets(usual):
    search, _, metrics = usual
    final = search.targets["macs"] / search.space.resources()["macs"]
    for i, m in enumerate(metrics):
        progress = min(1.0, max(0, i - 4) / (0.8 * 16))
        np.testing.assert_allclose(m["macs_target"], final**progress, rtol=1e-5)


# --- importance ------------------------------------------------------------------------------------------------


def gradients(search, state):
    """Masks and the gradient of the task alone to them, run masked: independent of folding."""
    space, masks = search.space, search.masks(state)

    def task(flat):
        return loss({**state.params, "masks": space.collection(flat)}, (X, Y), KEY)[0]

    return space.by_group(jax.grad(task)(space.flat(masks))), masks


def test_importance_is_taylor_of_the_task_loss_alone(usual):
    search, states, metrics = usual
    for i in (0, 7, 12):
        g, m = gradients(search, states[i])
        for name in search.space.groups:
            expected = 0.99 * states[i].importance[name] + 0.01 * jnp.square(m[name] * g[name])
            np.testing.assert_allclose(
                states[i + 1].importance[name], expected, rtol=1e-4, atol=float(expected.max()) * FLOAT32_GRADIENTS
            )
        assert metrics[i]["importance_skipped"] == 0


def test_no_gradient_to_the_importance(space, variables):
    search = searcher(space)
    state = search.init(variables)
    c = jnp.arange(26.0)
    g = jax.grad(lambda c: jnp.sum(jnp.sin(search.flat_masks(state.ratios + 0.3, c, state.step))))(c)
    np.testing.assert_array_equal(g, 0)


def test_a_loss_that_is_not_a_number_keeps_the_importance_and_is_counted(space, variables):
    search = searcher(space, loss=lambda v, b, k: loss(v, b, k)[0] * jnp.nan)
    states, metrics = run(search, variables, 1)
    chex.assert_trees_all_equal(states[1].importance, states[0].importance)
    assert metrics[0]["importance_skipped"] == 4


def _rates(search):
    """Minus the updates of a gradient of ones, over the 16 steps after the warm-up, [16, ratios]: Adam's rates."""
    ratios = search.strategy.init(search.layout)
    optimizer, gradient, found = search._movement.optimizer, jnp.ones_like(ratios), []
    state = optimizer.init(ratios)
    for _ in range(16):
        update, state = optimizer.update(gradient, state, ratios)
        found.append(-np.asarray(update))
    return np.stack(found)


def test_the_rate_of_the_ratios_falls_from_twice_its_mean_to_nothing(space):
    """Over the steps after the warm-up, 16; a rival's, and the paper's, stays."""
    mean, wide = DMS().rate / 16, list(space.groups).index("wide")
    falling = _rates(searcher(space))[:, wide]
    assert falling[0] == pytest.approx(2 * mean, rel=1e-4) and falling[-1] < 0.02 * mean
    assert np.mean(falling) == pytest.approx(mean, rel=0.1) and list(sorted(falling, reverse=True)) == list(falling)
    constant = _rates(searcher(space, strategy=DMS(schedule="constant")))[:, wide]
    np.testing.assert_allclose(constant, mean, rtol=1e-4)
    rival = _rates(searcher(space, strategy=GradientEstimated()))
    np.testing.assert_allclose(rival, GradientEstimated().rate / 16, rtol=1e-4)
    with pytest.raises(UserError, match="schedule of the rate 'linear' is not possible"):
        DMS(schedule="linear")


def test_widths_move_together_and_depth_by_itself(space):
    """Where the gradients of widths cancel, nothing is common, and a fifth of the rate is left."""
    kinds = [group.kind for group in space.groups.values()]
    wide = np.array([kind == "width" for kind in kinds])
    signs = np.where(wide, np.where(np.cumsum(wide) % 2 == 1, 1.0, -1.0), 1.0)
    signs[np.flatnonzero(wide)[-1]] = 0.0  # three widths: two against each other
    assert wide.sum() == 3 and signs[wide].sum() == 0

    def first(**options):
        search = searcher(space, strategy=DMS(schedule="constant", **options))
        optimizer, ratios = search._movement.optimizer, search.strategy.init(search.layout)
        update, _ = optimizer.update(jnp.asarray(signs), optimizer.init(ratios), ratios)
        return -np.asarray(update) * 16 / DMS().rate

    np.testing.assert_allclose(first(), np.where(wide, 0.2, 1.0) * signs, rtol=1e-4)
    np.testing.assert_allclose(first(together=0.0), signs, rtol=1e-4)  # the paper's
    with pytest.raises(UserError, match="together 1.0 of the rate is not possible"):
        DMS(together=1.0)
    with pytest.raises(UserError, match="iterative threshold has no ratios that could move together"):
        Iterative(together=0.5)
    for options in ({"rate": 2.0}, {"schedule": "cosine"}):
        with pytest.raises(UserError, match="iterative threshold has no parameters that a rate could move"):
            Iterative(**options)


# --- the gradient on the ratios ----------------------------------------------------------------------------------


def test_the_papers_plain_loss(space, variables):
    """d/da [task + w log(r / r_t)], r counted hard and differentiated soft, moved by plain gradient descent."""
    search = searcher(
        space, resource_weight=0.3, strategy=moved_by(optax.sgd(1e-3), DMS(slack=np.inf)), steps=Schedule(20, warmup=1)
    )
    (_, state, new), metrics = run(search, variables, 2)
    final, full = search.targets["macs"], space.resources()["macs"]
    state = state.replace(step=jnp.int32(15), ratios=state.ratios + 0.2)  # at the final target, inside the range
    new, report = jax.jit(search.step)(state, (X, Y), KEY)
    c = space.flat(state.importance)
    masks, pull = jax.vjp(lambda a: search.flat_masks(a, c, state.step), state.ratios)
    g, _ = gradients(search, state)

    def extra(m):
        hard = jax.lax.stop_gradient((m >= 0.5) - m) + m
        return 0.3 * jnp.log(space.fractions(hard)["macs"] / (final / full))

    expected = pull(space.flat(g))[0] + pull(jax.grad(extra)(masks))[0]
    np.testing.assert_allclose(state.ratios - new.ratios, 1e-3 * expected, rtol=1e-2, atol=1e-7)
    assert new.weights["macs"] == np.float32(0.3)
    counts = {name: tuple(np.flatnonzero(np.asarray(mask) >= 0.5)) for name, mask in search.masks(state).items()}
    np.testing.assert_allclose(report["macs"], space.resources(counts)["macs"] / full, rtol=1e-6)


def test_balance_and_multiplier(space, variables):
    """The resource gradient has w times the task gradient's (averaged) norm; w follows the miss."""
    search = searcher(space, strategy=moved_by(optax.sgd(1.0)), steps=Schedule(20, warmup=1, decay=0.05))
    states, metrics = run(search, variables, 6)
    average, weight = 0.0, 1.0
    for i in range(1, 6):
        state = states[i]
        g, _ = gradients(search, state)
        c = space.flat(state.importance)
        _, pull = jax.vjp(lambda a, c=c, s=state: search.flat_masks(a, c, s.step), state.ratios)
        norm = float(jnp.linalg.norm(pull(space.flat(g))[0]))
        average = norm if average == 0 else 0.9 * average + 0.1 * norm
        np.testing.assert_allclose(states[i + 1].task_norm, average, rtol=1e-3)
        r, goal = float(metrics[i]["macs"]), float(metrics[i]["macs_target"])
        np.testing.assert_allclose(metrics[i]["weight_macs"], weight, rtol=1e-5)
        weight = min(50.0, max(1.0, weight + np.log(r / goal)))
        np.testing.assert_allclose(states[i + 1].weights["macs"], weight, rtol=1e-4)
    assert weight > 1


def test_gradients_of_fractions_and_of_the_excess(space):
    masks = jnp.linspace(0.1, 1.0, 26)
    for name in space.costs:
        for f in (
            lambda m, n=name: space.fractions(m)[n],
            lambda m, n=name: resources.excess(space.fractions(m)[n], 0.1),
        ):
            chex.assert_numerical_grads(f, (masks,), order=1, atol=FINITE_DIFFERENCES, rtol=FINITE_DIFFERENCES)


def test_ratios_stay_within_their_range(space, variables):
    search = searcher(space, strategy=moved_by(optax.sgd(1e6)), resource_weight=100.0)
    states, _ = run(search, variables, 8)
    closed = [1.0 if g.least == 0 else 1 - (g.least + 0.5) / g.size for g in space.groups.values()]
    opened = [-4 / g.sharpness for g in space.groups.values()]
    assert (states[-1].ratios <= np.array(closed) + 1e-6).all() and (states[-1].ratios >= np.array(opened) - 1e-6).all()
    for name, mask in search.masks(states[-1]).items():
        assert int((mask >= 0.5).sum()) >= space.groups[name].least


# --- refining, limits, options -----------------------------------------------------------------------------------


def test_refining_freezes_depth_at_zero_and_one(usual):
    search, states, _ = usual
    at = list(search.space.groups).index("depth")
    frozen = [s for s in states if int(s.step) >= 20 - 0.2 * 16]
    assert len(frozen) == 4
    for state in frozen:
        assert set(np.asarray(search.masks(state)["depth"])) <= {0.0, 1.0}
        assert state.ratios[at] == frozen[0].ratios[at]
        np.testing.assert_array_equal(state.importance["depth"], frozen[0].importance["depth"])
        assert not set(np.asarray(search.masks(state)["wide"])) <= {0.0, 1.0}
    assert (frozen[-1].ratios != frozen[0].ratios).any()


def test_groups_left_alone_have_masks_of_exactly_one(space, variables):
    search = searcher(space, limits=Limits(freeze=("inner*", "depth")), budget={"macs": 0.75})
    states, _ = run(search, variables, 20)
    for state in states:
        for name in ("inner0", "inner1", "depth"):
            np.testing.assert_array_equal(search.masks(state)[name], 1)
    structure = search.structure(states[-1])
    assert len(structure.kept["inner0"]) == 6 and len(structure.kept["wide"]) < 12


def test_ratios_alone(space, variables):
    search = searcher(space, optimizer=None)
    states, _ = run(search, variables, 10)
    chex.assert_trees_all_equal(states[-1].params, {"params": variables["params"]})
    assert (states[-1].ratios != states[0].ratios).any()


def test_folded_and_masked_steps_are_one(space, variables, usual):
    _, states, metrics = usual
    reference, reports = run(inserted(searcher(space)), variables, 6)
    np.testing.assert_allclose(reports[5]["loss"], metrics[5]["loss"], rtol=1e-4)
    chex.assert_trees_all_close(reference[6].params, states[6].params, atol=1e-4)


def test_collections_and_metrics_of_the_loss_are_carried(counted):
    space, variables = counted

    def counting(v, batch, key):
        state = {"stats": {"n": v["stats"]["n"] + 1}}
        value = jnp.mean(jnp.square(Counted().apply(v, batch[0]) - batch[1]))
        return value, {"state": state, "metrics": {"draw": jax.random.uniform(key)}}

    search = searcher(space, loss=counting)
    states, metrics = run(search, variables, 3)
    np.testing.assert_array_equal(states[3].params["stats"]["n"], variables["stats"]["n"] + 3)
    assert states[3].params.keys() == {"params", "stats"} and states[3].params["stats"].keys() == {"n", "m"}
    draws = [float(m["draw"]) for m in metrics]
    expected = [float(jax.random.uniform(jax.random.fold_in(KEY, i))) for i in range(3)]
    np.testing.assert_allclose(draws, expected)


@pytest.mark.parametrize(
    "options",
    [
        dict(budget={"macs": 0.3}),
        dict(budget={"params": 0.3}),
        dict(budget={"macs": 0.4, "params": 0.3}),
        dict(budget={"macs": 0.3}, resource_weight=1.0),
        dict(budget={"macs": 60.0}, limits=Limits(divisible_by={"wide": 4})),
    ],
)
def test_the_search_reaches_its_budget(space, variables, options):
    """After 150 steps the network that would be exported is near the budget; the exported one is never above it."""
    search = searcher(space, steps=Schedule(150, warmup=20), **options)
    step = jax.jit(search.step, donate_argnums=0)
    state = search.init(variables)  # donated: what `variables` holds is not
    for _ in range(150):
        state, metrics = step(state, (X, Y), KEY)
    full = space.resources()
    structure = search.structure(state, {"name": "toy", "arguments": {}})
    for name, most in search.targets.items():
        assert structure.resources["after"][name] <= most
    assert any(float(metrics[name]) * full[name] <= 1.15 * most for name, most in search.targets.items())
    example = [{"shape": [1, 5], "dtype": "float32"}]
    assert structure.model == {"name": "toy", "arguments": {}, "example": example}


def test_measures_from_the_weights(space, variables):
    totals = space.magnitudes(variables)
    p = variables["params"]
    expected = jnp.abs(p["in"]["kernel"]).sum(0) + jnp.abs(p["in"]["bias"]) + jnp.abs(p["out"]["kernel"]).sum(1)
    np.testing.assert_allclose(totals["wide"], expected, rtol=1e-5)
    block = sum(float(jnp.abs(leaf).sum()) for name in ("up0", "down0") for leaf in p[name].values())
    np.testing.assert_allclose(totals["depth"][0], block, rtol=1e-5)
