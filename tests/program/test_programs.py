"""Whole programs: gates, loops, branches, calls. Masked == shrunk, costs == an independent count."""

# Linen's `apply` gives a value or a tuple, options come as dictionaries, and some arguments are wrong on purpose:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportIndexIssue=false, reportOptionalSubscript=false

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dms_jax
from dms_jax import Searchable, SearchSpace, Structure, UserError
from tests.counting import multiply_adds, numbers, random_variables
from tests.helpers import FLOAT32_LOGITS
from tests.laws.checking import Case, hold
from tests.traced import Model, check


class Residual(Searchable):
    """x + Dense(mid(relu(Dense(x))))."""

    features: int = 5

    @nn.compact
    def __call__(self, x):
        mid = self.elements("mid", self.features)
        y = nn.relu(nn.Dense(mid.size, name="up")(x))
        return nn.Dense(x.shape[-1], name="down")(mid(y))


class Deep(Searchable):
    """Gated residual blocks, perhaps wrapped."""

    wrap: str = "none"
    blocks: int = 3

    @nn.compact
    def __call__(self, x):
        block = {"none": Residual, "remat": nn.remat(Residual)}[self.wrap]
        depth = self.elements("depth", self.blocks)
        for i in depth.kept:
            x = x + depth.gate(i) * block(name=f"block{i}")(x)
        return nn.Dense(2, name="head")(x)


@pytest.mark.parametrize("wrap", ["none", "remat"])
def test_depth_and_inherited_structures(wrap):
    space = check(Deep(wrap=wrap), 2, 4)
    assert space.groups["depth"].kind == "depth" and space.groups["depth"].least == 0
    assert list(space.groups) == ["depth", "block0/mid", "block1/mid", "block2/mid"]
    assert space.leaves["block1/up/kernel"].gates == {("depth", 1)}
    assert space.leaves["head/kernel"].gates == frozenset()
    small = space.structure({"depth": (1,)})
    assert small.removed == {"block0/mid", "block2/mid"}
    assert "goes with the gates: depth[1]" in space.explain("block1/down/bias")


def test_one_block_alone():
    space = check(Deep(blocks=1), 2, 4)
    assert space.groups["depth"].kind == "depth" and space.groups["depth"].sharpness == 8.0


def test_gates_inside_gates():
    class Inner(Searchable):
        @nn.compact
        def __call__(self, x):
            depth = self.elements("depth", 2)
            for i in depth.kept:
                x = x + depth.gate(i) * Residual(name=f"inner{i}")(x)
            return nn.Dense(x.shape[-1], name="mix")(x)

    class Outer(Searchable):
        @nn.compact
        def __call__(self, x):
            depth = self.elements("depth", 2)
            for i in depth.kept:
                x = x + depth.gate(i) * Inner(name=f"outer{i}")(x)
            return nn.Dense(2, name="head")(x)

    space = check(Outer(), 2, 4, seeds=range(5))
    leaf = space.leaves["outer1/inner0/up/kernel"]
    assert leaf.gates == {("depth", 1), ("outer1/depth", 0)}
    assert space.leaves["outer1/mix/kernel"].gates == {("depth", 1)}


def test_a_parameter_used_outside_its_block_stays():
    class Shared(Searchable):
        @nn.compact
        def __call__(self, x):
            depth = self.elements("depth", 2)
            shared = nn.Dense(x.shape[-1], name="shared")
            y = shared(x)
            for i in depth.kept:
                y = y + depth.gate(i) * nn.Dense(x.shape[-1], name=f"own{i}")(shared(y))
            return y

    space = check(Shared(), 2, 4)
    assert space.leaves["shared/kernel"].gates == frozenset()
    full, less = space.resources()["macs"], space.resources({"depth": (0,)})["macs"]
    assert full - less == 2 * 2 * 16  # the second use goes, the parameter does not


class Body(Searchable):
    """A scanned layer: groups are shared by all layers, so their masks are broadcast."""

    @nn.compact
    def __call__(self, x, _):
        mid = self.elements("mid", 5)
        y = nn.Dense(x.shape[-1], name="down")(mid(nn.relu(nn.Dense(mid.size, name="up")(x))))
        return x + y, None


@pytest.mark.parametrize("remat", [False, True])
def test_scan_over_layers(remat):
    class Scanned(Searchable):
        @nn.compact
        def __call__(self, x):
            width = self.elements("width", 4)
            x = nn.Dense(width.size, name="in")(x)
            body = nn.remat(Body, prevent_cse=False) if remat else Body
            stack = nn.scan(
                body, variable_axes={"params": 0}, variable_broadcast="masks", split_rngs={"params": True}, length=3
            )
            x, _ = stack(name="layers")(x, None)
            return nn.Dense(2, name="head")(width(x))

    # `width` is read by the scanned layers without its mask: shrinking it would change them, masking would not
    space = SearchSpace.from_model(Scanned(), jax.ShapeDtypeStruct((2, 6), jnp.float32))
    x = np.random.default_rng(0).normal(size=(2, 6)).astype(np.float32)
    structure = space.structure({"layers/mid": (0, 3)})
    assert dms_jax.verify(space, random_variables(space), structure, x) < FLOAT32_LOGITS
    small = space.model.clone(structure=structure)
    variables = dms_jax.shrink(space, random_variables(space), structure)
    found = space.resources(structure)
    assert found["macs"] == multiply_adds(small.apply, variables, x)
    assert found["params"] == numbers(variables["params"])
    assert space.leaves["layers/up/kernel"].shape == (3, 4, 5)


def test_scan_by_hand():
    class Recurrent(Searchable):
        @nn.compact
        def __call__(self, x):
            state = self.elements("state", 5)
            n = state.size
            w = self.param("w", nn.initializers.normal(), (n, n))
            u = self.param("u", nn.initializers.normal(), (x.shape[-1], n))

            def step(h, x_t):
                h = state(jnp.tanh(h @ w + x_t @ u))
                return h, h

            h, hs = jax.lax.scan(step, jnp.zeros((x.shape[0], n)), jnp.swapaxes(x, 0, 1))
            return nn.Dense(3, name="out")(h) + nn.Dense(3, name="mean")(jnp.mean(hs, axis=0))

    check(Recurrent(), 2, 4, 3)


def test_fixed_loops_count_every_turn():
    class Looped(Model):
        def middle(self, x, group):
            w = self.param("w", nn.initializers.normal(), (group.size, group.size))
            return jax.lax.fori_loop(0, 4, lambda _, y: group(jnp.tanh(y @ w)), group(x))

    space = check(Looped(), 1, 5)
    assert space.resources()["macs"] == 5 * 6 + 4 * 36 + 6 * 3


def test_while():
    class While(Model):
        def middle(self, x, group):
            return jax.lax.while_loop(lambda y: jnp.sum(jnp.square(y)) > 1.0, lambda y: y / 2, group(x))

    check(While(), 2, 5, differentiable=False)


def test_cond():
    class Branching(Model):
        def middle(self, x, group):
            wide = self.param("wide", nn.initializers.normal(), (group.size, 8))
            thin = self.param("thin", nn.initializers.normal(), (group.size, 2))
            x = group(x)
            dear, cheap = (lambda x: jnp.sum(x @ wide, -1)), (lambda x: jnp.sum(x @ thin, -1))
            return x * jax.lax.cond(jnp.sum(x) > 0, dear, cheap, x)[:, None]

    space = check(Branching(), 2, 5)
    assert space.resources()["macs"] == 2 * (5 * 6 + 6 * 8 + 6 * 3)


def test_switch_ties_branches():
    class Switch(Model):
        def middle(self, x, group):
            other = self.param("other", nn.initializers.normal(), (group.size,))
            y = jax.lax.switch(
                jnp.argmax(jnp.sum(x, axis=-1)) % 2,
                [lambda x: x + 1, lambda x: x * other[None], lambda x: jnp.zeros_like(x)],
                x,
            )
            return group(y)

    check(Switch(), 2, 5)


@jax.custom_jvp
def bent(x):
    return jnp.where(x > 0, x, x * 0.5)


bent.defjvp(lambda primals, tangents: (bent(*primals), tangents[0]))


@jax.custom_vjp
def straight(x, y):
    return jnp.round(x * 4) / 4 + y


straight.defvjp(lambda x, y: (straight(x, y), None), lambda _, g: (g, g))


def test_custom_derivatives():
    class Custom(Model):
        def middle(self, x, group):
            return group(straight(bent(x), x))

    check(Custom(), 2, 5)


_TABLE = np.linspace(0.5, 1.5, 5).astype(np.float32)


@jax.jit
def _nested(x, y):
    return jax.jit(lambda a: jnp.tanh(a) * y)(x) + jnp.sum(_TABLE)


def test_nested_jit_with_constants():
    class Nested(Model):
        def middle(self, x, group):
            scaled = jax.jit(lambda t: t * _TABLE[None, :, None])(x)  # a closed-over array inside a nested program
            return group(_nested(scaled, x) + jax.checkpoint(lambda t: t * _TABLE[None, :, None])(x))

    check(Nested(), 2, 5, 3)


def test_several_inputs_and_outputs():
    class Two(Searchable):
        @nn.compact
        def __call__(self, a, b):
            group = self.elements("mid", 4)
            y = group(nn.Dense(group.size, name="a")(a) + nn.Dense(group.size, name="b")(b["x"]))
            return {"one": nn.Dense(2, name="one")(y), "two": (nn.Dense(3, name="two")(y),)}

    args = (np.ones((2, 3), np.float32), {"x": np.ones((2, 5), np.float32)})
    space = SearchSpace.from_model(Two(), *args)
    structure = space.structure({"mid": (1, 3)})
    assert dms_jax.verify(space, random_variables(space), structure, args) < FLOAT32_LOGITS


def test_partitioned_parameters():
    class Boxed(Model):
        def dense(self, x, features, name):
            init = nn.with_partitioning(nn.initializers.lecun_normal(), (None, "model"))
            return nn.Dense(features, kernel_init=init, name=name)(x)

    space = SearchSpace.from_model(Boxed(), jnp.ones((2, 5)))
    variables = Boxed().init(jax.random.key(0), jnp.ones((2, 5)))
    small = dms_jax.shrink(space, {"params": variables["params"]}, space.structure({"width": (0, 2)}))
    assert small["params"]["first"]["kernel"].value.shape == (5, 2)
    assert small["params"]["first"]["kernel"].names == (None, "model")


def test_an_operation_without_a_rule_that_no_group_reaches():
    class Spectral(Model):
        def middle(self, x, group):
            spectrum = jnp.abs(jnp.fft.fft(jnp.zeros((8,)) + 1.0))
            singular = jnp.linalg.svd(self.param("square", nn.initializers.normal(), (4, 4)), compute_uv=False)
            return group(x) * jnp.sum(spectrum) * jnp.max(singular)

    check(Spectral(), 2, 5)


def test_a_search_space_of_a_smaller_network():
    model = Deep()
    space = SearchSpace.from_model(model, jnp.ones((2, 4)))
    small = model.clone(structure=space.structure({"depth": (0, 2), "block0/mid": (1, 2, 4)}))
    again = SearchSpace.from_model(small, jnp.ones((2, 4)))
    assert {name: group.size for name, group in again.groups.items()} == {
        "depth": 2,
        "block0/mid": 3,
        "block2/mid": 5,
    }
    assert again.resources() == space.resources(small.structure)
    gone = model.clone(structure=Structure({"depth": (0, 2), "block1/mid": (0,)}))  # a group of a block that is gone
    assert "block1/mid" not in SearchSpace.from_model(gone, jnp.ones((2, 4))).groups
    with pytest.raises(UserError, match="the structure has group 'block9/mid', which Deep does not declare"):
        SearchSpace.from_model(model.clone(structure=Structure({"block9/mid": (0,)})), jnp.ones((2, 4)))


def test_a_loop_that_takes_what_it_does_not_need():
    def fn(params, x):
        unread = params["unread"] * 2.0

        def step(h, row):
            jnp.sum(unread)  # an operand of the loop, for nothing
            return jnp.tanh(row @ params["in"] + h), None

        h, _ = jax.lax.scan(step, jnp.zeros((x.shape[0], 5)), jnp.swapaxes(x, 0, 1))
        return jnp.tanh(h @ params["hidden"]) @ params["out"]

    shapes = {"in": (3, 5), "hidden": (5, 6), "out": (6, 2), "unread": (4,)}
    params = {name: jax.random.normal(jax.random.key(i), shape) for i, (name, shape) in enumerate(shapes.items())}
    x = np.random.default_rng(0).normal(size=(2, 4, 3)).astype(np.float32)
    space = SearchSpace.from_function(fn, params, x, freeze=["in"])  # the loop stays as it is
    hold(Case(fn, space, params, (x,)))


def _unrolled(params, x):
    for block in params["layers"].values():
        x = x + jnp.tanh(x @ block["in"]) @ block["out"]
    return x @ params["last"]


def _stacked(params, x):
    def step(x, block):
        return x + jnp.tanh(x @ block["in"]) @ block["out"], None

    return jax.lax.scan(step, x, params["layers"])[0] @ params["last"]


@pytest.mark.parametrize("fn", [_unrolled, _stacked], ids=["unrolled", "stacked"])
def test_groups_of_blocks_are_frozen_by_name(fn):
    """Alone, by a pattern that matches others, too, and where some other pattern matches nothing."""
    keys = iter(jax.random.split(jax.random.key(0), 9))
    blocks = [
        {"in": jax.random.normal(next(keys), (3, 5)), "out": jax.random.normal(next(keys), (5, 3))} for _ in "abc"
    ]
    layers = (
        dict(zip("abc", blocks, strict=True)) if fn is _unrolled else jax.tree.map(lambda *x: jnp.stack(x), *blocks)
    )
    params, x = {"layers": layers, "last": jax.random.normal(next(keys), (3, 2))}, np.ones((2, 3), np.float32)
    free = SearchSpace.from_function(fn, params, x)
    (depth,) = (name for name, group in free.groups.items() if group.rules.gates)
    others = [name for name in free.groups if name != depth]
    for freeze in ([depth], ["*depth"], [depth, *others[1:]]):
        space = SearchSpace.from_function(fn, params, x, freeze=freeze)
        assert depth not in space.groups and space.left[depth] == "frozen"
        assert set(space.groups) == set(free.groups) - set(freeze) - {depth}
        hold(Case(fn, space, params, (x,)))
    with pytest.raises(UserError, match="'nothing' matches no group; there are .*depth"):
        SearchSpace.from_function(fn, params, x, freeze=[depth, "nothing"])
