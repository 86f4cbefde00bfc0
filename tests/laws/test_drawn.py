"""Networks drawn from pieces: a space is exact, or it refuses with the operation and the user's line."""

import re
from collections.abc import Sequence
from typing import Any

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dms_jax import SearchSpace, TracingError, UserError
from tests.laws import pieces
from tests.laws.checking import Case, hold, masked_training_is_shrunk, some
from tests.networks.network import fill

X = np.random.default_rng(5).normal(size=(3, 4, 6)).astype(np.float32)
WIDTH = 8
WHERE = r" at [\w/]*pieces\.py:\d+ "


def network(chosen: Sequence[Any], draw: Any) -> tuple[Any, Any]:
    """(fn, random parameters) of a stem, some pieces and a head."""
    made = [piece(draw, WIDTH) for piece in chosen]
    shapes = {"stem": (6, WIDTH), "head": (WIDTH, 3)} | {f"piece{i}": shapes for i, (shapes, _) in enumerate(made)}
    structs = jax.tree.map(
        lambda s: jax.ShapeDtypeStruct(s, jnp.float32), shapes, is_leaf=lambda node: isinstance(node, tuple)
    )

    def fn(params, x):
        with jax.numpy_rank_promotion("allow"):
            y = jax.nn.relu(x @ params["stem"])
            for i, (_, apply) in enumerate(made):
                y = apply(params[f"piece{i}"], y)
            return y @ params["head"]

    return fn, fill(structs)


def check(chosen, draw):
    fn, params = network(chosen, draw)
    try:
        space = SearchSpace.from_function(fn, params, X)
    except (TracingError, UserError) as error:
        message = str(error)
        assert "\n" not in message and re.search(WHERE, message), message
        return
    for why in space.left.values():
        assert " because of " not in why or re.search(r" at |axis of an", why), why
    hold(Case(fn, space, params, (X,)))


@pytest.mark.parametrize("piece", pieces.PIECES, ids=lambda piece: piece.__name__)
@hypothesis.settings(max_examples=4, phases=[hypothesis.Phase.generate])
@hypothesis.given(data=st.data())
def test_one_piece(piece, data):
    check([piece], lambda options: data.draw(st.sampled_from(options)))


@hypothesis.settings(max_examples=15, phases=[hypothesis.Phase.generate])
@hypothesis.given(data=st.data())
def test_several_pieces(data):
    chosen = data.draw(st.lists(st.sampled_from(pieces.PIECES), min_size=2, max_size=3))
    check(chosen, lambda options: data.draw(st.sampled_from(options)))


EVERY = [(pieces.normalized, "NORMS"), (pieces.sized, "SIZED"), (pieces.cumulative, "CUMULATIVE"), (pieces.odd, "ODD")]


@pytest.mark.parametrize(("piece", "how"), [(p, how) for p, table in EVERY for how in getattr(pieces, table)])
def test_every_formula(piece, how):
    check([piece], lambda options: how if how in options else options[0])


@pytest.mark.parametrize("factor", pieces.FACTORS)
@pytest.mark.parametrize("order", [0, 1])
def test_every_factor_of_a_branch(factor, order):
    """Found as a branch, whatever it is multiplied by, wherever."""

    def draw(options):
        return factor if factor in options else order if options == (0, 1) else options[0]

    fn, params = network([pieces.gated, pieces.gated], draw)
    space = SearchSpace.from_function(fn, params, X)
    assert [group.size for group in space.groups.values() if group.kind == "depth"] == [2]
    assert all(leaf.gates for path, leaf in space.leaves.items() if path.startswith("piece0"))
    hold(Case(fn, space, params, (X,)))


@hypothesis.settings(max_examples=6, phases=[hypothesis.Phase.generate])
@hypothesis.given(data=st.data())
def test_a_head_that_is_there_in_training_alone(data):
    draw = lambda options: data.draw(st.sampled_from(options))  # noqa: E731
    chosen = data.draw(st.lists(st.sampled_from(pieces.PIECES[:6]), min_size=1, max_size=2))
    fn, params = network(chosen, draw)
    params = params | {"aux": fill(jax.ShapeDtypeStruct((WIDTH, 2), jnp.float32))}

    def train(params, x, key):
        keep = jax.random.bernoulli(key, 0.9, x.shape)
        y = jax.nn.relu(jnp.where(keep, x, 0) @ params["stem"])
        return (fn(params, x), jnp.tanh(y) @ params["aux"]), {}

    key = jax.random.key(0)
    space = SearchSpace.from_function(fn, params, X, also={"train": (train, (X, key))})
    (leaf,) = (leaf for path, leaf in space.leaves.items() if path == "aux")
    assert bool(space.owners(leaf.axes[0])) == bool(space.owners(space.leaves["stem"].axes[1]))
    masked_training_is_shrunk(Case(fn, space, params, (X,), train), some(space)[0])
