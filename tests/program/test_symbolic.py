"""Which functions can have a batch of a symbolic size: those in which no number depends on it, but for means."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dms_jax import SearchSpace
from dms_jax.errors import UserError

PARAMS = {"up": jnp.ones((5, 8)), "down": jnp.ones((8, 3))}
SPACE = SearchSpace.from_function(lambda p, x: jax.nn.relu(x @ p["up"]) @ p["down"], PARAMS, jnp.ones((1, 5)))
(BATCH,) = jax.export.symbolic_shape("batch")


def outputs(params, x):
    return SPACE.fn(params, x)


def opened(of_outputs, x=(BATCH, 5)):
    """Read a function of the network's outputs for a symbolic batch."""
    small = SPACE.shrunk(
        lambda params, x: of_outputs(outputs(params, x)),
        SPACE.structure({name: range(group.size) for name, group in SPACE.groups.items()}),
    )
    return jax.eval_shape(small, PARAMS, jax.ShapeDtypeStruct(x, jnp.float32))


def over_product_of_shape(y):
    """As Keras reduces its losses."""
    size = jnp.prod(jnp.asarray(y.shape, jnp.int32)).astype(jnp.float32)
    return jnp.where(size == 0, 0, y.sum() / jnp.where(size == 0, 1, size))


@pytest.mark.parametrize(
    "function",
    [
        jnp.mean,
        lambda y: jnp.var(y, axis=0),
        lambda y: jnp.mean(jnp.mean(y, axis=1), axis=0),
        lambda y: y.sum() / y.size,
        lambda y: jax.grad(lambda z: jnp.mean(z**2))(y),
        over_product_of_shape,
        lambda y: jnp.full((len(y), 1), 0.5) * y,
        lambda y: y * jax.random.bernoulli(jax.random.key(0), 0.5, y.shape),
    ],
)
def test_means_and_what_has_no_number_of_the_batch(function):
    opened(function)


@pytest.mark.parametrize(
    "function",
    [
        lambda y: y.sum() / (len(y) - 1),
        lambda y: jnp.var(y, axis=0, ddof=1),
        lambda y: y.sum() * len(y),
        lambda y: (y, jnp.float32(len(y))),
        lambda y: (y.sum(), jnp.asarray([len(y)])),
        lambda y: y * jnp.asarray([1.0, 1.0, len(y)])[None],
        lambda y: jnp.where(jnp.asarray(len(y), jnp.float32) > 100, y, 0),
        lambda y: y * np.linspace(0, 1, len(y), dtype=np.float32)[:, None],
        lambda y: y * np.full((len(y), 1), 1 / len(y), np.float32),
        lambda y: jax.lax.integer_pow(y, len(y)),
        lambda y: jax.lax.top_k(y.T, len(y) // 2),
        lambda y: y if len(y) % 4 == 3 else y * 2,
        lambda y: y.sum() * (1 if len(y) % 8 else 2),
        lambda y: y[: min(len(y), 16)].sum(),
        lambda y: y.sum() if len(y) > 100 else y.sum() * 2,
        lambda y: y.sum() / min(len(y), 64),
    ],
)
def test_any_other_number_of_the_batch_is_refused(function):
    with pytest.raises(
        UserError, match="can therefore not be symbolic|depends? on the size of the inputs|cut into parts"
    ):
        opened(function)


def test_a_size_that_is_expected_is_tried_too():
    small = SPACE.shrunk(lambda params, x: outputs(params, x) * (2 if len(x) == 32 else 1), {})
    x = jax.ShapeDtypeStruct((BATCH, 5), jnp.float32)
    jax.eval_shape(small, PARAMS, x)
    for size in (31, 1, None):  # of one alone Python may do as it likes
        jax.eval_shape(small.expecting(size), PARAMS, x)
    with pytest.raises(UserError, match="can therefore not be symbolic"):
        jax.eval_shape(small.expecting(32), PARAMS, x)


def test_the_line_is_said():
    with pytest.raises(UserError, match=r"div at program/test_symbolic.py:\d+ \(.*computes with a number"):
        opened(lambda y: y.sum() / (len(y) - 1))
