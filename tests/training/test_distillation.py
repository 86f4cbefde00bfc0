import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dms_jax.errors import UserError
from dms_jax.training.distillation import Distillation, forward_kl, taught


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
