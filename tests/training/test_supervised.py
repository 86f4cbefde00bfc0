import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dms_jax.errors import UserError
from dms_jax.training import make_mesh, place, replicate, schedules, shard_batch, supervised
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
    chex.assert_trees_all_close(state.params["params"], moved, atol=FLOAT32_GRADIENTS)
    chex.assert_trees_all_close(state.params["batch_stats"], changed["batch_stats"], atol=FLOAT32_ROUNDING)


def test_init_takes_the_model_state_along_and_no_masks():
    state = supervised.init(
        {"params": {"w": jnp.ones(2)}, "batch_stats": {"m": jnp.zeros(2)}, "masks": {"g": jnp.ones(2)}}, optax.sgd(0.1)
    )
    assert set(state.params) == {"params", "batch_stats"}
    assert state.step.dtype == jnp.int32 and int(state.step) == 0


def test_label_smoothing_spreads_the_target(network):
    model, variables = network
    batch, key = tiny.batch_of(0), jax.random.key(0)
    plain, _ = supervised.classification_loss(model)(variables, batch, key)
    smooth, _ = supervised.classification_loss(model, label_smoothing=0.2)(variables, batch, key)
    logits, _ = model.apply(variables, batch["image"], train=True, mutable=["batch_stats"])
    uniform = -jax.nn.log_softmax(logits).mean()
    np.testing.assert_allclose(smooth, 0.8 * plain + 0.2 * uniform, rtol=1e-5)


def answer(params, images):
    """What the first pixel says."""
    return jax.nn.one_hot(images[:, 0, 0, 0].astype(jnp.int32), 10)


@pytest.mark.parametrize("sizes", [(10,), (4, 4, 2), (1, 9), (3, 3, 3, 1)])
def test_every_image_counts_once_however_batches_are_cut(sizes):
    labels = np.arange(10, dtype=np.int32)
    answers = np.where(labels < 7, labels, 0)  # 7 of 10 right
    images = np.broadcast_to(answers[:, None, None, None], (10, 8, 8, 3)).astype(np.float32)
    ends = np.cumsum(sizes)
    batches = [{"image": images[e - n : e], "label": labels[e - n : e]} for e, n in zip(ends, sizes, strict=True)]
    found = supervised.accuracy(answer, {}, batches)
    assert found.value == 0.7
    assert found.stderr == pytest.approx((0.7 * 0.3 / 10) ** 0.5)


@pytest.mark.parametrize("devices", [1, 8])
def test_padding_is_not_counted_on_any_number_of_devices(devices):
    mesh = make_mesh(jax.devices()[:devices])
    labels = np.arange(20, dtype=np.int32) % 10
    answers = np.where(np.arange(20) < 13, labels, (labels + 1) % 10)  # 13 of 20 right
    chunks = [(0, 16), (16, 20)]
    batches = []
    for start, end in chunks:
        padded = np.zeros((16, 8, 8, 3), np.float32)
        padded[: end - start] = answers[start:end, None, None, None]
        batch = {"image": padded, "label": np.zeros(16, np.int32), "weight": np.zeros(16, np.float32)}
        batch["label"][: end - start], batch["weight"][: end - start] = labels[start:end], 1
        batches.append(shard_batch(batch, mesh))
    assert supervised.accuracy(answer, {}, iter(batches)).value == 13 / 20


def test_top_five():
    def ranked(classes):
        """Logits fall from class 0 on; with fewer classes there is no top five."""
        return lambda params, images: jnp.broadcast_to(-jnp.arange(classes, dtype=jnp.float32), (len(images), classes))

    batch = {"image": np.zeros((8, 1, 1, 3)), "label": np.array([0, 0, 1, 4, 5, 9, 3, 2])}
    batch["weight"] = np.array([1, 0, 1, 1, 1, 1, 1, 1])
    found = supervised.accuracy(ranked(10), {}, [batch, batch])
    assert (found.value, found.top5) == (1 / 7, 5 / 7)
    assert supervised.accuracy(ranked(9), {}, [batch]).top5 is None
    # equal logits count by index, so that a network that knows nothing does not know everything
    assert supervised.accuracy(lambda params, images: jnp.zeros((len(images), 10)), {}, [batch]).top5 == 5 / 7


def test_soft_targets_are_taken_as_they_are(network):
    model, variables = network
    batch, key = tiny.batch_of(0), jax.random.key(0)
    smooth, _ = supervised.classification_loss(model, label_smoothing=0.2)(variables, batch, key)
    target = optax.smooth_labels(jax.nn.one_hot(batch["label"], 10), 0.2)
    mixed = {**batch, "target": target, "label": batch["label"] * 0}
    soft, more = supervised.classification_loss(model, label_smoothing=0.7)(variables, mixed, key)
    np.testing.assert_allclose(soft, smooth, rtol=1e-6)
    logits, _ = model.apply(variables, batch["image"], train=True, mutable=["batch_stats"])
    assert float(more["metrics"]["accuracy"]) == np.mean(np.argmax(logits, -1) == 0)
    with pytest.raises(UserError, match="targets of 7 classes for a network that tells 10 apart"):
        supervised.classification_loss(model)(variables, {**batch, "target": target[:, :7]}, key)


@pytest.mark.parametrize("decay", [0.75, schedules.average_decay(0.5)])
def test_moving_average_by_hand(network, decay):
    model, variables = network
    optimizer = optax.sgd(0.5)
    loss = supervised.classification_loss(model)
    step = jax.jit(supervised.make_step(loss, optimizer, average=decay), donate_argnums=0)
    state = supervised.init(variables, optimizer, average=True)  # donated: `variables` are not
    plain = jax.jit(supervised.make_step(loss, optimizer))
    raw, expected = supervised.init(variables, optimizer), variables
    for i, d in enumerate((0.75, 0.75, 0.75) if decay == 0.75 else (0.1, 2 / 11, 0.25)):
        state, _ = step(state, tiny.batch_of(i), jax.random.key(1))
        raw, _ = plain(raw, tiny.batch_of(i), jax.random.key(1))
        expected = jax.tree.map(lambda a, w, d=d: d * a + (1 - d) * w, expected, raw.params)
    assert set(state.averaged) == {"params", "batch_stats"}
    chex.assert_trees_all_close(state.averaged, expected, atol=FLOAT32_GRADIENTS)
    chex.assert_trees_all_close(state.params, raw.params, atol=FLOAT32_GRADIENTS)
    assert raw.averaged is not None and raw.average is None
    chex.assert_trees_all_equal(raw.averaged, raw.params)


def chained(optimizer):
    return optax.chain(optax.clip(1.0), optimizer)


@pytest.mark.parametrize("wrapped", [lambda optimizer: optimizer, chained])
def test_a_schedule_free_optimizer_gives_what_it_evaluates(network, wrapped):
    """x, not y where gradients are taken; what is not trained stays, and every other optimizer gives its weights."""
    model, variables = network
    optimizer = wrapped(optax.contrib.schedule_free_sgd(0.5))
    state = supervised.init(variables, optimizer)
    step = jax.jit(supervised.make_step(supervised.classification_loss(model), optimizer))
    for i in range(3):
        state, _ = step(state, tiny.batch_of(i), jax.random.key(1))
    free = state.opt_state[1] if wrapped is chained else state.opt_state
    z, y = free.z["params"], state.params["params"]
    by_hand = jax.tree.map(lambda z, y: (y - (1 - free.b1) * z) / free.b1, z, y)
    chex.assert_trees_all_close(state.averaged["params"], by_hand, atol=FLOAT32_GRADIENTS)
    assert max(jax.tree.leaves(jax.tree.map(lambda a, b: float(jnp.max(jnp.abs(a - b))), by_hand, y))) > 1e-3
    chex.assert_trees_all_equal(state.averaged["batch_stats"], state.params["batch_stats"])


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32, jnp.complex64])
@pytest.mark.parametrize("decay", [0.9, 0.99, 0.999, schedules.average_decay(0.9999)])
def test_the_average_of_weights_of_any_precision(dtype, decay):
    """By hand in float64; in half precision .999 is 1, and a hundredth of the way there is no step at all."""
    optimizer = optax.sgd(0.25)
    state = supervised.init({"params": {"w": jnp.ones(2, dtype)}}, optimizer, average=True)
    step = jax.jit(
        supervised.make_step(lambda p, b, k: jnp.sum(jnp.real(p["params"]["w"]) * b), optimizer, average=decay)
    )
    expected = np.ones(2)
    for i in range(40):
        state, _ = step(state, jnp.float32(1.0), jax.random.key(0))
        d = np.asarray(decay(i) if callable(decay) else decay, np.float64)
        expected = d * expected + (1 - d) * np.asarray(jnp.real(state.params["params"]["w"]), np.float64)
    found = state.averaged["params"]["w"]
    assert found.dtype == dtype and jnp.max(jnp.abs(found - state.params["params"]["w"])) > 0.1
    rounding = 1e-5 if jnp.finfo(dtype).bits > 16 else float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(np.asarray(jnp.real(found), np.float64), expected, rtol=rounding)


@pytest.mark.parametrize("decay", [0.5, 0.999, 0.9999])
def test_the_average_of_what_stays_is_that(decay):
    """Bit for bit, however long: frozen weights, tables of positions, infinities."""
    rest = jnp.array([*np.random.default_rng(0).normal(size=20), -np.inf, 3e38, 1e-38], jnp.float32)
    optimizer = optax.sgd(0.1)
    state = supervised.init({"params": {"w": jnp.ones(())}, "table": rest}, optimizer, average=True)
    step = supervised.make_step(lambda p, b, k: p["params"]["w"], optimizer, average=decay)
    run = jax.jit(lambda s: jax.lax.fori_loop(0, 2000, lambda i, s: step(s, None, jax.random.key(0))[0], s))
    chex.assert_trees_all_equal(run(state).averaged["table"], rest)


def test_the_average_lies_where_the_parameters_lie():
    mesh = make_mesh(fsdp=4)
    variables = {"params": {"w": jnp.ones((512, 512))}}
    state = place(supervised.init(replicate(variables, mesh), optax.sgd(0.1), average=True), mesh)
    assert state.average is not None
    assert state.average["params"]["w"].sharding == state.params["params"]["w"].sharding
    assert state.average["params"]["w"].addressable_shards[0].data.shape == (128, 512)


def test_accuracy_of_no_images_says_so():
    with pytest.raises(ValueError, match="no images"):
        supervised.accuracy(answer, {}, [])
