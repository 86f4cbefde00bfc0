"""What results.json says of a network: blocks, costs and importances, of programs of several kinds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dms_jax import SearchSpace, models
from dms_jax.budgets import timing
from dms_jax.budgets.latency import Latency
from dms_jax.training.portrait import MOST_VALUES, _sampled, layers, portrait
from tests.budgets.test_latency_budget import SPACES
from tests.fake_device import Device, installed


def test_groups_lie_in_the_blocks_that_take_them_along():
    space = SearchSpace.from_model(models.create("resnet20"), jnp.zeros((1, 8, 8, 3)))
    found = portrait(space, {}, space.kept(None))
    assert [block["name"] for block in found["blocks"][:3]] == [f"stage1/block{i}" for i in range(3)]
    assert found["groups"]["stage1/block1/mid"]["block"] == ["stage1/depth", 1]
    assert found["groups"]["stem"]["block"] is None and found["groups"]["stage1/depth"]["block"] is None
    assert found["groups"]["stem"]["each"] == space.each()["stem"]
    for block in found["blocks"]:
        own, *outer = block["gates"]
        assert not outer and own[0].endswith("/depth")


def nested(params, x):
    """A branch inside a branch."""
    inner = params["inner"]
    y = x @ params["up"]
    y = y + jnp.tanh(y @ inner["a"]) @ inner["b"]
    return (x + jnp.tanh(y) @ params["down"]) @ params["head"]


def test_a_block_inside_another():
    shapes = {"up": (4, 4), "inner": {"a": (4, 6), "b": (6, 4)}, "down": (4, 4), "head": (4, 2)}
    params = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s, "float32"), shapes, is_leaf=lambda s: isinstance(s, tuple))
    space = SearchSpace.from_function(nested, params, jax.ShapeDtypeStruct((1, 4), "float32"))
    found = portrait(space, {}, space.kept(None))
    by_size = sorted(found["blocks"], key=lambda block: len(block["gates"]))
    assert [len(block["gates"]) for block in by_size] == [1, 2]
    outer, inner = by_size
    assert inner["gates"][1] == outer["gates"][0] and inner["name"] == "inner"
    assert found["groups"]["inner"]["block"] == inner["gates"][0]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(0, 2.0**90, width=32) | st.just(float("nan")) | st.just(-np.inf), min_size=1, max_size=200),
    st.data(),
)
def test_sampled_importances_hold_the_cut(values, data):
    kept = data.draw(st.integers(0, len(values)))
    found = _sampled(np.array(values, np.float32), kept)
    if found is None:
        real = np.nan_to_num(np.array(values, np.float32), nan=0.0, neginf=0.0)
        assert real.max() == real.min() or real.max() <= 0
        return
    at, shares = found["at"], found["values"]
    assert at == sorted(set(at)) and len(at) == len(shares) <= MOST_VALUES + 2 and at[0] == 0 and shares[0] == 1
    assert all(0 <= share <= 1 for share in shares) and shares == sorted(shares, reverse=True)
    assert {i for i in (kept - 1, kept) if 0 <= i < len(values)} <= set(at)


@pytest.mark.parametrize("importance", [None, np.zeros(3), np.ones(3), np.full(3, np.inf)])
def test_importances_that_say_nothing(importance):
    assert _sampled(importance, 1) is None


@pytest.mark.parametrize("make", SPACES.values(), ids=list(SPACES))
def test_layers_are_named_and_measured_as_predicted(make, tmp_path, monkeypatch):
    """On a machine that takes what the prediction is fitted to; removed blocks are not among the layers."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    installed(Device(), monkeypatch)
    space = make().with_resources(Latency())
    kept = {name: tuple(range(max(group.least, group.size // 2))) for name, group in space.groups.items()}
    found, whole = layers(space, "latency", kept), layers(space, "latency", space.kept(None))
    assert 1 < len(found) <= len(whole) and not layers(space, "macs", kept)
    assert found[0]["name"] == "before the first product"
    assert all(" at " not in layer["name"] for layer in found[1:])
    predicted, measured = (np.array([layer[what] for layer in whole]) for what in ("predicted", "measured"))
    np.testing.assert_allclose(predicted, measured, rtol=0.02, atol=1e-6)
    sums = [sum(layer[what] for layer in found) for what in ("predicted", "measured")]
    assert 0.8 < sums[0] / sums[1] < 1.25


def test_layers_without_time_are_not_measured(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    installed(Device(), monkeypatch)
    space = SPACES["perceptron"]().with_resources(Latency())
    clock = iter(range(10**9))
    monkeypatch.setattr(timing, "now", lambda: 1e3 * next(clock))
    odd = {name: tuple(range(3)) for name in space.groups}
    assert {layer["measured"] for layer in layers(space, "latency", odd)[1:]} == {None}
