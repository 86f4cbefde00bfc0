"""Arrays that a program makes and changes in their places."""

import jax
import jax.lax as lax
import jax.numpy as jnp

from tests.program.outsiders import Table, program

TABLE: Table = {}


@program(
    TABLE,
    {"w": (5, 6), "o": (6, 3), "a": (6, 7), "b": (7, 6)},
    (2, 5),
    groups={"w": 6, "a": 7, "depth": 1},
    plain=False,
)
def sums_in_place(p, x):
    """`+=` adds a residual branch, in place or not."""
    total = jax.new_ref(x @ p["w"])
    total[...] += jnp.tanh(total[...] @ p["a"]) @ p["b"]
    total[1] = total[0] * 0.5
    return jax.freeze(total) @ p["o"]


@program(TABLE, {"w": (5, 6), "a": (6, 6), "o": (6, 3)}, (4, 2, 5), groups={"w": 6}, plain=False)
def states_in_place(p, x):
    state, seen = jax.new_ref(jnp.zeros((2, p["w"].shape[1]))), jax.new_ref(jnp.zeros((4, 2, p["w"].shape[1])))

    def step(t, _):
        state[...] = jnp.tanh(x[t] @ p["w"] + state[...] @ p["a"])
        seen[t] = state[...]
        return _

    lax.fori_loop(0, 4, step, None)
    return jax.freeze(seen) @ p["o"]
