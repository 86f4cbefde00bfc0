"""Kinds of search beside each other: scores of random weights, shared weights, evolution and growing; the table."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dms_jax.shrink import shrink
from dms_jax.training.language import language_loss
from experiments.benchmarks import exhaustive, kinds, searchers
from experiments.benchmarks.command import Options

KEYS = exhaustive.structures(exhaustive.Size())
SOME = st.sampled_from(KEYS)


@pytest.fixture(scope="module")
def space():
    return exhaustive.Space(exhaustive.QUICK)


@pytest.mark.parametrize("key", [(4, 1, 4), (8, 2, 4, 1, 4)])
def test_zico_of_a_masked_network_is_that_of_the_smaller_one(space, key):
    params, tokens = space.new(0), space.batches(0, 0, 3)
    score = float(jax.jit(searchers.zico, static_argnums=0)(space, params, space.masks(key), tokens))
    structure = space.space.structure(space.kept(key))
    loss = language_loss(space.space.model.clone(structure=structure))
    small = shrink(space.space, {"params": params}, structure)
    gradient = jax.jit(jax.grad(lambda p, windows: loss(p, {"tokens": windows}, jax.random.key(0))[0]))
    found = [gradient(small, windows)["params"] for windows in tokens]
    expected = 0.0
    for (path, first), *others in zip(*map(jax.tree.leaves_with_path, found), strict=True):
        each = np.abs(np.stack([first, *(g for _, g in others)]))
        if first.ndim > 1 and path[-1].key != "embedding":
            spread = each.std(axis=0)
            expected += np.log(np.sum(each.mean(axis=0)[spread > 0] / spread[spread > 0]))
    assert score == pytest.approx(expected, rel=1e-3)


def test_shared_weights_of_one_structure_are_its_own_training(space):
    key, params, tokens = (4, 1, 4), space.new(0), space.batches(0, 0, exhaustive.QUICK.steps)
    masks = jax.tree.map(lambda m: jnp.stack([m] * len(tokens)), space.masks(key))
    shared = searchers.shared(space, params, masks, tokens)
    alone = space.trained(params, space.masks(key), tokens)
    for ours, theirs in zip(jax.tree.leaves(shared), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


@given(SOME, SOME)
def test_what_contains_costs_more_and_neighbors_are_near(one, other):
    assert searchers.contains(one, one) and not searchers.neighbors(one, one)
    assert searchers.neighbors(one, other) == searchers.neighbors(other, one)
    if searchers.contains(one, other) and searchers.contains(other, one):
        assert one == other
    if searchers.contains(one, other):
        assert one[0] >= other[0] and sum(one) >= sum(other)
    if searchers.neighbors(one, other):
        assert searchers.contains(one, other) or searchers.contains(other, one)


@given(st.randoms(use_true_random=False), st.integers(0, 2**16))
def test_evolution_takes_the_best_of_what_it_saw_and_nothing_else(random, seed):
    allowed = random.sample(KEYS, 40)
    scores, seen = {key: random.random() for key in allowed}, set()

    def best(keys):
        seen.update(keys)
        return min(keys, key=scores.__getitem__)

    found = searchers.evolved(allowed, best, np.random.default_rng(seed))
    assert found in allowed and scores[found] == min(scores[key] for key in seen)
    assert len(seen) <= searchers.POPULATION + searchers.GENERATIONS * searchers.POPULATION // 2


def test_quick_writes_the_table_from_its_cells(tmp_path, capsys):
    kinds.main(Options(quick=True, results=tmp_path))
    shown = capsys.readouterr().out
    assert all(f"| {kind} |" in shown for kind in kinds.KINDS)
    kinds.main(Options(quick=True, results=tmp_path, tables=True))
    assert capsys.readouterr().out == shown
