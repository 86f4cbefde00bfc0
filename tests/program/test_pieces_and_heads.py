"""Heads that are pieces of concatenated channels, where the groups of a convolution do not line up with them."""

# Functions take trees of numbers: pyright: reportArgumentType=false, reportIndexIssue=false

from random import Random

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import pytest
from hypothesis import example, given, settings

from dms_jax import SearchSpace
from dms_jax.program.axes import Atom, Concat, Product, Ties, atoms, resolve
from tests.helpers import FLOAT32_LOGITS
from tests.program.outsiders import numbers


def convolved(x, kernel, groups):
    """One position after the other, channels in groups."""
    layout = ("NWC", "WIO", "NWC")
    return jax.lax.conv_general_dilated(x, kernel, (1,), "SAME", dimension_numbers=layout, feature_group_count=groups)


def thirds(x, features, how):
    """Queries, keys and values of every head."""
    if how == "index":
        x = x.reshape(*x.shape[:2], -1, 3, features)
        return x[..., 0, :], x[..., 1, :], x[..., 2, :]
    x = x.reshape(*x.shape[:2], -1, 3 * features)
    return jnp.split(x, 3, -1) if how == "split" else [x[..., i * features : (i + 1) * features] for i in range(3)]


def attention(scales, groups, features, how, active):
    """Linear attention over several scales, as EfficientViT has it."""

    def network(p, x):
        y = x @ p["in"]
        scaled = [y, *(convolved(y, p[f"scale{i}"], groups) for i in range(1, scales))]
        q, k, v = thirds(jnp.concatenate([active(z) for z in scaled], -1), features, how)
        mixed = jnp.einsum("bnhd,bhde->bnhe", q, jnp.einsum("bnhd,bnhe->bhde", k, v))
        return mixed.reshape(*x.shape[:2], -1) @ p["out"]

    return network


@st.composite
def sizes(draw):
    heads, features = draw(st.integers(2, 4)), draw(st.integers(2, 5))
    wide = draw(st.sampled_from([n for n in range(1, features + 1) if features % n == 0] + [3 * features]))
    return heads, features, 3 * heads * features // wide


@settings(max_examples=6)
@given(sizes(), st.integers(2, 3), st.sampled_from(["split", "slice", "index"]), st.booleans(), st.randoms())
@example((2, 4, 6), 2, "split", False, Random(0))
def test_linear_attention(size, scales, how, active, random):
    heads, features, groups = size
    width = 3 * heads * features
    kernels = {f"scale{i}": (1, width // groups, width) for i in range(1, scales)}
    params = numbers({"in": (3, width), **kernels, "out": (scales * heads * features, 2)})
    network = attention(scales, groups, features, how, jnp.tanh if active else lambda x: x)
    x = numbers({"x": (2, 5, 3)})["x"]
    space = SearchSpace.from_function(network, params, x, include="*")
    assert space.groups and not any("check" in why for why in space.left.values())
    kept = {n: sorted(random.sample(range(g.size), random.randint(1, g.size))) for n, g in space.groups.items()}
    scale = max(1.0, float(jnp.abs(network(params, x)).max()))
    assert space.verify(params, kept, x) < FLOAT32_LOGITS * scale


@pytest.mark.parametrize("pieces", [(1, 1, 1), (1, 2), (2, 2), (3, 1, 2)])
@pytest.mark.parametrize("rest", [2, 3])
@pytest.mark.parametrize("scales", [1, 2, 3])
def test_pieces_are_factored_again(pieces, rest, scales):
    """What is known of an axis already is found again, whichever part of it comes first."""
    inner, last = Concat(tuple(Atom(n) for n in pieces)), Atom(rest)
    heads = [Atom(2 + i) for i in range(scales)]
    whole = [Product((head, inner, last)) for head in heads]
    axis = whole[0] if scales == 1 else Concat(tuple(whole))
    number, features = Atom(sum(head.size for head in heads)), Atom(inner.size * rest)
    Ties().tie(axis, Product((number, features)), "a reshape")
    known = resolve(number)
    assert (known.parts if isinstance(known, Concat) else (known,)) == tuple(heads)
    assert all(atom.frozen is None for atom in atoms(resolve(axis)))
    found = resolve(features)
    assert isinstance(found, Concat)
    assert [part.size for part in found.parts] == [n * rest for n in pieces]
