import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dms_jax.training import supervised
from tests import tiny
from tests.helpers import FLOAT32_GRADIENTS, FLOAT32_ROUNDING


@pytest.fixture(scope="module")
def network():
    model = tiny.make()
    return model, tiny.variables(model)


def test_a_step_is_the_formula(network):
    """SGD by hand on the loss written out."""
    model, variables = network
    batch, key = tiny.batch_of(0), jax.random.key(1)

    def by_hand(params):
        logits, changed = model.apply(
            {**variables, "params": params}, batch["image"], train=True, mutable=["batch_stats"]
        )
        chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), batch["label"][:, None], axis=1)
        return -chosen.mean(), (changed, logits)

    (loss, (changed, logits)), gradient = jax.jit(jax.value_and_grad(by_hand, has_aux=True))(variables["params"])
    optimizer = optax.sgd(0.5)
    step = jax.jit(supervised.make_step(supervised.classification_loss(model), optimizer))
    state, metrics = step(supervised.init(variables, optimizer), batch, key)
    assert int(state.step) == 1
    np.testing.assert_allclose(metrics["loss"], loss, rtol=FLOAT32_ROUNDING)
    assert float(metrics["accuracy"]) == np.mean(np.argmax(logits, -1) == batch["label"])
    moved = jax.tree.map(lambda p, g: p - 0.5 * g, variables["params"], gradient)
    chex.assert_trees_all_close(state.params, moved, atol=FLOAT32_GRADIENTS)
    chex.assert_trees_all_close(state.model_state["batch_stats"], changed["batch_stats"], atol=FLOAT32_ROUNDING)


def test_init_takes_the_model_state_along_and_no_masks():
    state = supervised.init(
        {"params": {"w": jnp.ones(2)}, "batch_stats": {"m": jnp.zeros(2)}, "masks": {"g": jnp.ones(2)}}, optax.sgd(0.1)
    )
    assert set(state.variables) == {"params", "batch_stats"}
    assert state.step.dtype == jnp.int32 and int(state.step) == 0


def test_label_smoothing_spreads_the_target(network):
    model, variables = network
    batch, key = tiny.batch_of(0), jax.random.key(0)
    plain, _ = supervised.classification_loss(model)(variables, batch, key)
    smooth, _ = supervised.classification_loss(model, label_smoothing=0.2)(variables, batch, key)
    logits, _ = model.apply(variables, batch["image"], train=True, mutable=["batch_stats"])
    uniform = -jax.nn.log_softmax(logits).mean()
    np.testing.assert_allclose(smooth, 0.8 * plain + 0.2 * uniform, rtol=1e-5)


class Labels:
    """A model that answers what the first pixel says."""

    def apply(self, variables, images, *, train):
        assert not train
        return jax.nn.one_hot(images[:, 0, 0, 0].astype(jnp.int32), 10)


@pytest.mark.parametrize("sizes", [(10,), (4, 4, 2), (1, 9), (3, 3, 3, 1)])
def test_every_image_counts_once_however_batches_are_cut(sizes):
    labels = np.arange(10, dtype=np.int32)
    answers = np.where(labels < 7, labels, 0)  # 7 of 10 right
    images = np.broadcast_to(answers[:, None, None, None], (10, 8, 8, 3)).astype(np.float32)
    ends = np.cumsum(sizes)
    batches = [{"image": images[e - n : e], "label": labels[e - n : e]} for e, n in zip(ends, sizes, strict=True)]
    found = supervised.accuracy(Labels(), {}, batches)  # type: ignore[arg-type]
    assert found.value == 0.7
    assert found.stderr == pytest.approx((0.7 * 0.3 / 10) ** 0.5)


def test_accuracy_of_no_images_says_so():
    with pytest.raises(ValueError, match="no images"):
        supervised.accuracy(Labels(), {}, [])  # type: ignore[arg-type]
