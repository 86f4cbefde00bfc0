"""Means over a searched axis count what is kept, by whatever formula and wherever they stand."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.lax as lax
import jax.numpy as jnp

import dms_jax
from dms_jax import SearchSpace
from tests.counting import random_structure
from tests.helpers import FLOAT32_LOGITS
from tests.laws.checking import close
from tests.program.outsiders import normal, numbers, promoting

SUMS = {
    "reduced": lambda h: jnp.sum(h, -1),
    "with ones": lambda h: h @ jnp.ones(h.shape[-1]),
    "of squares": lambda h: jnp.einsum("bd,bd->b", h, h),
    "twice": lambda h: jnp.sum(jnp.sum(h.reshape(len(h), -1, 2), -1), -1),
    "of a name": lambda h: jax.vmap(lambda column: lax.psum(column, "i"), 1, None, axis_name="i")(h),
    "of absolutes": lambda h: jnp.linalg.norm(h, 1, axis=-1),
}
ON_THE_WAY = {
    "nothing": lambda s, h: s,
    "a factor": lambda s, h: -3 * s,
    "other numbers": lambda s, h: s * jnp.tanh(jnp.max(h, -1)) / 3,
    "another sum": lambda s, h: s + 2 * s,
    "a shape": lambda s, h: s[None, :, None].T.reshape(-1),
}


WITHIN = {
    "nothing": lambda f, h: f(h),
    "jit": lambda f, h: jax.jit(f)(h),
    "remat": lambda f, h: jax.checkpoint(f)(h),
    "vmap": lambda f, h: jax.vmap(lambda row: f(row[None])[0])(h),
    "vmap of columns": lambda f, h: jax.vmap(lambda row: f(row[None])[0], in_axes=1)(h.T),
    "vmap to columns": lambda f, h: jax.vmap(lambda row: f(row[None])[0], out_axes=1)(h).T,
    "loop": lambda f, h: lax.scan(lambda _, row: (None, f(row[None])[0]), None, h)[1],
    "choice": lambda f, h: lax.cond(jnp.sum(h) > 1e9, lambda h: -h, f, h),
}


@hypothesis.settings(max_examples=8)
@hypothesis.given(
    total=st.sampled_from(sorted(SUMS)),
    way=st.sampled_from(sorted(ON_THE_WAY)),
    within=st.sampled_from(sorted(WITHIN)),
    inverse=st.booleans(),
)
def test_a_mean_by_any_formula_counts_what_is_kept(total, way, within, inverse):
    """The smaller network is the user's own program with smaller arrays: its N is the smaller one."""

    @promoting
    def network(p, x):
        def scaled(h):
            s = ON_THE_WAY[way](SUMS[total](h), h)
            return h * (s * (1 / h.shape[-1]) if inverse else s / h.shape[-1])[:, None]

        return WITHIN[within](scaled, x @ p["w"]) @ p["o"]

    params, x = numbers({"w": (5, 8), "o": (8, 3)}), normal((4, 5), 100)
    space = SearchSpace.from_function(network, params, x)
    kept = random_structure(space.groups, 0)
    small = dms_jax.shrink(space, params, kept)
    expected = network(small, x)
    close(jax.jit(space.shrunk(network, kept))(small, x), expected, FLOAT32_LOGITS)
    close(jax.jit(space.masked(network))(params, space.masks(kept), x), expected, FLOAT32_LOGITS)
