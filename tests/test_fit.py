"""`fit`: the whole job from Python, stopped and gone on with, its result, and the network loaded elsewhere."""

import json
import os
import signal
import subprocess
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dms_jax
from dms_jax import SearchSpace
from dms_jax.errors import Interrupted, UserError
from dms_jax.training.metrics import read
from dms_jax.training.results import Quality
from tests.helpers import FLOAT32_LOGITS

ONE = {"devices": jax.devices()[:1], "latency_batches": (1,), "budget": {"macs": 0.5}, "seed": 3}
X = np.random.default_rng(0).normal(size=(32, 6)).astype(np.float32)
Y = np.tanh(X @ np.random.default_rng(1).normal(size=(6, 3))).astype(np.float32)


def network(params, x):
    hidden = jax.nn.relu(x @ params["first"]["w"] + params["first"]["b"][None])
    return hidden @ params["last"][0]


def loss(params, batch, key):
    return jnp.mean((network(params, batch["x"]) - batch["y"]) ** 2), {"metrics": {"seen": jnp.float32(1)}}


def batch_of(step):
    chosen = np.random.default_rng(step).choice(len(X), 8)
    return {"x": X[chosen], "y": Y[chosen]}


def make_params():
    draw = np.random.default_rng(2)
    w, v = (draw.normal(size=s).astype(np.float32) / 3 for s in ((6, 16), (16, 3)))
    return {"first": {"w": jnp.asarray(w), "b": jnp.zeros(16)}, "last": [jnp.asarray(v)]}


def squared_error(fn, params):
    return float(np.mean((np.asarray(fn(params, X)) - Y) ** 2))


def fit(directory, **options):
    given = {"loss": loss, "batches": batch_of, "example": X[:1], "steps": 12, "workdir": directory, **ONE}
    return dms_jax.fit(network, make_params(), **{**given, **options})


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return fit(tmp_path_factory.mktemp("whole"), pretrain=6, finetune=8, evaluate=squared_error, average=0.5)


def bits(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def test_all_of_it(whole):
    assert {record["phase"] for record in read(whole.directory)} == {
        "pretrain", "search", "finetune", "uniform", "full",
    }  # fmt: skip
    rows = whole.results["rows"]
    assert [row["steps"] for row in rows] == [6, 26, 26, 26]
    full, found, even, _ = rows
    assert found["macs"] <= full["macs"] / 2 and even["macs"] <= full["macs"] / 2
    assert found["macs"] == whole.structure.resources["after"]["macs"]
    assert whole.results["quality"] == {"name": "squared error", "unit": "", "also": [], "parts": []}
    assert found["quality"] == pytest.approx(squared_error(whole.fn, whole.params)) and found["stderr"] is None
    assert whole.report is not None and "network" in whole.report.read_text()
    kept = whole.params["first"]["w"].shape[1]
    assert kept == len(whole.structure.kept[next(iter(whole.space.groups))]) < 16
    np.testing.assert_allclose(whole.fn(whole.params, X), network(whole.params, X), atol=FLOAT32_LOGITS)


def test_a_finished_job_gives_its_result_at_once(whole, capsys):
    again = fit(
        whole.directory, pretrain=6, finetune=8, average=0.5, evaluate=lambda *_: pytest.fail("measured again"),
        batches=lambda step: batch_of(0) if step == 0 else pytest.fail("trained again"),
    )  # fmt: skip
    assert bits(again.params) == bits(whole.params) and again.structure == whole.structure
    assert "finished already" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"another job .*seed 3 there, 4 asked"):
        fit(whole.directory, pretrain=6, finetune=8, average=0.5, seed=4)


def test_stopped_anywhere_it_goes_on_to_the_same_bits(whole, tmp_path):
    asked = []

    def batches(step):
        asked.append(step)
        if len(asked) in (4, 14, 22):  # in the pretraining, the search and the finetuning
            os.kill(os.getpid(), signal.SIGINT)
        return batch_of(step)

    options = {"batches": batches, "pretrain": 6, "finetune": 8, "average": 0.5, "evaluate": squared_error}
    stopped = []
    while True:
        try:
            found = fit(tmp_path, **options)
            break
        except Interrupted as stop:
            stopped.append(str(stop).split()[1])
    assert stopped == ["pretrain", "search", "finetune"]
    assert bits(found.params) == bits(whole.params)


@pytest.mark.parametrize("make", [
    lambda: [batch_of(i) for i in range(3)],
    lambda: lambda: (batch_of(i) for i in range(3)),
    lambda: type("Loader", (), {"__iter__": lambda self: iter([batch_of(i) for i in range(3)])})(),
])  # fmt: skip
def test_batches_as_people_have_them(make):
    from dms_jax.data.stepping import by_step

    draw = by_step(make())
    for step in (0, 1, 2, 3, 7, 1, 0):
        assert np.array_equal(draw(step)["x"], batch_of(step % 3)["x"])


def test_batches_that_cannot_be():
    from dms_jax.data.stepping import by_step

    cases = [
        ((batch_of(i) for i in range(3)), "is gone through once"),
        ([], "batches is empty"),
        ("train", r"batches is one str; .*\[batch\]"),
        (batch_of(0), r"batches is one dict; .*\[batch\]"),
        (3, "batches is a int"),
        (lambda a, b: None, "it is called as batches"),
    ]
    for batches, message in cases:
        with pytest.raises(UserError, match=message):
            by_step(batches)
    with pytest.raises(UserError, match="holds none"):
        by_step(lambda: [])(0)


@pytest.mark.parametrize("options, message", [
    ({"loss": lambda params, batch: 0.0}, r"it is called as loss\(params, batch, key\)"),
    ({"optimizer": "adam"}, "optimizer is a str"),
    ({"example": None}, "needs its parameters and an example"),
    ({"budget": {"macs": 1e9}}, "above the full network"),
    ({"colour": "red"}, "no argument 'colour'"),
    ({"retrain": "scratch"}, "needs `fresh`"),
    ({"devices": jax.devices()[:3]}, r"batch of 8 cannot be cut over 3 devices.*devices=jax.devices"),
    ({"accumulate": 3}, "batch of .8, 6. cannot be cut into 3 parts"),
    ({"accumulate": 2, "batches": lambda step: {**batch_of(step), "rate": np.float32(1)}}, "batch of .. cannot be cut"),
])  # fmt: skip
def test_what_is_refused(tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        fit(tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()  # so that the corrected call can have it


def test_an_evaluation_that_gives_no_number(tmp_path):
    with pytest.raises(UserError, match=r"evaluate \(lambda\) returns 'good'; give a number"):
        fit(tmp_path, steps=2, compare=False, finetune=0, evaluate=lambda fn, params: "good")


def test_without_an_evaluation_the_loss_is_the_quality(tmp_path):
    fitted = fit(tmp_path, steps=2, compare=False, finetune=0)
    full, found = fitted.results["rows"]
    assert fitted.results["quality"]["name"] == "training loss" and found["steps"] == 2
    expected = np.mean([float(loss(make_params(), batch_of(i), None)[0]) for i in range(8)])
    assert full["quality"] == pytest.approx(expected, rel=1e-5) and full["stderr"] > 0


def test_several_devices(tmp_path):
    fitted = fit(tmp_path, steps=3, finetune=2, compare=False, devices=jax.devices()[:4], evaluate=squared_error)
    assert fitted.results["rows"][1]["quality"] == pytest.approx(squared_error(fitted.fn, fitted.params))


class Careful(eqx.Module):
    """More leaves that are no arrays than there are arrays."""

    first: eqx.nn.Linear
    drops: list
    last: eqx.nn.Linear

    def __init__(self, key):
        one, two = jax.random.split(key)
        self.first = eqx.nn.Linear(6, 16, use_bias=False, key=one)
        self.drops = [eqx.nn.Dropout(0.1), jax.nn.relu, eqx.nn.Dropout(0.2), eqx.nn.Dropout(0.1)]
        self.last = eqx.nn.Linear(16, 3, use_bias=False, key=two)

    def __call__(self, x, *, key=None):
        x = self.first(x)
        for layer in self.drops:
            x = layer(x, key=key) if isinstance(layer, eqx.nn.Dropout) else layer(x)
        return self.last(x)


def test_a_module_with_leaves_that_are_no_arrays(tmp_path):
    module = Careful(jax.random.key(0))
    space = SearchSpace.from_equinox(module, X[:1])

    def own(module, batch, key):
        out = jax.vmap(lambda x, k: module(x, key=k))(batch["x"], jax.random.split(key, len(batch["x"])))
        return jnp.mean((out - batch["y"]) ** 2)

    quality = Quality("error", "", lambda fn, params: (squared_error(fn, params), 0.1))
    given = {"loss": own, "batches": batch_of, "steps": 3, "pretrain": 2, "finetune": 2, "workdir": tmp_path}
    fitted = dms_jax.fit(space, evaluate=quality, **given, **ONE)
    small = eqx.nn.inference_mode(fitted.params)
    assert isinstance(small, Careful) and small.first.weight.shape[0] < 16
    np.testing.assert_allclose(jax.vmap(small)(X), fitted.fn(fitted.params, X), atol=FLOAT32_LOGITS)
    with pytest.raises(UserError, match="tie= was for the space"):
        dms_jax.fit(space, tie=("a",), **given, **ONE)
    fn, params = dms_jax.load(tmp_path, fn=space)
    np.testing.assert_allclose(eqx.filter_jit(fn)(params, X), fitted.fn(fitted.params, X), atol=FLOAT32_LOGITS)


ELSEWHERE = """
import sys, numpy as np, jax, jax.numpy as jnp
import dms_jax
fn, params = dms_jax.load(sys.argv[1])
x, y = (np.load(sys.argv[1] + f"/{name}.npy") for name in "xy")
np.save(sys.argv[1] + "/out.npy", fn(params, x))
batch, key = {"x": x[:8], "y": y[:8]}, jax.random.key(0)
step = jax.jit(jax.value_and_grad(fn.loss, has_aux=True))
losses = []
for _ in range(5):
    (value, _), slope = step(params, batch, key)
    params = jax.tree.map(lambda p, g: p - 0.1 * g, params, slope)
    losses.append(float(value))
assert losses[-1] < losses[0], losses
assert not [name for name in ("equinox", "keras", "haiku", "orbax", "optax", "flax") if name in sys.modules]
print(losses[0])
"""


def test_a_fresh_process_with_jax_alone_runs_it_and_trains_on(whole):
    np.save(whole.directory / "x.npy", X)
    np.save(whole.directory / "y.npy", Y)
    command = [sys.executable, "-P", "-c", ELSEWHERE, str(whole.directory)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    out = np.load(whole.directory / "out.npy")
    np.testing.assert_allclose(out, whole.fn(whole.params, X), atol=FLOAT32_LOGITS)
    first, _ = loss(whole.params, {"x": X[:8], "y": Y[:8]}, None)
    assert float(done.stdout) == pytest.approx(float(first), rel=1e-4)
    assert not json.loads((whole.directory / "program" / "program.json").read_text())["fixed"]


def test_the_users_function_is_run_smaller(whole, tmp_path):
    fn, params = dms_jax.load(whole.directory, fn=network, host=True)
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(params))
    assert jax.tree.structure(params) == jax.tree.structure(make_params())
    np.testing.assert_allclose(fn(params, X), whole.fn(whole.params, X), atol=FLOAT32_LOGITS)
    with pytest.raises(UserError):
        dms_jax.load(tmp_path)
    with pytest.raises(UserError, match="holds no saved network"):
        dms_jax.load(tmp_path, fn=network)


def test_several_sizes_stopped_in_between_loaded_by_size(tmp_path):
    """One search and one set of weights; the largest teaches, and a stopped finetuning goes on to the same bits."""
    asked = []

    def batches(step):
        asked.append(step)
        if len(asked) == 18:  # in the finetuning
            os.kill(os.getpid(), signal.SIGINT)
        return batch_of(step)

    options = {"budget": {"macs": (0.3, 0.8, 0.5)}, "finetune": 8, "compare": False, "calibrate": 2, "seed": 5}
    options |= {"teach": lambda params, batch: network(params, batch["x"]), "evaluate": squared_error}
    with pytest.raises(Interrupted, match="stopped finetune"):
        fit(tmp_path / "a", batches=batches, **options)
    stopped, unbroken = fit(tmp_path / "a", **options), fit(tmp_path / "b", **options)
    assert bits(stopped.params) == bits(unbroken.params)
    rows = {row["name"]: row for row in unbroken.results["rows"]}
    for size in (0.8, 0.5, 0.3):
        program, params = dms_jax.load(tmp_path / "a", size=size)
        row = rows[f"found by DMS, {size}"]
        assert row["macs"] <= size * unbroken.results["budget"]["macs"]["full"]
        assert row["quality"] == pytest.approx(squared_error(program, params), rel=1e-4)
        fn, own = dms_jax.load(tmp_path / "b", fn=network, size=size)
        np.testing.assert_allclose(program(params, X), fn(own, X), atol=FLOAT32_LOGITS)
    assert unbroken.structure == dms_jax.load(tmp_path / "b")[0].structure
    report = (tmp_path / "b" / "report.html").read_text()
    assert "79.9, 50, 29.9 % of the MACs" in report and "Smaller sizes of the same search" in report
    with pytest.raises(UserError, match="another job"):
        fit(tmp_path / "a", **{**options, "together": False, "teach": None})
    (tmp_path / "b" / "sizes.json").unlink()  # the weights of several sizes, and nothing says which
    with pytest.raises(UserError):
        dms_jax.load(tmp_path / "b", size=0.3)


def test_a_network_that_draws_numbers_over_what_is_searched(tmp_path):
    """A variational autoencoder: its codes are searched, and its key is an input."""
    draw = np.random.default_rng(4)
    shapes = {"into": (6, 8), "mean": (8, 6), "width": (8, 6), "back": (6, 6)}
    params = {name: jnp.asarray(draw.normal(size=s) / 3, jnp.float32) for name, s in shapes.items()}

    def coded(p, x, key):
        h = jax.nn.relu(x @ p["into"])
        mean, width = h @ p["mean"], h @ p["width"]
        return (mean + jnp.exp(width / 2) * jax.random.normal(key, mean.shape)) @ p["back"], mean, width

    def evidence(p, batch, key):
        y, mean, width = coded(p, batch["x"], key)
        apart = jnp.mean(mean**2 + jnp.exp(width) - 1 - width) / 2
        return jnp.mean((y - batch["x"]) ** 2) + 0.01 * apart, {"metrics": {}}

    given = {"loss": evidence, "batches": batch_of, "example": (X[:4], jax.random.PRNGKey(0)), "steps": 4, **ONE}
    found = dms_jax.fit(lambda p, x, key: coded(p, x, key)[0], params, workdir=tmp_path, **given)
    assert len(found.structure.kept["mean"]) < 6
