"""What a pipeline does with teachers, averages, other batches after the search, and no controls."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dms_jax import Searchable
from dms_jax.adapters import marked
from dms_jax.method.schedule import Schedule
from dms_jax.method.search import Search
from dms_jax.space import SearchSpace
from dms_jax.training import latency, pipeline, results
from dms_jax.training.pipeline import FOUND, FULL, LONGER, UNIFORM, Pipeline, Steps
from dms_jax.training.results import Quality


class Net(Searchable):
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        a = self.elements("a", 8)
        return nn.Dense(3, dtype=self.dtype, name="b")(a(nn.Dense(a.size, dtype=self.dtype, name="a")(x)))


class Recorder:
    """A job that trains nothing and remembers what it was asked for."""

    def __init__(self, name, asked):
        self.name, self.asked, self.mesh, self.loss = name, asked, None, lambda params, batch, key: 0.0

    def phase_key(self, name):
        return jax.random.key(7)

    def train(self, name, loss, params, optimizer, steps, *, trained=None, average=None):
        assert jax.tree.structure(trained) == jax.tree.structure(params) and all(jax.tree.leaves(trained))
        self.asked.append((self.name, name, steps, average))
        return params

    def search(self, name, search, variables):
        self.asked.append((self.name, name, search.schedule.steps, None))
        return search.init(variables)


def pieces(steps, model=None, **options: Any):
    model = model or Net()
    asked = []
    options = {name: make(asked) if callable(make) else make for name, make in options.items()}
    space = SearchSpace.from_model(model, jax.ShapeDtypeStruct((1, 4), jnp.float32))
    search = Search(space, lambda *_: 0.0, optax.sgd(0.1), {"macs": 0.5}, Schedule(5))  # type: ignore[arg-type]
    made = Pipeline(
        Recorder("job", asked),  # type: ignore[arg-type]
        search,
        steps,
        lambda n: optax.sgd(0.1),
        model={"name": "net", "arguments": {}},
        example=np.ones((2, 4), np.float32),
        fresh=marked.fresh(space),
        checked=marked.exact(space),
        **options,
    )
    variables = model.init(jax.random.key(0), jnp.ones((1, 4)))
    return made, variables, asked


def recorder(name):
    return lambda asked: lambda pretrained: Recorder(name, asked)


def test_every_phase_has_the_job_it_is_given():
    run, variables, asked = pieces(Steps(3, 5, 7), taught=recorder("taught"), average=0.9)
    run.run(variables)
    assert asked == [
        ("job", "pretrain", 3, None),
        ("taught", "search", 5, None),
        ("taught", "finetune", 7, 0.9),
        ("taught", "uniform", 12, 0.9),
        ("job", "full", 12, 0.9),
    ]
    run, variables, asked = pieces(Steps(3, 5, 7), taught=recorder("taught"), retaught=recorder("retaught"))
    run.run(variables)
    assert [who for who, *_ in asked] == ["job", "taught", "retaught", "retaught", "retaught"]


def test_without_controls_there_are_two_trainings_less(monkeypatch):
    steps = Steps(0, 5, 7, compare=False)
    assert steps.plan == "search 5, finetune 7" and steps.controls == 0
    run, variables, asked = pieces(steps)
    finished = run.run(variables)
    assert [name for _, name, *_ in asked] == ["search", "finetune"]
    assert list(finished.networks) == [FOUND]
    run, variables, _ = pieces(Steps(3, 5, 7, compare=False))
    assert list(run.run(variables).networks) == [FULL, FOUND]
    run, variables, _ = pieces(Steps(3, 5, 0))
    assert list(run.run(variables).networks) == [FULL, FOUND, UNIFORM]
    run, variables, _ = pieces(Steps(0, 5, 7))
    assert list(run.run(variables).networks) == [FOUND, UNIFORM, LONGER]

    # nobody trained the full network, and its latency is compared all the same
    seen = []
    monkeypatch.setattr(latency, "latency_warnings", lambda full, found, macs: seen.append((full, found)) or [])
    quality = Quality("accuracy", "%", lambda fn, params: (0.5, 0.1, 0.9))
    measured = results.measure(finished, run.search, steps, quality, batches=(1,))
    assert [row["name"] for row in measured["rows"]] == ["found by DMS"]
    assert (measured["rows"][0]["quality"], measured["rows"][0]["stderr"]) == (0.5, 0.1)
    ((full, found),) = seen
    assert full["1"] > 0 and found["1"] > 0


@pytest.mark.parametrize("retrain", ["sliced", "scratch"])
def test_where_retraining_begins(retrain, monkeypatch):
    """The network that was found, and its control alike."""
    monkeypatch.setattr(pipeline, "place", lambda tree, mesh: tree)
    run, variables, _ = pieces(Steps(0, 5, 7), retrain=retrain)
    networks = run.run(variables).networks
    for name in (FOUND, UNIFORM):
        _, started, structure = networks[name]
        new: Any = run.search.space.model.clone(structure=structure).init(jax.random.key(7), jnp.ones((1, 4)))
        fresh = new["params"]["b"]["kernel"]
        assert started["params"]["b"]["kernel"].shape == fresh.shape
        assert np.array_equal(started["params"]["b"]["kernel"], fresh) == (retrain == "scratch")


def test_half_precision_does_not_spoil_the_check():
    """In bfloat16 a sum in another order differs by more than the check allows; the structure is right all the same."""
    run, variables, _ = pieces(Steps(0, 5, 0, compare=False), model=Net(dtype=jnp.bfloat16))
    variables = jax.tree.map(lambda x: 30 * x, variables)
    assert run.run(variables).difference < 1e-3
    assert run.search.space.model.dtype == jnp.bfloat16  # type: ignore[attr-defined]
