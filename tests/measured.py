"""Small networks that tests measure, and a search of one."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dms_jax import Search, SearchSpace


def perceptron(a=64, b=48, batch=4):
    draw = np.random.default_rng(0)
    shapes = {"a": (5, a), "b": (a, b), "c": (b, 3)}
    params = {name: jnp.asarray(draw.normal(size=shape), jnp.float32) for name, shape in shapes.items()}

    def fn(p, x):
        return jax.nn.relu(jax.nn.relu(x @ p["a"]) @ p["b"]) @ p["c"]

    return SearchSpace.from_function(fn, params, jnp.ones((batch, 5)))


def residual(width=24, hidden=40, blocks=3, batch=8):
    """Blocks of one stream, in which a normalisation precedes two products."""
    draw = np.random.default_rng(0)

    def array(*shape):
        return jnp.asarray(draw.normal(size=shape) / shape[0] ** 0.5, jnp.float32)

    params = {
        "in": array(7, width),
        "out": array(width, 3),
        **{f"block{i}": {"up": array(width, hidden), "down": array(hidden, width)} for i in range(blocks)},
    }

    def fn(p, x):
        x = x @ p["in"]
        for i in range(blocks):
            y = (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-5)
            x = x + jax.nn.gelu(y @ p[f"block{i}"]["up"]) @ p[f"block{i}"]["down"]
        return x @ p["out"]

    return SearchSpace.from_function(fn, params, jnp.ones((batch, 7)))


def searched(space, budget):
    """A search of a perceptron: it, the structure it finds, and the metrics of its last step."""
    search = Search(space, lambda p, b, k: jnp.mean((space.fn(p, b) - 1) ** 2), optax.sgd(1e-3), budget, 4)
    state, step = search.init(space.source.params), jax.jit(search.step)
    for i in range(4):
        draw = np.random.default_rng(i).normal(size=(8, 5))
        state, metrics = step(state, jnp.asarray(draw, jnp.float32), jax.random.key(0))
    return search, search.structure(state), metrics
