"""Axes that are the product of a group with itself: each of its elements has a factor wherever it takes part."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.lax as lax
import jax.numpy as jnp
import numpy as np
import pytest

import dms_jax
from dms_jax import SearchSpace
from tests.program.outsiders import numbers
from tests.program.test_outsiders import drawn

POWERS = {
    "plain": lambda z: z,
    "bent": lambda z: jnp.tanh(z) * jax.nn.sigmoid(z),
    "norm": lambda z: z / (0.1 + jnp.linalg.norm(z, axis=-1, keepdims=True)),
    "mean": lambda z: z - jnp.mean(z, -1, keepdims=True),
    "softmax": lambda z: jax.nn.softmax(z, -1),
    "largest": lambda z: jnp.concatenate([z, z - 0.8 * lax.stop_gradient(jnp.max(z, -1, keepdims=True))], -1),
    "cumulative": lambda z: jnp.cumsum(z, -1),
    "rooted": lambda z: jnp.sign(z) * jnp.sqrt(jnp.abs(z) + 1e-3),
}
PARTS = {
    "alone": lambda one, other: [one],
    "two groups": lambda one, other: [one, other],
    "joined": lambda one, other: [dms_jax.name(jnp.concatenate([one, other], -1), "h", axis=-1)],
    "parts of one": lambda one, other: jnp.split(
        dms_jax.name(jnp.concatenate([one, other], -1), "h", axis=-1), [one.shape[-1]], axis=-1
    ),
}


@pytest.mark.parametrize("parts", PARTS)
@hypothesis.settings(max_examples=3)
@hypothesis.given(data=st.data(), beside=st.booleans(), bias=st.booleans())
def test_an_axis_is_the_product_of_a_group_with_itself(parts, data, beside, bias):
    whole = {"mean", "softmax", "largest"} if parts == "parts of one" else set()  # a part may be left empty
    kind = data.draw(st.sampled_from(sorted(POWERS.keys() - whole)))
    widths, degree = data.draw(st.tuples(st.integers(2, 3), st.integers(2, 4))), data.draw(st.integers(2, 3))
    sizes = {"alone": widths[:1], "joined": (sum(widths),)}.get(parts, widths)
    chosen = data.draw(st.lists(st.integers(0, len(sizes) - 1), min_size=degree, max_size=degree))
    size = int(np.prod([sizes[i] for i in chosen]))

    def network(p, x):
        given = PARTS[parts](x @ p["a"], x @ p["b"])
        z = given[chosen[0]]
        for i in chosen[1:]:
            z = (z[:, :, None] * given[i][:, None, :]).reshape(len(x), -1)
        z = POWERS[kind](z + p["bias"] if bias else z)
        return (jnp.concatenate([z, *given], -1) if beside else z) @ p["o"]

    out = (2 * size if kind == "largest" else size) + (sum(sizes) if beside else 0)
    shapes = {"a": (5, widths[0]), "b": (5, widths[1]), "bias": (size,), "o": (out, 3)}
    asked = ["a*", "b*"] if parts == "two groups" else ["a*"]
    drawn(network, shapes, (3, 5), plain=parts == "alone", include=asked)


def a_kernel_of_squares(p, x):
    """Written as n x n, bent, read along one n after the other."""
    h = jnp.tanh(x @ p["e"])
    z = jax.nn.relu((x @ p["w"] + p["b"]).reshape(len(x), 4, 4) * h[:, :, None] * h[:, None, :])
    return jnp.tanh(jnp.sum(z, 1)) @ p["o"]


def compressed_interaction(p, x):
    """As in xDeepFM: all pairs of feature maps, compressed."""
    h = jnp.einsum("bfd,fh->bhd", x, p["e"])
    for w in (p["w"], p["v"]):
        h = jnp.einsum("bzd,zh->bhd", jnp.einsum("bhd,bmd->bhmd", h, h).reshape(len(x), -1, x.shape[-1]), w)
    return jnp.sum(h, -1) @ p["o"]


def second_order_pooling(p, x):
    h = jax.nn.relu(x @ p["e"])
    z = jnp.einsum("bti,btj->bij", h, h).reshape(len(x), -1) / x.shape[1]
    z = jnp.sign(z) * jnp.sqrt(jnp.abs(z) + 1e-3)
    return z / (1e-3 + jnp.linalg.norm(z, axis=-1, keepdims=True)) @ p["o"]


SQUARES = {
    a_kernel_of_squares: ({"e": (5, 4), "w": (5, 16), "b": (16,), "o": (4, 3)}, (3, 5)),
    compressed_interaction: ({"e": (4, 3), "w": (9, 3), "v": (9, 4), "o": (4, 2)}, (2, 4, 5)),
    second_order_pooling: ({"e": (5, 4), "o": (16, 3)}, (2, 6, 5)),
}


@pytest.mark.parametrize("fn", SQUARES, ids=lambda fn: fn.__name__)
def test_squares_of_groups_as_networks_have_them(fn):
    shapes, x = SQUARES[fn]
    drawn(fn, shapes, x, include=["*bundle*"])


def test_magnitudes_of_a_square_count_a_weight_once_for_each_of_its_elements():
    def network(p, x):
        h = x @ p["e"]
        return (h[:, :, None] * h[:, None, :]).reshape(len(x), -1) @ p["o"]

    params = numbers({"e": (3, 4), "o": (16, 2)})
    space = SearchSpace.from_function(network, params, jnp.ones((2, 3)), include=["e/bundle"])
    (found,) = space.magnitudes(params).values()
    square = np.sum(np.abs(params["o"]), 1).reshape(4, 4)
    expected = np.sum(np.abs(params["e"]), 0) + square.sum(0) + square.sum(1) - np.diag(square)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
