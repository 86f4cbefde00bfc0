"""The space in which every structure is trained: masked training is training the smaller network; the table."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dms_jax.conduct import warm_cosine
from dms_jax.shrink import shrink
from dms_jax.training import supervised
from dms_jax.training.language import bits_per_token, language_loss
from experiments.benchmarks import exhaustive, regret
from experiments.benchmarks.command import Options
from experiments.benchmarks.methods import OURS
from experiments.benchmarks.store import Cells
from experiments.llama_prune import adamw


@pytest.fixture(scope="module")
def space():
    return exhaustive.Space(exhaustive.QUICK)


def test_the_real_space_has_172_structures():
    keys = exhaustive.structures(exhaustive.Size())
    assert len(keys) == len(set(keys)) == 172


def test_a_structure_and_its_key(space):
    for key in space.keys:
        assert space.key(space.space.structure(space.kept(key))) == key
    assert space.share(space.keys[-1]) == 1.0


def test_masked_training_is_training_the_smaller_network(space):
    key, seed = (4, 1, 4), 0
    params, tokens, masks = space.new(seed), space.batches(seed, 0, exhaustive.QUICK.steps), space.masks(key)
    masked = float(jax.jit(lambda p, m, t: space.bits(space.trained(p, m, t), m, space.test))(params, masks, tokens))

    structure = space.space.structure(space.kept(key))
    small = space.space.model.clone(structure=structure)
    optimizer = adamw(warm_cosine(exhaustive.QUICK.learning_rate, exhaustive.QUICK.steps))
    state = supervised.init(shrink(space.space, {"params": params}, structure), optimizer)
    step = jax.jit(supervised.make_step(language_loss(small), optimizer))
    for windows in tokens:
        state, _ = step(state, {"tokens": windows}, jax.random.key(0))
    alone = bits_per_token(small.apply, state.params, [{"tokens": jnp.asarray(space.test)}]).value
    assert masked == pytest.approx(alone, rel=1e-5)


def test_the_best_is_chosen_by_other_seeds():
    band = np.array([[1.0, 1.0, 9.0], [2.0, 2.0, 2.0]])  # the first is best by luck of two seeds
    # without seed 0 or 1 the second is best (2 < 5); without seed 2 the first is, and there it has 9
    assert regret.loss_to_best(np.array([2.0, 2.0, 2.0]), band) == pytest.approx((0.0 + 0.0 - 7.0) / 3)


def test_quick_writes_the_table_from_its_cells(tmp_path, capsys):
    regret.main(Options(quick=True, results=tmp_path))
    shown = capsys.readouterr().out
    assert "| DMS |" in shown and "random (mean of the band)" in shown
    regret.main(Options(quick=True, results=tmp_path, tables=True))
    assert capsys.readouterr().out == shown
    assert not list(tmp_path.rglob("*.part"))


def test_rates_are_chosen_by_windows_that_no_table_looks_at(space, tmp_path):
    test, valid = ({bytes(row) for row in windows} for windows in (space.test, space.valid))
    assert len(valid) == len(test) and not valid & test

    benchmark = regret.Benchmark(space, Cells(tmp_path), [OURS, "uniform"], (0.4,), rates=(1.0, 2.0), tried=(99,))
    slow, fast = benchmark.grids[OURS]
    for settings, score in ((slow, 3.0), (fast, 2.0), (dataclasses.replace(fast, rate=2 * fast.rate), 4.0)):
        made = {"pick": [2], "valid": score}
        benchmark.cells.fill([(benchmark.pick_cell(settings, 99), lambda *_, made=made: made)], "x", "data")
    assert benchmark.settings(OURS, 0.25) == dataclasses.replace(fast, budget=0.25)
    assert benchmark.pick_cell(fast, 0).path != benchmark.pick_cell(slow, 0).path
