"""Milliseconds: pieces of a program, a prediction that is their sum, and a search that holds as measured."""

# pyright: reportArgumentType=false, reportOptionalSubscript=false, reportAttributeAccessIssue=false

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dms_jax import SearchSpace, UserError
from dms_jax.budgets import timing
from dms_jax.budgets.latency import Latency
from dms_jax.budgets.pieces import cut, flattened
from dms_jax.budgets.stepwise import outlines
from dms_jax.method.limits import Limits
from dms_jax.method.projection import project
from tests import tiny
from tests.fake_device import Device, installed
from tests.measured import perceptron, residual, searched


def scanned(layers=4, width=16):
    draw = np.random.default_rng(0)
    params = {
        "layers": {
            "up": jnp.asarray(draw.normal(size=(layers, width, 32)), jnp.float32),
            "down": jnp.asarray(draw.normal(size=(layers, 32, width)), jnp.float32),
        },
        "out": jnp.asarray(draw.normal(size=(width, 3)), jnp.float32),
    }

    def fn(p, x):
        def body(x, row):
            return x + jnp.tanh(x @ row["up"]) @ row["down"], None

        return jax.lax.scan(body, x, p["layers"])[0] @ p["out"]

    return SearchSpace.from_function(fn, params, jnp.ones((2, width)))


def convolutional():
    return SearchSpace.from_model(tiny.make(widths=(16, 32), stem=16), tiny.EXAMPLE)


SPACES = {"perceptron": perceptron, "residual": residual, "scanned": scanned, "convolutional": convolutional}


def drawn(space, rng, level):
    kept = {}
    for name, group in space.groups.items():
        share = float(np.clip(level + rng.normal(0, 0.2), 0, 1))
        least = max(group.least, 0 if group.kind == "depth" else 1)
        number = int(np.clip(round(share * group.size), least, group.size))
        kept[name] = tuple(int(i) for i in np.sort(rng.choice(group.size, number, replace=False)))
    return kept


# --- pieces ---


@pytest.mark.parametrize("name", SPACES)
def test_pieces_laid_together_are_the_network(name):
    space = SPACES[name]()
    sized = space._network.at(drawn(space, np.random.default_rng(0), 0.6))
    flat = flattened(sized.fn, sized.params, *sized.inputs)
    rng = np.random.default_rng(1)
    arrays = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype), (sized.params, *sized.inputs))
    env = dict(zip(flat.inputs, jax.tree.leaves(arrays), strict=True))
    for piece in cut(flat, frozenset({"dot_general", "conv_general_dilated"})):
        env |= dict(zip(piece.made, piece(*(env[x] for x in piece.given)), strict=True))
    for x, expected in zip(flat.outputs, jax.tree.leaves(sized.fn(*arrays)), strict=True):
        np.testing.assert_allclose(env[x], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", SPACES)
def test_pieces_and_their_outlines_are_the_same_products(name):
    space = SPACES[name]()
    found = outlines(space._network)
    for level in (1.0, 0.5, 0.1):
        kept = {name: range(max(group.least, round(level * group.size), 1)) for name, group in space.groups.items()}
        kept |= {name: range(group.size) for name, group in space.groups.items() if group.kind == "depth"}
        sized = space._network.at(kept)
        flat = flattened(sized.fn, sized.params, *sized.inputs)
        products = frozenset(term.node.name for term in space._network.program.products)
        assert [piece.name for piece in cut(flat, products)] == [outline.name for outline in found]


def test_equal_pieces_are_measured_once(device):
    space = residual(blocks=3).with_resources(Latency())
    keys = [piece.key for piece in device.pieces]
    assert len(keys) == len(set(keys))
    assert len(keys) < 0.7 * 10 * len(outlines(space._network))


# --- the prediction ---


@pytest.mark.parametrize("name", SPACES)
def test_predictions_are_what_the_device_does(name, device):
    space = SPACES[name]().with_resources(Latency())
    rng = np.random.default_rng(0)
    for level in (0.9, 0.7, 0.5, 0.3):
        kept = drawn(space, rng, level)
        assert space.resources(kept)["latency"] == pytest.approx(space.measured(kept)["latency"], rel=0.1)


def test_the_search_follows_something_smooth_that_never_falls(device):
    space = residual().with_resources(Latency())
    cost, sizes = space.costs["latency"], jnp.asarray(space.variable_sizes, jnp.float32)
    assert cost.fraction(sizes) == pytest.approx(1, abs=1e-5)
    rng = np.random.default_rng(0)
    for _ in range(5):
        counts = jnp.asarray(space._variables.counts(drawn(space, rng, 0.5)), jnp.float32)
        assert float(cost.fraction(counts)) == pytest.approx(
            float(cost.exact(np.asarray(counts)) / cost.full), rel=1e-4
        )
        assert np.all(jax.grad(cost.fraction)(counts) >= 0)


def test_what_a_call_costs_is_found(monkeypatch):
    installed(Device(together=0.7, call=0.5), monkeypatch)
    space = perceptron().with_resources(Latency())
    least = {name: range(1) for name in space.groups}
    assert space.resources(least)["latency"] == pytest.approx(space.measured(least)["latency"], rel=0.1)


def test_without_time_multiply_adds_stand_for_what_is_not_measured(device):
    space = perceptron().with_resources(Latency(seconds=1e-9))
    assert not device.pieces and len(device.wholes) == 2  # the full network, at the beginning and the end
    note = space.costs["latency"].note
    assert "no time was left" in note and f"they sum to {space.resources()['latency']:.3g} ms, of which 1.00" in note
    assert space.resources({"a": range(8)})["latency"] < 0.5 * space.resources()["latency"]


# --- the truth ---


@settings(max_examples=12, deadline=None)
@given(
    name=st.sampled_from(["perceptron", "residual"]),
    together=st.floats(0.4, 1.5),
    call=st.floats(0, 0.05),
    lanes=st.sampled_from([1, 4, 8]),
    share=st.floats(0.35, 0.9),
    seed=st.integers(0, 99),
)
def test_what_comes_out_holds_as_measured(tmp_path_factory, name, together, call, lanes, share, seed):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        installed(Device(together, call, lanes), patch)
        space, rng = SPACES[name]().with_resources(Latency()), np.random.default_rng(seed)
        most = share * space.resources()["latency"]
        ranking = {name: rng.uniform(size=group.size) for name, group in space.groups.items()}
        ratios = {name: float(rng.uniform(0, 0.8)) for name in space.groups}
        try:
            kept = project(space, ratios, ranking, {"latency": most})
        except UserError as error:
            least = space.measured({name: range(group.least) for name, group in space.groups.items()})["latency"]
            assert least > 0.9 * most, error
            return
        found = space.measured(kept)["latency"]
        least = 0.7 if lanes > 1 else 0.95  # groups of 24 to 64 elements in eights, and blocks, are coarse
        assert least * most <= found <= most


def test_a_search_for_latency_says_what_was_predicted_measured_and_its_spread(monkeypatch):
    installed(Device(together=1.3, call=0.01, noise=0.01), monkeypatch)
    space = perceptron()
    assert "latency" not in space.resources()  # until a budget names it
    search, structure, metrics = searched(space, {"latency": 0.5})
    found = structure.resources
    assert 0.95 * search.targets["latency"] <= found["after"]["latency"] <= search.targets["latency"]
    assert found["spread"]["latency"] == pytest.approx(0.01 * found["after"]["latency"])
    assert found["predicted"]["latency"] > 0 and 0 < metrics["latency"] <= 1


def test_what_ran_beside_the_full_network_at_first_does_not_count(monkeypatch):
    device, busy = Device(), [2.0]
    installed(device, monkeypatch)
    calls = device.calls
    monkeypatch.setattr(timing, "calls", lambda *given: (calls(*given)[0] * (busy.pop() if busy else 1.0), 0.0))
    space = perceptron().with_resources(Latency())
    assert space.resources()["latency"] == pytest.approx(device.ms(device.wholes[-1]))


@pytest.mark.parametrize("lanes", [1, 8])
def test_multiples_can_be_those_of_the_device(lanes, monkeypatch):
    installed(Device(lanes=lanes), monkeypatch)
    limits = Limits(divisible_by={"*": "auto"})
    with pytest.raises(
        UserError, match='divisible_by "auto" is what was measured of this device, and nothing was: give a'
    ):
        limits.counts(perceptron())
    space = perceptron().with_resources(Latency())
    assert f"steps of {lanes} elements" in space.summary()
    assert all(np.array_equal(n, np.arange(lanes, n[-1] + 1, lanes)) for n in limits.counts(space).values())
    ranking = {name: np.arange(float(group.size)) for name, group in space.groups.items()}
    kept = project(space, dict.fromkeys(space.groups, 0.5), ranking, {"macs": 1500}, limits)
    assert all(len(elements) % lanes == 0 for elements in kept.values())


def test_a_real_device_measures_a_real_network(monkeypatch):
    monkeypatch.setattr(timing, "LONGEST", 1000)  # other tests run beside it
    space = convolutional().with_resources(Latency(batch=2, seconds=2.0))
    cost, kept = space.costs["latency"], {name: range(max(g.least, g.size // 2)) for name, g in space.groups.items()}
    assert cost.full > 0 and space.measured(kept)["latency"] > 0 and space.spreads(kept)["latency"] >= 0
    assert np.all(cost.predicted.weights >= 0) and space.resources(kept)["latency"] <= cost.full
