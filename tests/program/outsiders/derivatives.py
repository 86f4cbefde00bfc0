"""Programs with a derivative of their own, and with derivatives inside."""

from functools import partial

import jax
import jax.lax as lax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jax.custom_derivatives import linear_call
from jax.experimental.ode import odeint

from tests.program.outsiders import Table, program

TABLE: Table = {}
WIDE = {"w": (5, 6), "o": (6, 3)}
SCALES = np.linspace(0.5, 2, 6).astype(np.float32)[None]


@jax.custom_vjp
def zeros_told(x):
    return jnp.tanh(x)


zeros_told.defvjp(lambda x: (jnp.tanh(x.value), x.value), lambda x, g: (g * 3.0,), symbolic_zeros=True)


@jax.custom_jvp
def holding(x):
    return x * SCALES


holding.defjvp(lambda p, t: (holding(*p), t[0] * SCALES * SCALES))


@jax.custom_vjp
def holding_back(x):
    return x * SCALES


holding_back.defvjp(lambda x: (x * SCALES, x), lambda x, g: (g * SCALES * SCALES,))


@jax.custom_vjp
def centred_back(x):
    return x * 2.0


centred_back.defvjp(
    lambda x: (x * 2.0, None),
    lambda _, g: ((g - g.mean(-1, keepdims=True)) / (1e-3 + jnp.linalg.norm(g, axis=-1, keepdims=True)),),
)


@jax.custom_jvp
def summed_ahead(x):
    return jnp.tanh(x)


summed_ahead.defjvp(lambda p, t: (summed_ahead(*p), jnp.cumsum(t[0], -1)))


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def twice(f, x):
    return f(x)


twice.defjvp(lambda f, p, t: (f(p[0]), 2 * t[0]))


@program(TABLE, WIDE, (2, 5), groups={"w": 6})
def derivative_that_is_told_of_zeros(p, x):
    return zeros_told(x @ p["w"]) @ p["o"]


@program(TABLE, WIDE, (2, 5), groups={"w": 6}, plain=False)
def derivatives_that_hold_arrays(p, x):
    return holding(x @ p["w"]) @ p["o"] + holding_back(x @ p["w"]) @ p["o"]


@program(TABLE, WIDE, (2, 4, 5), groups={"w": 6}, plain=False)
def derivatives_that_hold_arrays_in_a_loop(p, x):
    def step(h, x_t):
        h = holding_back(0.3 * holding(x_t @ p["w"] + h))
        return h, h

    return lax.scan(step, jnp.zeros((2, 6)), jnp.swapaxes(x, 0, 1))[1] @ p["o"]


@program(TABLE, WIDE, (2, 5), groups={"w": 6})
def derivatives_that_run_over_channels(p, x):
    return centred_back(x @ p["w"]) @ p["o"] + summed_ahead(x @ p["w"]) @ p["o"]


@program(TABLE, WIDE, (2, 4, 5), groups={"w": 6})
def derivative_of_a_function_that_is_handed_in(p, x):
    f = jax.checkpoint(lambda x: checkpoint_name(twice(jnp.tanh, x @ p["w"]), "h") @ p["o"], policy=None)
    return jax.vmap(f)(x)


@program(TABLE, WIDE, (2, 5), groups={"w": 6})
def gradient_step_inside(p, x):
    def loss(q):
        return jnp.mean((jnp.tanh(x @ q["w"]) @ q["o"]) ** 2)

    q = jax.tree.map(lambda a, b: a - 0.1 * b, p, jax.grad(loss)(p))
    return jnp.tanh(x @ q["w"]) @ q["o"]


@program(TABLE, WIDE, (2, 5), groups={"o": 6, "o#2": 3})
def second_derivatives(p, x):
    return jax.vmap(jax.hessian(lambda x: jnp.sum(jnp.tanh(x @ p["w"]) @ p["o"])))(x)


@program(
    TABLE, {"w": (5, 6), "a": (6, 7), "b": (7, 6), "o": (6, 3)}, (2, 5), groups={"a": 7}, freeze=["w"], inserted=False
)
def differential_equation(p, x):
    def slope(h, t):
        return jnp.tanh(h @ p["a"]) @ p["b"]

    return odeint(slope, x @ p["w"], jnp.array([0.0, 1.0]))[-1] @ p["o"]


@program(TABLE, WIDE, (2, 5), groups={"w": 6})
def gradient_turned_around(p, x):
    """A transpose that is the user's own, and no transpose: what is before it learns the opposite."""
    h = linear_call(lambda _, h: 2.0 * h, lambda _, g: -0.5 * g, (), jnp.tanh(x @ p["w"]))
    return h @ p["o"]


@program(TABLE, WIDE, (2, 5), groups={"w": 6})
def transposes_that_run_over_channels(p, x):
    def ahead(scale, h):
        return (h - h.mean(-1, keepdims=True)) * scale

    def back(scale, g):
        return g * scale - (g * scale).mean(-1, keepdims=True)

    h = linear_call(ahead, back, jnp.float32(3.0), jnp.tanh(x @ p["w"]))
    return h @ p["o"]
