"""What a search keeps for its backward pass: no more than training does."""

import jax
import jax.numpy as jnp
import pytest

from dms_jax import SearchSpace
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
