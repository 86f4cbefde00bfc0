"""Blocks judged by the finite effect of their removal."""

# Linen's variables are mappings of anything:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportIndexIssue=false

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dms_jax import Schedule
from dms_jax.method import effects, resources
from dms_jax.method.dms import DMS
from tests.method.test_tracking import KEY, Blocks, X, Y, run, search_of


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from((1, 6, 12, 13, 40)).flatmap(lambda n: st.lists(st.booleans(), min_size=n, max_size=n)),
    st.integers(0, 1000),
)
def test_open_blocks_take_turns(opened, start):
    """In as many steps as one round has, every open block is probed once, and no closed one."""
    blocks = np.arange(len(opened)) + 3
    masks = jnp.concatenate([jnp.ones(3), jnp.where(jnp.array(opened), 0.9, 0.1)])
    together = -(-len(opened) // effects.PER_PROBE)
    rounds = max(-(-sum(opened) // together), 1)
    first = start * rounds
    probes = jax.jit(lambda step: effects.probes(masks, blocks, step)[0])
    seen = sum(np.asarray(probes(first + i), int) for i in range(rounds))
    assert list(seen) == [0, 0, 0, *map(int, opened)]


def test_u_fills_the_unit_interval_evenly():
    masks, blocks, drawn = jnp.ones(6), np.arange(6), {i: [] for i in range(6)}
    for step in range(6 * 64):
        chosen, u = effects.probes(masks, blocks, jnp.int32(step))
        (i,) = np.flatnonzero(chosen)
        drawn[i].append(float(u[i]))
    for u in drawn.values():
        assert np.max(np.abs(np.sort(u) - (np.arange(64) + 0.5) / 64)) < 2.5 / 64


def test_the_mean_of_the_gradients_is_what_removal_costs():
    """sum over u of dL/dm = L(1) - L(0), by running the network without the block."""
    search, state = search_of(Blocks(), {"macs": 0.5}, Schedule(10), DMS(effects=True), rate=0)
    flat = jnp.ones(len(search.layout.of_element))
    trained, rest = search.space.partition(state.params)

    def loss(masks):
        return search.task(trained, masks, rest, (X, Y), KEY)[0]

    for block in search.layout.blocks:

        def slope(step, block=block):
            _, u = effects.probes(flat, np.array([block]), step)
            return jax.grad(loss)(flat.at[block].set(u[block]))[block]

        found = jnp.mean(jax.lax.map(slope, jnp.arange(400)))
        whole = float(loss(flat) - loss(flat.at[block].set(0.0)))
        assert float(found) == pytest.approx(whole, abs=0.02 * abs(whole) + 1e-4)


def test_the_first_effect_stands_for_itself_and_what_is_not_finite_is_left_out():
    before, gradient = jnp.array([0.0, 1.0, 1.0, 1.0]), jnp.array([-2.0, -2.0, jnp.nan, -2.0])
    after = effects.update(before, gradient, jnp.array([True, True, True, False]))
    np.testing.assert_allclose(after, [2.0, 1.2, 1.0, 1.0], rtol=1e-6)


def test_a_thin_block_is_worth_the_root_of_its_share_of_the_whole():
    """By hand: a block multiplies stream x inner twice. Closed blocks are priced as if they were open."""
    search, _ = search_of(Blocks(), {"macs": 0.5}, Schedule(10), DMS(effects=True), rate=0)
    space, blocks = search.space, np.isin(np.arange(len(search.layout.of_element)), search.layout.blocks)
    kept = {name: jnp.ones(group.size) for name, group in space.groups.items()}
    kept |= {"stream": kept["stream"].at[:3].set(0), "inner1": kept["inner1"].at[:4].set(0)}
    kept |= {"inner3": kept["inner3"].at[:7].set(0), "depth": kept["depth"].at[3].set(0)}
    effect = jnp.arange(1.0, len(blocks) + 1)
    found = effects.worth(effect, partial(resources.total, space, ["macs"]), space.flat(kept), blocks)
    share = np.array([9 * k / (12 * 8) for k in (8, 4, 8, 1)])
    np.testing.assert_allclose(found[blocks], effect[blocks] * np.sqrt(share), rtol=1e-5)
    np.testing.assert_array_equal(found[~blocks], effect[~blocks])


def test_a_block_that_does_nothing_goes_first():
    """Its local gradient is as small as that of the others at masks of one; its effect is 0."""
    search, state = search_of(
        Blocks(), {"macs": 0.8}, Schedule(60), DMS(on_target=True, effects=True, rate=1.0), rate=0
    )
    params = jax.tree.map(lambda x: x, state.params)
    params["params"]["down2"] = jax.tree.map(jnp.zeros_like, params["params"]["down2"])
    state, _ = run(search, search.init(params), 60)
    worth = np.asarray(state.importance["depth"])
    assert np.argmin(np.abs(worth)) == 2 and abs(worth[2]) < 1e-3 * np.max(np.abs(worth))


@pytest.mark.parametrize("blocks", [1, 5, 12, 13, 30])
def test_no_block_goes_before_every_one_had_its_turn(blocks):
    """However fast the ratios move: until then nothing is known of some of them."""
    strategy = DMS(on_target=True, effects=True, rate=500.0, schedule="constant")
    search, state = search_of(Blocks((4,) * blocks), {"macs": 0.5}, Schedule(60), strategy, rate=0)
    turns = effects.first_round(search.layout.blocks)
    assert turns == -(-blocks // -(-blocks // effects.PER_PROBE)) <= effects.PER_PROBE
    state, _ = run(search, state, turns)
    assert np.all(np.asarray(state.importance["depth"]) != 0)
    state, _ = run(search, search.init(state.params), turns - 1)
    assert np.all(np.asarray(search.masks(state)["depth"]) > 0.5)
