from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dms_jax.errors import UserError
from dms_jax.training import make_mesh, shard_batch, supervised
from dms_jax.training.distillation import (
    Distillation,
    at_resolution,
    correlation_losses,
    forward_kl,
    image_teacher,
    taught,
)
from tests import tiny
from tests.models.small import NETWORKS, SIZE


def test_value_by_hand():
    p, q = np.array([0.7, 0.2, 0.1]), np.array([0.5, 0.25, 0.25])
    expected = float(np.sum(p * np.log(p / q)))
    assert forward_kl(jnp.log(p), jnp.log(q)) == pytest.approx(expected, rel=1e-6)
    assert forward_kl(jnp.log(p), jnp.log(p)) == pytest.approx(0, abs=1e-7)


def test_temperature_keeps_the_size_of_the_gradient():
    teacher, student = jax.random.normal(jax.random.key(0), (2, 5, 7)) * 0.01
    gradients = [jax.grad(lambda s, t=t: forward_kl(teacher, s, t).sum())(student) for t in (1.0, 8.0)]
    # to first order in the logits (1 % here) the gradient is (student - teacher) / V whatever the temperature
    chex.assert_trees_all_close(*gradients, atol=0.03 * float(jnp.abs(gradients[0]).max()))


def test_mix_and_no_gradient_to_the_teacher():
    logits, labels = jnp.array([[2.0, -1.0, 0.5]]), jnp.array([1])
    theirs = jnp.array([[1.0, 2.0, 3.0]])
    task = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    def loss(scale, weight):
        return Distillation(weight).mix(task, logits, scale * theirs)

    assert loss(1.0, 0.0) == task
    assert loss(1.0, 1.0) == pytest.approx(float(forward_kl(theirs, logits)[0]))
    assert jax.grad(loss)(1.0, 0.5) == 0


def test_taught_batches():
    batches = taught(lambda i: {"x": jnp.full((2, 3), float(i))}, lambda w, b: b["x"] * w, jnp.float32(3))
    chex.assert_trees_all_equal(batches(2), {"x": jnp.full((2, 3), 2.0), "teacher_logits": jnp.full((2, 3), 6.0)})


@pytest.mark.parametrize(("weight", "temperature"), [(-0.1, 1.0), (1.1, 1.0), (0.5, 0.0)])
def test_impossible_settings(weight, temperature):
    with pytest.raises(UserError, match="a weight in"):
        Distillation(weight, temperature)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_correlations_are_pearsons(temperature):
    """Against NumPy's own correlation coefficients, in float64."""
    teacher, student = np.random.default_rng(0).normal(size=(2, 6, 5))
    p, q = softmax(teacher / temperature), softmax(student / temperature)
    inter = 1 - np.mean([np.corrcoef(p[i], q[i])[0, 1] for i in range(6)])
    intra = 1 - np.mean([np.corrcoef(p[:, j], q[:, j])[0, 1] for j in range(5)])
    found = correlation_losses(jnp.float32(teacher), jnp.float32(student), temperature)
    np.testing.assert_allclose(found, [temperature**2 * inter, temperature**2 * intra], rtol=1e-5)
    np.testing.assert_allclose(correlation_losses(jnp.float32(p), jnp.float32(p)), [0, 0], atol=1e-6)
    mixed = Distillation(kind="dist", beta=2, gamma=3, temperature=temperature).mix(
        jnp.float32(0.5), jnp.float32(student), jnp.float32(teacher)
    )
    assert float(mixed) == pytest.approx(0.5 + temperature**2 * (2 * inter + 3 * intra), rel=1e-5)


def test_windows_of_tokens_are_rows():
    teacher, student = jax.random.normal(jax.random.key(0), (2, 2, 3, 5))
    rows = correlation_losses(teacher.reshape(6, 5), student.reshape(6, 5))
    chex.assert_trees_all_equal(correlation_losses(teacher, student), rows)


def test_a_class_that_nobody_names_leaves_the_gradient_finite():
    teacher = jnp.array([[1.0, 2.0, -200.0], [2.0, 1.0, -200.0]])
    gradient_of = jax.jit(jax.grad(lambda s: sum(correlation_losses(teacher, s))))
    for student in (teacher[::-1], jnp.zeros((2, 3))):
        gradient = gradient_of(student)
        assert bool(jnp.all(jnp.isfinite(gradient)))
        assert bool(jnp.any(gradient != 0))


def test_a_batch_cut_over_devices_has_the_same_correlations():
    mesh = make_mesh()
    teacher, student = np.random.default_rng(0).normal(size=(2, 16, 5)).astype(np.float32)
    found = jax.jit(correlation_losses)(*shard_batch((teacher, student), mesh))
    np.testing.assert_allclose(found, correlation_losses(teacher, student), rtol=1e-5)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"kind": "other"}, "of kind 'other' is not known"),
        ({"kind": "dist", "beta": -1.0}, "beta -1.0 and gamma 1.0"),
        ({"kind": "dist", "weight": 0.9}, "give those of its kind alone"),
        ({"beta": 2.0}, "give those of its kind alone"),
    ],
)
def test_settings_of_the_wrong_kind(settings, says):
    with pytest.raises(UserError, match=says):
        Distillation(**settings)


def test_at_resolution():
    image = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
    assert at_resolution(image, 8) is image
    halved = at_resolution(image, 4)
    assert halved.shape == (2, 4, 4, 3)
    np.testing.assert_allclose(at_resolution(jnp.ones((1, 9, 9, 3)), 5), 1, rtol=1e-6)
    # antialiased: the finest checkerboard becomes grey, where plain sampling would keep its colours
    board = jnp.where(jnp.indices((8, 8)).sum(0) % 2 == 0, 1.0, -1.0).reshape(1, 8, 8, 1)
    assert float(jnp.abs(at_resolution(board, 4)[:, 1:-1, 1:-1]).max()) < 1e-6
    for shape, size in (((1, 8, 8, 3), 9), ((1, 8, 6, 3), 4)):
        with pytest.raises(UserError, match=f"images of 8 x {shape[2]} cannot be made {size} x {size}"):
            at_resolution(jnp.zeros(shape), size)


def test_a_teacher_at_its_own_resolution():
    """The student sees 8 pixels, the teacher 16: batches come at 16."""
    model = tiny.make()
    variables = tiny.variables(model)
    teach = image_teacher(model, variables, resolution=16, classes=10)
    images = jax.random.normal(jax.random.key(0), (4, 16, 16, 3))
    plain = {"image": images, "label": jnp.arange(4)}
    batch = taught(lambda i: plain, teach, variables)(0)
    theirs: Any = jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, images)
    np.testing.assert_allclose(batch["teacher_logits"], theirs, rtol=1e-4, atol=1e-5)

    distillation = Distillation(kind="dist")
    loss = jax.jit(supervised.classification_loss(model, distillation, resolution=8))
    value, more = loss(variables, batch, jax.random.key(1))
    train = jax.jit(lambda v, x: model.apply(v, at_resolution(x, 8), train=True, mutable=["batch_stats"]))
    logits, _ = train(variables, images)
    task = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean()
    np.testing.assert_allclose(value, task + sum(correlation_losses(theirs, logits)), rtol=1e-4)
    np.testing.assert_allclose(more["metrics"]["cross_entropy"], task, rtol=1e-5)


def test_teachers_that_do_not_fit():
    model = tiny.make(num_classes=7)
    variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    with pytest.raises(UserError, match="tiny tells 7 classes apart and the student 10; take a teacher of the same"):
        image_teacher(model, variables, resolution=8, classes=10, name="tiny")
    vit = NETWORKS["vit"]
    variables = jax.eval_shape(vit.init, jax.random.key(0), jnp.zeros((1, SIZE, SIZE, 3)))
    with pytest.raises(UserError, match=f"vit cannot teach at 64 px: .* takes images of {SIZE} x {SIZE}.* got 64 x 64"):
        image_teacher(vit, variables, resolution=64, classes=10, name="vit")
    teach = image_teacher(vit, variables, resolution=SIZE, classes=10)
    with pytest.raises(UserError, match=f"images of 8 x 8 cannot be made {SIZE} x {SIZE}"):
        jax.eval_shape(teach, variables, {"image": jnp.zeros((1, 8, 8, 3))})
    with pytest.raises(UserError, match="the teacher tells 7 classes apart and the student 10"):
        Distillation().mix(jnp.float32(0), jnp.zeros((2, 10)), jnp.zeros((2, 7)))
