"""A trial before the finetuning: what was found beside a block less, the better one goes on."""

import json
import os
import re
import signal
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dms_jax
from dms_jax import Limits, Schedule, Search, SearchSpace, UserError
from dms_jax.errors import Interrupted
from dms_jax.method.found import shallower
from dms_jax.training import trial
from dms_jax.training.metrics import read
from dms_jax.training.plan import Steps

BLOCKS, WIDTH = 4, 6
X = np.random.default_rng(0).normal(size=(64, WIDTH)).astype(np.float32)
Y = np.tanh(X @ np.random.default_rng(1).normal(size=(WIDTH, 3))).astype(np.float32)
ONE = {"devices": jax.devices()[:1], "latency_batches": (1,), "budget": {"macs": 0.6}, "example": X[:1], "steps": 12}


def network(params, x):
    for block in params["blocks"]:
        x = x + jax.nn.relu(x @ block["in"]) @ block["out"]
    return x @ params["last"]


def loss(params, batch, key):
    return jnp.mean((network(params, batch["x"]) - batch["y"]) ** 2)


def batch_of(step):
    chosen = np.random.default_rng(step).choice(len(X), 16)
    return {"x": X[chosen], "y": Y[chosen]}


def make_params(blocks=BLOCKS):
    draw = np.random.default_rng(2)
    new = lambda *shape: jnp.asarray(draw.normal(size=shape).astype(np.float32) / 3)  # noqa: E731
    return {"blocks": [{"in": new(WIDTH, 8), "out": new(8, WIDTH)} for _ in range(blocks)], "last": new(WIDTH, 3)}


def fit(directory, **options):
    given = {"loss": loss, "batches": batch_of, "workdir": directory, "finetune": 8, "compare": False, **ONE}
    return dms_jax.fit(network, make_params(), **{**given, **options})


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return fit(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def tried(tmp_path_factory):
    return fit(tmp_path_factory.mktemp("tried"), trial=4)


def depth_of(structure):
    return next(kept for name, kept in structure.kept.items() if name.endswith("depth"))


def test_both_are_finetuned_and_the_one_with_less_loss_goes_on(plain, tried):
    phases = [record["phase"] for record in read(tried.directory)]
    assert list(dict.fromkeys(phases)) == ["search", *trial.PHASES, "finetune"]
    rows = {row["name"]: row for row in tried.results["rows"]}
    found = rows["found by DMS"]
    assert found["steps"] == 12 + 2 * 4 + 8
    assert "trial of 4 steps: loss" in found["note"] and "trial" in (tried.report or tried.directory).read_text()
    fewer = depth_of(tried.structure) != depth_of(plain.structure)
    assert found["note"].endswith("without it" if fewer else "as it was found")
    kept, less = (float(text) for text in re.findall(r"[\d.]+(?= as found| without block)", found["note"]))
    assert (less < kept) == fewer


@pytest.mark.parametrize("better", [0, 1])
def test_the_better_one_goes_on_whichever_it_is(better, plain, tmp_path, monkeypatch):
    """The finetuning is then the one that this structure would have had without a trial."""
    losses = iter([np.full(trial.JUDGED, float(better)), np.full(trial.JUDGED, float(1 - better))])
    monkeypatch.setattr(trial, "_losses", lambda *_: next(losses))
    ended = fit(tmp_path, trial=4)
    if not better:
        assert ended.structure == plain.structure
        jax.tree.map(np.testing.assert_array_equal, ended.params, plain.params)
        return
    before, after = set(depth_of(plain.structure)), set(depth_of(ended.structure))
    assert len(before - after) == 1 and after < before
    full = ended.space.resources()["macs"]
    assert ended.structure.resources is not None and ended.structure.resources["after"]["macs"] <= 0.6 * full
    gone = (before - after).pop()
    assert f"without block {gone} of " in ended.results["rows"][-1]["note"]


def search_of(blocks=BLOCKS, limits=None, budget=0.6):
    space = SearchSpace.from_function(network, make_params(blocks), X[:1])
    return Search(space, loss, None, {"macs": budget}, Schedule(4), limits=limits or Limits())


def searched(search, blocks=BLOCKS):
    state = search.init(search.space.arrays(make_params(blocks)))
    for i in range(4):
        state, _ = jax.jit(search.step)(state, batch_of(i), jax.random.key(i))
    return state


def test_the_weakest_block_goes_and_its_cost_goes_to_the_rest():
    search = search_of()
    state = searched(search)
    found = search.structure(state)
    (less,) = shallower(search, state, found, None)
    name = next(name for name in found.kept if name.endswith("depth"))
    importance = np.asarray(state.importance[name])
    weakest = min(found.kept[name], key=lambda i: importance[i])
    assert less.kept[name] == tuple(i for i in found.kept[name] if i != weakest)
    costs = [search.space.resources(structure.kept)["macs"] for structure in (found, less)]
    assert max(costs) <= search.targets["macs"] and min(costs) > 0.85 * search.targets["macs"]
    wider = [n for n, kept in less.kept.items() if n not in less.removed and len(kept) > len(found.kept[n])]
    assert wider


def test_of_two_streams_one_block_goes_and_none_comes_back():
    """Room that a block leaves is for widths: a block of the other stream that had gone does not return for it."""

    def two(params, x):
        for name in ("a", "b"):
            for block in params[name]:
                x = x + jax.nn.relu(x @ block["in"]) @ block["out"]
            x = x @ params[f"{name}_last"]
        return x

    params = {"a": make_params()["blocks"], "b": [], "a_last": jnp.ones((WIDTH, 9)) / 5, "b_last": jnp.ones((9, 3)) / 5}
    draw = np.random.default_rng(3)
    new = lambda *shape: jnp.asarray(draw.normal(size=shape).astype(np.float32) / 3)  # noqa: E731
    params["b"] = [{"in": new(9, 8), "out": new(8, 9)} for _ in range(3)]
    space = SearchSpace.from_function(two, params, X[:1])
    search = Search(space, lambda p, b, k: jnp.mean((two(p, b["x"]) - b["y"]) ** 2), None, {"macs": 0.5}, Schedule(4))
    state = search.init(space.arrays(params))
    for i in range(4):
        state, _ = jax.jit(search.step)(state, batch_of(i), jax.random.key(i))
    depths = [name for name, group in space.groups.items() if group.rules.gates]
    assert len(depths) == 2
    structures = [search.structure(state)]
    while less := shallower(search, state, structures[-1], None):
        before, after = ({(n, i) for n in depths for i in s.kept[n]} for s in (structures[-1], less[0]))
        assert after < before  # the projection may close further ones that cost too much
        structures += less
    assert len(structures) > 1


@pytest.mark.parametrize("limits", [Limits(freeze=["*depth"]), Limits(min_size={"*depth": 4})])
def test_blocks_that_may_not_go_stay(limits):
    search = search_of(limits=limits)
    state = searched(search)
    assert shallower(search, state, search.structure(state), None) == []
    with pytest.raises(UserError, match="no block of this network may go"):
        trial.check(search.space, limits)


def test_a_limit_counts_what_is_left():
    """Two of four must stay: from three one may go, from two none."""
    search = search_of(limits=Limits(min_size={"*depth": 3}), budget=0.5)
    state = searched(search)
    found = search.structure(state)
    less = shallower(search, state, found, None)
    assert len(less) == (len(depth_of(found)) > 3)
    again = shallower(search, state, less[0], None) if less else []
    assert all(len(depth_of(structure)) >= 3 for structure in [*less, *again])


def test_stopped_in_a_trial_it_goes_on_to_the_same_bits(tried, tmp_path):
    asked, stopped = [], []

    def batches(step):
        asked.append(step)
        if len(asked) in (16, 20, 50):  # in the first trial, in the second, where they are judged
            os.kill(os.getpid(), signal.SIGINT)
        return batch_of(step)

    while True:
        try:
            found = fit(tmp_path, trial=4, batches=batches)
            break
        except Interrupted as stop:
            stopped.append(str(stop))
    assert len(stopped) == 3 and "trial" in stopped[0]
    assert found.structure == tried.structure
    jax.tree.map(np.testing.assert_array_equal, found.params, tried.params)


REFUSED = {
    "negative": ({"trial": -1}, "trial -1"),
    "no number": ({"trial": "100"}, "trial '100'"),
    "without a finetuning": ({"trial": 4, "finetune": 0}, "of a finetuning, and there is none"),
    "longer than it": ({"trial": 9}, "longer than the finetuning of 8"),
    "several sizes": ({"trial": 4, "budget": {"macs": (0.6, 0.4)}}, "several sizes"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_trial_is_refused_before_a_directory_is_claimed(name, tmp_path):
    options, message = REFUSED[name]
    with pytest.raises(UserError, match=message):
        fit(tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_a_network_without_blocks_has_nothing_to_try(tmp_path):
    def flat(params, x):
        return jax.nn.relu(x @ params["in"]) @ params["out"]

    params = {"in": jnp.ones((WIDTH, 8)) / 9, "out": jnp.ones((8, 3)) / 9}
    given = {"loss": lambda p, b, k: jnp.mean((flat(p, b["x"]) - b["y"]) ** 2), "batches": batch_of, **ONE}
    with pytest.raises(UserError, match="no block of this network may go"):
        dms_jax.fit(flat, params, workdir=tmp_path / "run", trial=4, **given)
    assert not (tmp_path / "run").exists()


def test_another_trial_is_another_job_and_none_is_the_job_of_before(plain, tried):
    with pytest.raises(UserError, match=r"another job .*trial"):
        fit(tried.directory, trial=5)
    fit(plain.directory)  # finished already
    identity = json.loads((plain.directory / "config.json").read_text())
    assert "trial" not in identity and Steps(1, 2, 3).identity == replace(Steps(1, 2, 3), trial=0).identity


def test_where_a_block_less_has_no_structure_what_was_found_goes_on():
    ended = trial.run(None, None, [(None, None, None)], [None], None, 4)  # type: ignore[arg-type]
    assert ended.chosen == 0 and "nothing was compared" in ended.words
