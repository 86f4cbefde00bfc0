"""What a search keeps for its backward pass: no more than training does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dms_jax import SearchSpace
from dms_jax.program import evaluate
from tests.program.test_outsiders import numbers

WIDTH, BATCH, LAYERS = 32, 2048, 4


def layer_norm(x):
    mean, squares = x.mean(-1, keepdims=True), jnp.square(x).mean(-1, keepdims=True)
    return (x - mean) * jax.lax.rsqrt(squares - jnp.square(mean) + 1e-6)


def rms_norm(x):
    return x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-6)


def mean_norm(x):
    return x / (jnp.abs(x).mean(-1, keepdims=True) + 1e-6)


@pytest.mark.parametrize("norm", [layer_norm, rms_norm, mean_norm])
def test_squares_of_a_masked_stream_are_made_again(norm):
    def network(p, x):
        x = x @ p["in"]
        for i in range(LAYERS):
            x = x + jax.nn.tanh(norm(x) @ p[f"up{i}"]) @ p[f"down{i}"]
        return norm(x) @ p["out"]

    shapes = {f"up{i}": (WIDTH, 8) for i in range(LAYERS)} | {f"down{i}": (8, WIDTH) for i in range(LAYERS)}
    params = numbers({"in": (5, WIDTH), **shapes, "out": (WIDTH, 3)})
    x = jnp.ones((BATCH, 5))
    space = SearchSpace.from_function(network, params, x)
    assert "in" in space.groups
    masks, masked = {"in": jnp.linspace(0.1, 0.9, WIDTH)}, space.masked(network)

    def bytes_of(loss, *args):
        analysis = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(*args).compile().memory_analysis()
        assert analysis is not None
        return analysis.temp_size_in_bytes

    plain = bytes_of(lambda p, x: network(p, x).sum(), params, x)
    search = bytes_of(lambda p, m: masked(p, m, x).sum(), params, masks)
    assert search < plain + BATCH * WIDTH * 4  # one array of activations; without it, one a layer

    inserted = space.masked(network, fold=False)  # the same derivatives as without any folding
    for a, b in zip(
        jax.tree.leaves(jax.grad(lambda p, m: masked(p, m, x).sum(), argnums=(0, 1))(params, masks)),
        jax.tree.leaves(jax.grad(lambda p, m: inserted(p, m, x).sum(), argnums=(0, 1))(params, masks)),
        strict=True,
    ):
        assert jnp.allclose(a, b, rtol=2e-3, atol=2e-3 * jnp.abs(b).max())


SUMMANDS = {
    "square": jnp.square,
    "x * x": lambda x: x * x,
    "a * b": lambda x: x * jnp.tanh(x),
    "abs": jnp.abs,
    "power": lambda x: x**4,
    "none": lambda x: x,
    "two": lambda x: 2.0 * x,
}


def direct(norm, p, x):
    return norm(x)


def scanned(norm, p, x):
    return jax.lax.scan(lambda carry, _: (0.5 * carry + norm(carry), None), x, None, length=3)[0]


def mapped(norm, p, x):
    return jax.vmap(norm)(x)


def nested(norm, p, x):
    return jax.jit(jax.checkpoint(norm))(x)


def branched(norm, p, x):
    return jax.lax.cond(jnp.sum(x) > 0, norm, lambda x: 2.0 * norm(x), x)


@pytest.mark.parametrize("around", [direct, scanned, mapped, nested, branched])
@pytest.mark.parametrize("name", SUMMANDS)
def test_what_is_made_again_has_the_same_derivatives(name, around, monkeypatch):
    """To first and second order, forward and backward, wherever the sum stands."""

    def norm(x):
        return x / (1.0 + jnp.mean(SUMMANDS[name](x), axis=-1, keepdims=True) ** 2)

    def network(p, x):
        return jnp.tanh(around(norm, p, x @ p["in"])) @ p["out"]

    params, x = numbers({"in": (5, 8), "out": (8, 3)}), jnp.linspace(-1, 1, 20).reshape(4, 5)
    masks = {"in": jnp.linspace(0.2, 0.9, 8)}

    def found():
        masked = SearchSpace.from_function(network, params, x).masked(network)

        def loss(p, m):
            return jnp.sum(masked(p, m, x) ** 2)

        def along(p, m):
            return jax.jvp(loss, (p, m), (p, m))[1]

        return jax.value_and_grad(loss, (0, 1))(params, masks), jax.grad(along, (0, 1))(params, masks)

    again = found()
    monkeypatch.setattr(evaluate, "_CHEAP", frozenset())
    for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(found()), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * np.abs(b).max())
