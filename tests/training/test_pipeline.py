"""What a pipeline does with teachers, averages, other batches after the search, and no controls."""

import json
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dms_jax import Searchable, UserError
from dms_jax.adapters import marked
from dms_jax.method.schedule import Schedule
from dms_jax.method.search import Search
from dms_jax.space import SearchSpace
from dms_jax.training import latency, pipeline, results
from dms_jax.training.pipeline import Pipeline
from dms_jax.training.plan import FOUND, FULL, LONGER, UNIFORM, Steps
from dms_jax.training.results import Quality
from dms_jax.training.sizes import Sizes, split


class Net(Searchable):
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        a = self.elements("a", 8)
        return nn.Dense(3, dtype=self.dtype, name="b")(a(nn.Dense(a.size, dtype=self.dtype, name="a")(x)))


class Recorder:
    """A job that trains nothing and remembers what it was asked for."""

    calibrate = 0

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


AMOUNTS: Any = {0.9: {"macs": 0.9}, 0.7: {"macs": 0.7}, 0.5: {"macs": 0.5}}


@pytest.mark.parametrize("together", [True, False])
def test_several_sizes_are_trained_together_or_each_by_itself(together):
    """With controls that are nested, too, and as many steps for every network."""
    run, variables, asked = pieces(Steps(3, 5, 7), sizes=Sizes(AMOUNTS, together))
    finished = run.run(variables)
    finetuning, control = (["finetune"], ["uniform"]) if together else (
        [f"finetune {size}" for size in AMOUNTS], [f"uniform {size}" for size in AMOUNTS],
    )  # fmt: skip
    assert [name for _, name, *_ in asked] == ["pretrain", "search", *finetuning, *control, "full"]
    assert {steps for _, name, steps, _ in asked if name.startswith("finetune")} == {7}
    names = [f"{kind}{size}" for kind in (FOUND, UNIFORM) for size in ("", ", 0.7", ", 0.5")]
    assert list(finished.networks) == [FULL, *names, LONGER]
    assert [run.steps.after(name) for name in finished.networks] == [3, *[15] * 7]
    full = run.search.space.resources()["macs"]
    for kind in (FOUND, UNIFORM):
        found: list[Any] = [finished.networks[name].structure for name in names if name.startswith(kind)]
        kept = [structure.kept["a"] for structure in found]
        assert set(kept[2]) <= set(kept[1]) <= set(kept[0]) and len(kept[2]) < len(kept[0])
    for network, size in zip(finished.found(), AMOUNTS, strict=True):
        assert run.search.space.resources(network.structure)["macs"] <= size * full
        assert network.fn(network.params, np.ones((2, 4), np.float32)).shape == (2, 3)
    measured = results.measure(finished, run.search, run.steps, Quality("loss", "", lambda *_: (0.5, 0.1)), (1,))
    assert measured["sizes"] == ["found by DMS, 0.9", "found by DMS, 0.7", "found by DMS, 0.5"]
    assert measured["sizes"] == [row["name"] for row in measured["rows"][1:4]]
    assert measured["rows"][5]["name"] == "same ratio everywhere, 0.7"
    assert measured["budget"]["macs"]["asked"] == 0.9
    shares = ", ".join(f"{100 * int(size * full) / full:.3g}" for size in AMOUNTS)
    assert results.shares(run.search, finished.sizes) == f"{shares} % of the MACs"


def test_sizes_are_sorted_and_what_are_none_is_refused():
    space = pieces(Steps(0, 5, 0))[0].search.space
    assert list(Sizes.of(space, "macs", (0.5, "90 %", 40)).budgets) == ["90 %", 40, 0.5]
    for amounts, message in {
        (0.5,): "give two or more",
        (0.5, 0.9, "50 %"): "size 0.5 of macs is given twice|size 50 % of macs is given twice",
        (0.5, "1 kg"): "unknown unit",
        (0.5, -1): "is not a positive number",
        (0.5, "1M"): "size 1M is above the full network's .* MACs .*; give sizes up to it",
        (0.5, 0.3, "0.30"): "is given twice",
        tuple(np.linspace(0.2, 1, 65)): "65 sizes of one network are not possible",
        (0.5, f"0.{'3' * 70}"): "not a positive number or a text",
    }.items():
        with pytest.raises(UserError, match=message):
            Sizes.of(space, "macs", amounts)
    of_numpy = np.array([0.5, 0.75], np.float32)
    for several in ([0.5, 0.9], of_numpy, {0.5, 0.9}, tuple(of_numpy), (" 50  % ", 0.9)):
        _, sizes = split(space, {"macs": several}, True, lambda *_: 0.0)
        assert sizes is not None and json.dumps(sizes.identity) and len(sizes.budgets) == 2
    budgets = {"macs": (0.9, 0.5), "params": 0.5}, {"macs": 0.5, "params": (0.9, 0.5)}
    one, other = (split(space, budget, True, lambda *_: 0.0)[1] for budget in budgets)
    assert one is not None and other is not None and one.identity != other.identity
    with pytest.raises(UserError, match="budget on 'energy': give one on macs or"):
        Sizes.of(space, "energy", (0.5, 0.25))
    with pytest.raises(UserError, match="budgets on macs and params have several amounts"):
        split(space, {"macs": (0.5, 0.4), "params": [0.5, 0.4]}, True, lambda *_: 0.0)
    with pytest.raises(UserError, match="teach= is of several sizes that are finetuned together"):
        split(space, {"macs": 0.5}, True, lambda *_: 0.0, lambda params, batch: jnp.zeros(1))


@pytest.mark.parametrize(
    ("teach", "message"),
    [
        (3, "teach 3 cannot be called"),
        (lambda params: params, r"teach takes \(params\); it is called as teach\(params, batch\)"),
        (lambda params, batch, key: batch, r"teach takes \(params, batch, key\)"),
        (lambda params, batch: {"logits": batch}, "teach returns dict; give the logits"),
        (lambda params, batch: jnp.sum(batch), r"teach returns float32\[\]; give the logits"),
        (lambda params, batch: jnp.argmax(batch, axis=-1), r"teach returns int32\[2\]; give the logits"),
    ],
)
def test_what_cannot_teach_is_refused_before_the_search(teach, message):
    space = pieces(Steps(0, 5, 0))[0].search.space
    with pytest.raises(UserError, match=message):
        split(space, {"macs": (0.9, 0.5)}, True, lambda *_: 0.0, teach, jnp.ones((2, 4)))


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
