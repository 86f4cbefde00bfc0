"""Means over a searched axis count what is kept, by whatever formula and wherever they stand."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.lax as lax
import jax.numpy as jnp
import numpy as np

import dms_jax
from dms_jax import SearchSpace
from tests.counting import random_structure
from tests.helpers import FLOAT32_GRADIENTS, FLOAT32_LOGITS
from tests.laws.checking import close, smooth
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
DIVIDED = {
    "by N": lambda s, n: s / n,
    "by 1 / N": lambda s, n: s * (1 / n),
    "by an array": lambda s, n: s * (1.0 / jnp.asarray(n, s.dtype)),
    "by one at least": lambda s, n: s / jnp.maximum(n, 1),
    "by a power": lambda s, n: jnp.float32(n) ** -1 * s,
    "by a root, squared": lambda s, n: s / jnp.square(jnp.sqrt(jnp.float32(n))),
    "by a count": lambda s, n: s / jnp.ones(n).sum(),
    "in steps": lambda s, n: s / 2 / (n / 2),
}


def own_derivative(f):
    """The same function, and its derivative, as a user hands them to JAX."""
    g = jax.custom_vjp(f)
    g.defvjp(lambda h: (f(h), h), lambda h, out: jax.vjp(f, h)[1](out))
    return g


def own_tangent(f):
    g = jax.custom_jvp(f)
    g.defjvp(lambda h, tangent: jax.jvp(f, h, tangent))
    return g


WITHIN = {
    "an own derivative": lambda f, h: own_derivative(f)(h),
    "an own tangent": lambda f, h: own_tangent(f)(h),
    "nothing": lambda f, h: f(h),
    "jit": lambda f, h: jax.jit(f)(h),
    "a scope of the user's": lambda f, h: jax.named_scope("transpose")(f)(h),
    "remat": lambda f, h: jax.checkpoint(f)(h),
    "vmap": lambda f, h: jax.vmap(lambda row: f(row[None])[0])(h),
    "vmap of columns": lambda f, h: jax.vmap(lambda row: f(row[None])[0], in_axes=1)(h.T),
    "vmap to columns": lambda f, h: jax.vmap(lambda row: f(row[None])[0], out_axes=1)(h).T,
    "loop": lambda f, h: lax.scan(lambda _, row: (None, f(row[None])[0]), None, h)[1],
    "choice": lambda f, h: lax.cond(jnp.sum(h) > 1e9, lambda h: -h, f, h),
}


def agree(network, params, x):
    """The smaller network is the user's own program with smaller arrays, and so are its gradients."""
    space = SearchSpace.from_function(network, params, x)
    kept = random_structure(space.groups, 0)
    small = dms_jax.shrink(space, params, kept)
    close(jax.jit(space.shrunk(network, kept))(small, x), network(small, x), FLOAT32_LOGITS)
    close(jax.jit(space.masked(network))(params, space.masks(kept), x), network(small, x), FLOAT32_LOGITS)
    masked, masks = space.masked(network), space.masks(kept)
    found = jax.jit(jax.grad(lambda p: smooth(space.shrunk(network, kept)(p, x))))(small)
    whole = jax.jit(jax.grad(lambda p: smooth(masked(p, masks, x))))(params)
    expected = jax.grad(lambda p: smooth(network(p, x)))(small)
    close(found, expected, FLOAT32_GRADIENTS)
    close(dms_jax.shrink(space, whole, kept), expected, 2 * FLOAT32_GRADIENTS)
    return space


@hypothesis.settings(max_examples=8)
@hypothesis.example(total="with ones", way="another sum", within="a scope of the user's", how="by an array")
@hypothesis.given(
    total=st.sampled_from(sorted(SUMS)),
    way=st.sampled_from(sorted(ON_THE_WAY)),
    within=st.sampled_from(sorted(WITHIN)),
    how=st.sampled_from(sorted(DIVIDED)),
)
def test_a_mean_by_any_formula_counts_what_is_kept(total, way, within, how):
    """Its N is the smaller one."""
    hypothesis.assume(how != "in steps" or way in ("nothing", "a shape"))  # no other number among its divisors

    @promoting
    def network(p, x):
        def scaled(h):
            return h * DIVIDED[how](ON_THE_WAY[way](SUMS[total](h), h), h.shape[-1])[:, None]

        return WITHIN[within](scaled, x @ p["w"]) @ p["o"]

    agree(network, numbers({"w": (5, 8), "o": (8, 3)}), normal((4, 5), 100))


WEIGHTS = {
    "made outside": lambda n: np.full((n, 1), 1 / n, np.float32),
    "filled": lambda n: jnp.full((n, 1), 1 / n),
    "ones divided": lambda n: jnp.ones((n, 1)) / n,
    "ones multiplied": lambda n: jnp.ones((n, 1)) * n**-1.0,
}


@hypothesis.settings(max_examples=4)
@hypothesis.given(weights=st.sampled_from(sorted(WEIGHTS)), tokens=st.booleans(), filtered=st.booleans())
def test_a_product_with_one_over_n_counts_what_is_kept(weights, tokens, filtered):
    """A mean as a matrix product or a convolution with equal numbers, over other axes, too."""

    @promoting
    def network(p, x):
        h = x @ p["w"]
        if filtered:
            h = lax.conv_general_dilated(
                h, WEIGHTS[weights](h.shape[-1] * 3).reshape(3, -1, 1), (1,), "SAME",
                dimension_numbers=("NHC", "HIO", "NHC"),
            ) - h  # fmt: skip
        else:
            h = h - h @ WEIGHTS[weights](h.shape[-1])
        return h.sum((1, 2), keepdims=True) / h.shape[1] / h.shape[2] if tokens else h @ p["o"]

    agree(network, numbers({"w": (5, 6), "o": (6, 3)}), normal((2, 4, 5), 100))


BACKWARD = {
    "N times": lambda n, y, r, g: r / n * (n * g - g.sum(-1, keepdims=True) - y * (g * y).sum(-1, keepdims=True)),
    "1 / N": lambda n, y, r, g: r * (g - (g.sum(-1, keepdims=True) + y * (g * y).sum(-1, keepdims=True)) * (1 / n)),
    "means": lambda n, y, r, g: r * (g - g.mean(-1, keepdims=True) - y * (g * y).mean(-1, keepdims=True)),
}


@hypothesis.settings(max_examples=4)
@hypothesis.given(how=st.sampled_from(sorted(BACKWARD)), width=st.integers(5, 8))
def test_a_written_derivative_has_the_count_that_it_is_the_derivative_of(how, width):
    """A layer norm as kernels have it: N stands in its derivative wherever the formula puts it."""

    def ahead(h):
        r = lax.rsqrt(jnp.mean((h - jnp.mean(h, -1, keepdims=True)) ** 2, -1, keepdims=True) + 1e-2)
        return (h - jnp.mean(h, -1, keepdims=True)) * r, r

    @jax.custom_vjp
    def norm(h):
        return ahead(h)[0]

    norm.defvjp(lambda h: (ahead(h)[0], ahead(h)), lambda kept, g: (BACKWARD[how](g.shape[-1], kept[0], kept[1], g),))

    def network(p, x):
        return norm(x @ p["w"]) @ p["o"]

    agree(promoting(network), numbers({"w": (5, width), "o": (width, 3)}), normal((4, 5), 100))


KEPT = {
    "hidden": lambda p, n: lax.optimization_barrier(jnp.float32(n)),
    "a parameter": lambda p, n: p["by"],
    "another": lambda p, n: n + 0.5,
}


@hypothesis.settings(max_examples=3)
@hypothesis.given(how=st.sampled_from(sorted(KEPT)))
def test_a_number_that_is_no_count_stays(how):
    """What the documents tell users to write, where a number is as large as an axis by chance."""

    @promoting
    def network(p, x):
        h = x @ p["w"]
        return (h - h.sum(-1, keepdims=True) / KEPT[how](p, 6)) @ p["o"]

    agree(network, numbers({"w": (5, 6), "o": (6, 3)}) | {"by": jnp.float32(6)}, normal((4, 5), 100))


def test_one_line_that_divides_by_two_sizes():
    """Tokens and channels of the same number, by the same line: its derivative is told by what it is repeated over."""

    @promoting
    def network(p, x):
        h = x @ p["w"]
        for axis in (1, 2):
            h = h - h.sum(axis, keepdims=True) / h.shape[axis]
        return h @ p["o"]

    params, x = numbers({"w": (5, 4), "o": (4, 3)}), normal((2, 4, 5), 100)
    space = agree(network, params, x)
    kept = {"w": (0, 2, 3)}

    def gradient(p, x):
        return jax.grad(lambda p: smooth(network(p, x)))(p)

    small = dms_jax.shrink(space, params, kept)
    found = jax.jit(space.shrunk(gradient, kept))(small, x)
    close(found, jax.grad(lambda p: smooth(space.shrunk(network, kept)(p, x)))(small), FLOAT32_GRADIENTS)


NORMS = {
    "squares": lambda h: h * lax.rsqrt(jnp.sum(h * h, -1, keepdims=True) / h.shape[-1] + 1e-2),
    "a product": lambda h: h * lax.rsqrt(jnp.einsum("bd,bd->b", h, h) / h.shape[-1] + 1e-2)[:, None],
    "with ones": lambda h: h - (h @ jnp.ones(h.shape[-1]) / h.shape[-1])[:, None],
    "variance": lambda h: (h - h.mean(-1, keepdims=True)) / jnp.sqrt(h.var(-1, keepdims=True) + 1e-2),
}
AROUND = {"nothing": lambda f: f, "remat": jax.checkpoint, "jit": jax.jit, "an own derivative": own_derivative}


@hypothesis.settings(max_examples=4)
@hypothesis.given(norm=st.sampled_from(sorted(NORMS)), around=st.sampled_from(sorted(AROUND)), layers=st.integers(2, 3))
def test_layers_that_call_one_function_count_what_each_keeps(norm, around, layers):
    """Widths are equal, and all layers are normed at one line: the derivative divides by each layer's own count."""

    @promoting
    def network(p, x):
        for w in p["w"]:
            x = AROUND[around](NORMS[norm])(jnp.tanh(x @ w))
        return x @ p["o"]

    def gradient(p, x):
        return jax.grad(lambda p: smooth(network(p, x)))(p)

    params = numbers({"w": [(5, 6), (6, 6), (6, 6)][:layers], "o": (6, 3)})
    x = normal((4, 5), 100)
    space = SearchSpace.from_function(network, params, x)
    kept = {name: tuple(range(i + 2)) for i, name in enumerate(space.groups)}
    small = dms_jax.shrink(space, params, kept)
    close(jax.jit(space.shrunk(gradient, kept))(small, x), gradient(small, x), FLOAT32_GRADIENTS)
