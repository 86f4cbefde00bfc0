"""A small MobileNetV2 with a new head through the whole command, without PyTorch and without the network."""

import json

import jax
import numpy as np
import pytest

pytest.importorskip("PIL", reason="of the extra data")
pytest.importorskip("sklearn", reason="of the extra data")

import dms_jax  # noqa: E402 - after the check for its needs
from dms_jax import UserError  # noqa: E402
from dms_jax.training import latency  # noqa: E402
from experiments import mobilenet_pictures, mobilenet_prune  # noqa: E402
from experiments.mobilenet_prune import AGREEMENT, CLASSES  # noqa: E402
from tests.experiments import mobilenet_cases as cases  # noqa: E402
from tests.experiments.stopping import check_stopped_and_resumed  # noqa: E402
from tests.helpers import FLOAT32_LOGITS  # noqa: E402

SIZE = 32
STAGES = ((1, 8, 1, 1), (4, 8, 2, 2))


@pytest.fixture(autouse=True, scope="module")
def wheels(tmp_path_factory):
    """A small network of drawn weights; latency has tests of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latency, "rows", lambda networks, *_: {name: {"1": 1.0, "64": 2.0} for name in networks})
        patch.setattr(mobilenet_prune, "NETWORK", {**mobilenet_prune.NETWORK, "stages": STAGES, "head": 24})
        patch.setattr(mobilenet_prune, "weights", lambda given: given)
        patch.setattr(mobilenet_prune, "original", lambda path: original())
        yield cases.wheels(tmp_path_factory.mktemp("wheels"), patch)


def original():
    images = np.zeros((1, SIZE, SIZE, 3), np.float32)
    return dict(mobilenet_prune.network(CLASSES).init(jax.random.key(3), images))


def arguments(wheels, workdir, *more):
    steps = ["--steps=6", "--finetune-steps=4", "--batch=8", f"--resolution={SIZE}", "--crops=3"]
    return [f"--wheels={wheels}", f"--workdir={workdir}", *steps, *more]


@pytest.fixture(scope="module")
def alone(wheels, tmp_path_factory):
    """A finished run, never stopped."""
    workdir = tmp_path_factory.mktemp("alone") / "run"
    mobilenet_prune.main(arguments(wheels, workdir))
    return workdir


def test_pruned_beside_its_controls(alone):
    results = json.loads((alone / "results.json").read_text())
    full, found, uniform, _ = results["rows"]
    assert [row["name"] for row in results["rows"]][1:] == [
        "found by DMS",
        "same ratio everywhere",
        "full network, trained on",
    ]
    assert full[AGREEMENT] == 1 and 0 <= found[AGREEMENT] <= 1
    assert max(found["macs"], uniform["macs"]) <= 0.5 * full["macs"]
    assert "crops of" in results["data"] and AGREEMENT in (alone / "report.html").read_text()


def test_what_comes_out_runs_alone(alone):
    fn, params = dms_jax.load(alone)
    images = np.random.default_rng(0).normal(size=(3, SIZE, SIZE, 3)).astype(np.float32)
    assert fn(params, images).shape == (3, CLASSES + 2)
    np.testing.assert_allclose(fn(params, images[:1]), fn(params, images)[:1], atol=FLOAT32_LOGITS)


def test_stopped_and_resumed(alone, wheels, tmp_path, monkeypatch):
    workdir = tmp_path / "run"
    job = arguments(wheels, workdir)
    check_stopped_and_resumed(mobilenet_prune.main, job, mobilenet_prune, 3, workdir, alone, monkeypatch)


def test_the_new_head_is_the_regression_and_the_old_one_stays(wheels):
    variables = original()
    pictures = mobilenet_pictures.collect(wheels, SIZE, 2, seed=0)
    made = mobilenet_prune.with_head(variables, pictures)
    old, new = (mobilenet_prune.network(n).apply for n in (CLASSES, CLASSES + 2))
    image = mobilenet_prune.normalized(pictures.train.patches)
    logits = new(made, image)
    np.testing.assert_allclose(logits[:, :CLASSES], old(variables, image), atol=FLOAT32_LOGITS)
    kinds = pictures.train.kinds
    assert np.mean(np.argmax(logits[:, CLASSES:], -1) == kinds) > max(np.mean(kinds), 1 - np.mean(kinds))


def test_crops_have_no_part_in_the_new_head(wheels):
    """The gradient of the task alone comes from patches; of crops alone there is none, and no division by 0."""
    model = mobilenet_prune.network(CLASSES + 2)
    image = np.random.default_rng(0).normal(size=(4, SIZE, SIZE, 3)).astype(np.float32)
    variables = dict(model.init(jax.random.key(0), image))
    alone = mobilenet_prune.Distillation(0.0)

    def loss(params, label):
        batch = {"image": image, "label": np.array(label), "teacher_logits": np.zeros((4, CLASSES), np.float32)}
        value, aux = mobilenet_prune.specialized(
            model, alone, {**variables, "params": params}, batch, jax.random.key(1)
        )
        return value, aux["metrics"]

    (value, metrics), slopes = jax.value_and_grad(loss, has_aux=True)(variables["params"], [-1] * 4)
    assert value == 0 == metrics["accuracy"] and all((leaf == 0).all() for leaf in jax.tree.leaves(slopes))
    (value, _), slopes = jax.value_and_grad(loss, has_aux=True)(variables["params"], [-1, 0, 1, -1])
    assert value > 0 and (slopes["classifier"]["kernel"][:, :CLASSES] == 0).all()


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--distill=2", "weight in .0, 1."),
        ("--crops=0", "--crops 0 is not possible"),
        ("--wheels=nowhere", "nowhere is no directory"),
    ],
)
def test_flags_that_are_refused_leave_nothing(flag, said, wheels, tmp_path):
    with pytest.raises(UserError, match=said):
        mobilenet_prune.main([*arguments(wheels, tmp_path / "run"), flag])
    assert not list(tmp_path.iterdir())
