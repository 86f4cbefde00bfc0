"""Phases of a job: what is handed in stays whole, every phase has a key of its own, masks are recorded."""

import dataclasses
import json

import jax
import numpy as np
import optax
import pytest

from dms_jax.method.schedule import Schedule
from dms_jax.method.search import Search
from dms_jax.space import SearchSpace
from dms_jax.training import make_mesh, replicate, runs, shard_batch, supervised
from dms_jax.training.job import RECORDS, Job
from dms_jax.training.metrics import read
from tests import tiny


@pytest.fixture(scope="module")
def parts():
    model = tiny.make()
    mesh = make_mesh(jax.devices()[:2])
    return model, SearchSpace.from_model(model, tiny.EXAMPLE), mesh, replicate(tiny.variables(model), mesh)


def job(run, mesh, seed=0):
    batches = lambda i: shard_batch(tiny.batch_of(i), mesh)  # noqa: E731
    return Job(run, supervised.classification_loss(tiny.make()), batches, mesh, jax.random.key(seed))


def search_of(space, model, steps):
    loss = supervised.classification_loss(model)
    return Search(space, loss, optax.sgd(0.1), {"macs": 0.5}, Schedule(steps))


def bits(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def test_what_is_handed_in_survives_donation_and_can_start_another_phase(parts, tmp_path):
    model, space, mesh, variables = parts
    before = bits(variables)
    with runs.Run(tmp_path, {}) as run:
        this = job(run, mesh)
        first = this.train("first", this.loss, variables, optax.sgd(0.1), 2)
        state = this.search("search", search_of(space, model, 3), first)
        second = this.train("second", this.loss, first, optax.sgd(0.1), 2)
        assert set(run.seconds) == {"first", "search", "second"} and min(run.seconds.values()) > 0
    assert bits(variables) == before
    assert bits(first) != before and bits(second) != bits(first)
    assert int(state.step) == 3
    for leaf in jax.tree.leaves((first, state)):
        assert len(leaf.sharding.device_set) == 2

    with runs.Run(tmp_path, {}) as run:  # all is done: the same comes back, and nothing runs
        this = Job(run, this.loss, lambda i: pytest.fail("a batch was asked for"), mesh, this.key)
        assert bits(this.train("first", this.loss, variables, optax.sgd(0.1), 2)) == bits(first)
        assert bits(this.search("search", search_of(space, model, 3), first)) == bits(state)

    records = [json.loads(line) for line in (tmp_path / runs.MASKS).read_text().splitlines()]
    assert [(r["phase"], r["step"]) for r in records] == [("search", 1), ("search", 2), ("search", 3)]
    for name, text in records[-1]["masks"].items():
        assert len(bytes.fromhex(text)) == space.groups[name].size


def test_batches_of_a_training_may_depend_on_its_length_and_those_of_a_search_do_not(parts, tmp_path):
    model, space, mesh, variables = parts
    asked = []

    def ending(steps):
        def draw(step):
            asked.append((steps, step))
            return shard_batch(tiny.batch_of(step), mesh)

        return draw

    with runs.Run(tmp_path, {}) as run:
        this = dataclasses.replace(job(run, mesh), ending=ending)
        trained = this.train("first", this.loss, variables, optax.sgd(0.1), 2)
        this.search("search", search_of(space, model, 3), trained)
        this.train("second", this.loss, trained, optax.sgd(0.1), 1)
    assert [pair for pair in asked if pair[1] < pair[0]] == [(2, 0), (2, 1), (1, 0)]


def test_keys_of_phases_depend_on_their_names_alone(tmp_path):
    keys = Job(None, None, None, None, jax.random.key(3))  # type: ignore[arg-type]
    names = ["pretrain", "search", "scratch", "finetune", "uniform", "full", ""]
    found = {name: tuple(jax.random.key_data(keys.phase_key(name)).tolist()) for name in names}
    assert len(set(found.values())) == len(names)
    again = Job(None, None, None, None, jax.random.key(3))  # type: ignore[arg-type]
    assert tuple(jax.random.key_data(again.phase_key("uniform")).tolist()) == found["uniform"]
    other = Job(None, None, None, None, jax.random.key(4))  # type: ignore[arg-type]
    assert tuple(jax.random.key_data(other.phase_key("uniform")).tolist()) != found["uniform"]


def test_a_phase_keeps_about_as_many_records_however_long(parts, tmp_path):
    model, _, mesh, variables = parts
    steps = 2 * RECORDS + 1
    with runs.Run(tmp_path, {}) as run:
        this = job(run, mesh)
        this.train("long", this.loss, variables, optax.sgd(0.1), steps)
    steps_recorded = [record["step"] for record in read(tmp_path)]
    assert steps_recorded == [1, *range(2, steps, 2), steps]
