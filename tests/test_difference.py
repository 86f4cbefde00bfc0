"""What `verify` compares: no output, part of a number or NaN escapes it; random numbers are the same on both sides."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax, random

import dms_jax
from dms_jax.shrink import difference

DTYPES = [np.float32, np.float16, jnp.bfloat16, np.float64, np.complex64, np.int32, np.bool_]


@hypothesis.given(st.lists(st.sampled_from(DTYPES), min_size=1, max_size=4), st.data())
def test_one_number_that_differs_anywhere_is_found(dtypes, data):
    draw = np.random.default_rng(data.draw(st.integers(0, 99)))
    outputs = [np.asarray(draw.integers(0, 2, (2, 3))).astype(dtype) for dtype in dtypes]
    assert difference(outputs, [o.copy() for o in outputs]) == 0.0
    which = data.draw(st.integers(0, len(outputs) - 1))
    others = [o.copy() for o in outputs]
    at, kind = (data.draw(st.integers(0, 1)), data.draw(st.integers(0, 2))), outputs[which].dtype
    if kind.kind == "b":
        others[which][at], expected = not others[which][at], 1.0
    elif kind.kind == "i":
        others[which][at], expected = others[which][at] + 3, 3.0
    else:
        steps = {1.0: 1.0, float("nan"): float("inf"), float("inf"): float("inf")}
        steps |= {2j: 2.0, complex(0, float("nan")): float("inf")} if kind.kind == "c" else {}
        step = data.draw(st.sampled_from(list(steps)))
        others[which][at], expected = others[which][at] + kind.type(step), steps[step]
    assert difference(outputs, others) == difference(others, outputs) == expected


def test_numbers_that_are_not_finite_on_both_sides_are_the_same():
    odd = np.array([np.nan, np.inf, -np.inf, 1.0])
    assert difference([odd], [odd.copy()]) == 0.0
    assert difference([odd], [-odd]) == float("inf")


def test_verify_finds_a_nan_in_the_last_output_of_one_side():
    """A weight of what is dropped is NaN: times a mask of 0 it stays so, and the smaller network does not have it."""
    params = {"a": jnp.ones((4, 8)).at[0, 5].set(jnp.nan), "b": jnp.ones((8, 2))}
    x = jnp.ones((3, 4))
    space = dms_jax.SearchSpace.from_function(lambda p, x: (x, x @ p["a"] @ p["b"]), params, x)
    assert space.verify(params, {"a": (0, 1)}, x) == float("inf")
    assert space.verify({**params, "a": jnp.ones((4, 8))}, {"a": (0, 1)}, x) == 0.0


# --- random numbers ---


def words(key):
    """The state of a generator of four words."""
    return jnp.concatenate([random.key_data(key)] * 2)


def in_a_scan(key, h):
    return lax.scan(lambda c, k: (c + random.normal(k, c.shape), None), h, random.split(key, 3))[0]


def in_a_loop(key, h):
    def turn(i, carry):
        key, other = random.split(carry[0])
        return key, carry[1] + random.normal(other, h.shape)

    return lax.fori_loop(0, 3, turn, (key, h))[1]


DRAWS = {
    "normal": lambda key, h: h + random.normal(key, h.shape),
    "uniform": lambda key, h: h * random.uniform(key, h.shape),
    "bernoulli": lambda key, h: h * random.bernoulli(key, 0.5, h.shape),
    "gumbel": lambda key, h: h + random.gumbel(key, h.shape),
    "truncated": lambda key, h: h + random.truncated_normal(key, -1.0, 1.0, h.shape),
    "bytes": lambda key, h: h + random.bits(key, h.shape, jnp.uint8) / 255.0,
    "gamma": lambda key, h: h + random.gamma(key, jnp.exp(h)),
    "poisson": lambda key, h: h + random.poisson(key, jnp.exp(h)),
    "categorical": lambda key, h: h + random.categorical(key, h[..., None] * jnp.arange(3.0)),
    "flattened": lambda key, h: h + random.normal(key, (h.size,)).reshape(h.shape),
    "keys of a batch": lambda key, h: h + jax.vmap(lambda k: random.normal(k, h.shape[1:]))(random.split(key, len(h))),
    "gamma of a batch": lambda key, h: h + jax.vmap(random.gamma)(random.split(key, len(h)), jnp.exp(h)),
    "a key an element": lambda key, h: h + jax.vmap(lambda k: random.normal(k))(random.split(key, h.shape[1])),
    "a number an element": lambda key, h: (
        h + jax.vmap(lambda i: random.normal(random.fold_in(key, i)))(jnp.arange(h.shape[1]))
    ),
    "scan": in_a_scan,
    "loop": in_a_loop,
    "generator": lambda key, h: h + lax.rng_bit_generator(words(key), h.shape)[1] / 2.0**32,
    "a second generator": lambda key, h: h + random.normal(random.wrap_key_data(words(key), impl="rbg"), h.shape),
}
WIDE = {"a": np.random.default_rng(0).normal(size=(3, 6)), "o": np.random.default_rng(1).normal(size=(6, 2))}
WIDE = {name: jnp.asarray(array, jnp.float32) for name, array in WIDE.items()}
X = jnp.asarray(np.random.default_rng(2).normal(size=(2, 3)), jnp.float32)


def drawing(draw):
    def network(p, x, key):
        with jax.numpy_rank_promotion("allow"):
            return jnp.tanh(draw(key, x @ p["a"])) @ p["o"]

    return network


@pytest.mark.parametrize("old", [True, False])
@pytest.mark.parametrize("kind", DRAWS)
def test_both_networks_draw_the_same_numbers_where_they_are_compared(kind, old):
    key = (random.PRNGKey if old else random.key)(1)
    space = dms_jax.SearchSpace.from_function(drawing(DRAWS[kind]), WIDE, X, key)
    assert set(space.groups) == {"a"}
    assert space.verify(WIDE, {"a": (1, 3, 4)}, X, key) < 1e-6


@pytest.mark.parametrize("kind", ["normal", "gamma", "keys of a batch", "scan"])
def test_the_network_that_is_handed_out_draws_at_its_own_size(kind):
    network, kept, key = drawing(DRAWS[kind]), {"a": (1, 3, 4)}, random.key(1)
    space = dms_jax.SearchSpace.from_function(network, WIDE, X, key)
    small = dms_jax.shrink(space, WIDE, kept)
    found = jax.jit(space.shrunk(network, kept))(small, X, key)
    np.testing.assert_allclose(found, jax.jit(network)(small, X, key), rtol=1e-5, atol=1e-6)


def test_numbers_drawn_without_a_key_are_said():
    key = random.key(1)
    network = drawing(lambda key, h: h + lax.rng_uniform(0.0, 1.0, h.shape))
    space = dms_jax.SearchSpace.from_function(network, WIDE, X, key)
    with pytest.raises(dms_jax.TracingError, match="rng_uniform at .*other numbers in every call.*jax.random"):
        space.verify(WIDE, {"a": (1, 3, 4)}, X, key)
