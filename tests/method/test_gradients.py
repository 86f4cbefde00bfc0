"""Accumulated gradients are those of the whole batch; nothing is sent between devices to cut it."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dms_jax import Schedule, Search, Searchable, SearchSpace
from dms_jax.errors import UserError
from dms_jax.method.gradients import value_and_grad
from dms_jax.method.loss import outcome
from dms_jax.partition import combine, partition
from dms_jax.training import make_mesh, shard_batch, supervised
from dms_jax.training.mesh import replicate
from tests import tiny
from tests.counting import random_variables
from tests.helpers import FLOAT32_GRADIENTS


class Net(Searchable):
    """No example looks at another here."""

    @nn.compact
    def __call__(self, x, *, train=False):
        a, depth = self.elements("a", 6), self.elements("depth", 2)
        x = nn.relu(nn.Dense(a.size, name="stem")(x.reshape(x.shape[0], -1)))
        for i in depth.kept:
            mid = self.elements(f"mid{i}", 5)
            x = x + depth.gate(i) * nn.Dense(a.size, name=f"out{i}")(
                mid(nn.tanh(nn.Dense(mid.size, name=f"in{i}")(a(x))))
            )
        return nn.Dense(10, name="head")(a(x))


def batch_of(size=16):
    draw = np.random.default_rng(0)
    return {
        "image": jnp.asarray(draw.normal(size=(size, 2, 2, 3)), jnp.float32),
        "label": jnp.asarray(draw.integers(0, 10, size)),
    }


@pytest.fixture(scope="module")
def space():
    return SearchSpace.from_model(Net(), jax.ShapeDtypeStruct((1, 2, 2, 3), jnp.float32))


@pytest.fixture(scope="module")
def variables(space):
    return random_variables(space)


def test_a_step_in_parts_is_a_step(variables):
    model, batch = Net(), batch_of()
    loss, optimizer = supervised.classification_loss(model), optax.sgd(0.1, momentum=0.9)
    state = supervised.init(variables, optimizer)
    one, *several = (
        jax.jit(supervised.make_step(loss, optimizer, accumulate=n))(state, batch, jax.random.key(1)) for n in (1, 2, 4)
    )
    for parts in several:
        chex.assert_trees_all_close(one, parts, atol=FLOAT32_GRADIENTS)


def test_a_search_in_parts_is_the_search(space, variables):
    def run(parts):
        search = Search(
            space, supervised.classification_loss(Net()), optax.sgd(0.1), {"macs": 0.5}, Schedule(6), accumulate=parts
        )
        state, step = search.init(variables), jax.jit(search.step)
        for _ in range(4):
            state, metrics = step(state, batch_of(), jax.random.key(2))
        return state, metrics

    (one, first), (several, second) = run(1), run(4)
    assert float(max(jnp.max(c) for c in one.importance.values())) > 0
    relative = jax.tree.map(lambda a, b: np.max(np.abs(a - b)) / np.max(np.abs(a)), one.importance, several.importance)
    assert max(relative.values()) < 10 * FLOAT32_GRADIENTS
    chex.assert_trees_all_close(one, several, atol=FLOAT32_GRADIENTS)
    chex.assert_trees_all_close(first, second, atol=FLOAT32_GRADIENTS)


def test_one_part_is_the_plain_program():
    model = tiny.make()
    variables, batch = tiny.variables(model), tiny.batch_of(0)
    loss = supervised.classification_loss(model)

    def task(trained, rest, batch, key):
        return outcome(loss)(combine(trained, rest), batch, key)

    arguments = (*partition(variables), batch, jax.random.key(0))
    plain = jax.make_jaxpr(jax.value_and_grad(task, has_aux=True))(*arguments)
    assert str(jax.make_jaxpr(value_and_grad(task, 0, 1))(*arguments)) == str(plain)


def test_state_goes_from_part_to_part_and_keys_are_folded():
    """By hand: BatchNorm's averages move once a part, over the strided parts in their order."""

    def f(w, state, batch, key):
        noise = jax.random.normal(key)
        mean = jnp.mean(batch)
        return w * mean * noise, ({"stats": 0.5 * state["stats"] + 0.5 * mean}, {"noise": noise})

    batch, key = jnp.arange(6.0) ** 2, jax.random.key(3)
    (loss, (changed, metrics)), gradient = jax.jit(value_and_grad(f, 0, 2))(
        jnp.float32(2), {"stats": jnp.float32(8)}, batch, key
    )
    means = [float(np.mean([0, 4, 16])), float(np.mean([1, 9, 25]))]
    noise = [float(jax.random.normal(jax.random.fold_in(key, i))) for i in range(2)]
    assert changed["stats"] == pytest.approx(0.5 * (0.5 * 8 + 0.5 * means[0]) + 0.5 * means[1])
    slope = np.mean([m * n for m, n in zip(means, noise, strict=True)])
    np.testing.assert_allclose([loss, gradient, metrics["noise"]], [2 * slope, slope, np.mean(noise)], rtol=1e-5)


@pytest.mark.skipif(jax.device_count() < 8, reason="needs eight devices; tests/conftest.py makes them of the CPU")
def test_cutting_a_sharded_batch_sends_nothing(variables):
    mesh, model = make_mesh(), Net()
    optimizer = optax.sgd(0.1)
    batch = batch_of(32)
    state = supervised.init(variables, optimizer)
    step = supervised.make_step(supervised.classification_loss(model), optimizer, accumulate=4)
    alone = jax.jit(step)(state, batch, jax.random.key(1))
    arguments = (replicate(state, mesh), shard_batch(batch, mesh), jax.random.key(1))
    compiled = jax.jit(step).lower(*arguments).compile()
    text = compiled.as_text() or ""
    assert "all-reduce" in text  # the gradient's: the program is cut over the devices
    for sent in ("all-to-all", "all-gather", "collective-permute"):
        assert sent not in text
    # what a device computes in one part: 32 / 8 devices / 4 parts = 1 example
    assert "f32[1,6]" in text and "f32[8,6]" not in text
    chex.assert_trees_all_close(compiled(*arguments), alone, atol=FLOAT32_GRADIENTS)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
@pytest.mark.parametrize(("value", "parts"), [(30_000, 4), (1, 512), (3e-6, 8)])  # too large a sum, too long, too small
def test_parts_are_summed_up_in_full_precision(dtype, value, parts):
    def f(w, rest, batch, key):
        return jnp.mean(w * batch), (rest, {})

    batch = jnp.full((parts,), value, dtype)
    (loss, _), gradient = jax.jit(value_and_grad(f, 0, parts))(dtype(1), {}, batch, jax.random.key(0))
    assert loss.dtype == gradient.dtype == dtype
    assert float(loss) == float(gradient) == float(dtype(value))


def test_parts_that_cannot_be(variables):
    model, optimizer = Net(), optax.sgd(0.1)
    loss, batch = supervised.classification_loss(model), batch_of(16)
    with pytest.raises(UserError, match="accumulate 0 is not possible"):
        supervised.make_step(loss, optimizer, accumulate=0)
    state = supervised.init(variables, optimizer)
    with pytest.raises(UserError, match="a batch of .16, .* cannot be cut into 3 parts; take a multiple of 3"):
        supervised.make_step(loss, optimizer, accumulate=3)(state, batch, jax.random.key(1))
