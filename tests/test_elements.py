"""Declaring groups: names, sizes, masks, gates, and structures handed down."""

# Linen's `apply` gives a value or a tuple, options come as dictionaries, and some arguments are wrong on purpose:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportIndexIssue=false, reportOptionalSubscript=false

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import unflatten_dict

from dms_jax import Searchable, SearchSpace, Structure, UserError, shrink


class Leaf(Searchable):
    size: int = 4
    axis: int = -1

    @nn.compact
    def __call__(self, x):
        group = self.elements("width", self.size)
        return nn.Dense(3, name="out")(group(nn.Dense(group.size, name="in")(x), axis=self.axis))


class Tree(Searchable):
    @nn.compact
    def __call__(self, x):
        depth = self.elements("depth", 3)
        for i in depth.kept:
            x = x + depth.gate(i) * nn.Dense(x.shape[-1], name=f"mix{i}")(Leaf(name=f"leaf{i}")(x))
        return x


X = jnp.ones((2, 5))


def test_names_are_module_paths_in_the_order_of_the_network():
    groups = SearchSpace.from_model(Tree(), X).groups
    assert list(groups) == ["depth", "leaf0/width", "leaf1/width", "leaf2/width"]
    assert [(g.size, g.kind, g.least) for g in groups.values()] == [(3, "depth", 0)] + [(4, "width", 1)] * 3


def test_without_masks_it_is_an_ordinary_network():
    variables = Tree().init(jax.random.key(0), X)
    assert set(variables) == {"params"}
    program = str(jax.make_jaxpr(Leaf().apply)(Leaf().init(jax.random.key(0), X), X))
    assert " mul " not in program


def test_masks_of_ones_change_nothing_and_zeros_remove():
    space = SearchSpace.from_model(Tree(), X)
    variables = Tree().init(jax.random.key(0), X)
    np.testing.assert_allclose(Tree().apply({**variables, "masks": space.masks()}, X), Tree().apply(variables, X))
    nothing = space.masks({"depth": ()})
    np.testing.assert_array_equal(Tree().apply({**variables, "masks": nothing}, X), X)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_result_has_the_type_of_the_input(dtype):
    class Model(Searchable):
        @nn.compact
        def __call__(self, x):
            group = self.elements("width", 5)
            return group(x), group.gate(2, dtype)

    masks = {"width": jnp.array([1.0, 0.5, 0.25, 0.0, 1.0])}
    y, gate = Model().apply({"masks": masks}, jnp.ones((2, 5), dtype))
    assert y.dtype == gate.dtype == dtype and gate.shape == ()
    np.testing.assert_array_equal(y[0], masks["width"])
    assert gate == 0.25


def test_the_structure_reaches_modules_inside_and_can_be_replaced():
    model = Tree(structure=Structure({"depth": (0, 2), "leaf2/width": (1, 3)}))
    params = model.init(jax.random.key(0), X)["params"]
    assert set(params) == {"leaf0", "mix0", "leaf2", "mix2"}
    assert params["leaf2"]["in"]["kernel"].shape == (5, 2) and params["leaf0"]["in"]["kernel"].shape == (5, 4)
    again = model.clone(structure=Structure({"leaf0/width": (0,)}))
    params = again.init(jax.random.key(0), X)["params"]
    assert params["leaf0"]["in"]["kernel"].shape == (5, 1) and params["leaf2"]["in"]["kernel"].shape == (5, 4)


class Compiled(Searchable):
    """Modules whose inside Flax traces once for all that are equal, whatever they are a part of."""

    compiled: Any = nn.jit(Leaf)

    @nn.compact
    def __call__(self, x):
        for n in range(3):
            x = self.compiled(name=f"leaf{n}")(x)
        return x

    def other(self, x):
        return self.elements("other", 3)(x)


class Outer(Searchable):
    @nn.compact
    def __call__(self, x):
        return nn.jit(Compiled)(name="twice")(Compiled(name="once")(x))


@pytest.mark.parametrize("init", [Tree.init, Tree.init_with_output, lambda m, key, x: jax.jit(m.init)(key, x)])
def test_a_structure_with_a_group_that_nobody_declares_is_refused(init):
    with pytest.raises(UserError, match=r"group 'leaf1/widht', which Tree does not declare \(it declares depth, leaf0"):
        init(Tree(structure=Structure({"depth": (0, 1), "leaf1/widht": (0,)})), jax.random.key(0), X)


def test_groups_of_blocks_that_are_gone_are_declared():
    gone = Tree(structure=Structure({"depth": (0,), "leaf2/width": (0, 1)}))
    assert set(gone.init(jax.random.key(0), X)["params"]) == {"leaf0", "mix0"}


def test_a_method_needs_not_declare_all_groups():
    given = Compiled(structure=Structure({"leaf0/width": (0,), "other": (1,)}))
    assert given.init(jax.random.key(0), X[:, :1], method="other") == {}


@pytest.mark.parametrize("model", [Compiled(), Compiled(compiled=nn.remat(Leaf)), Compiled(compiled=Leaf), Outer()])
def test_modules_that_are_compiled_have_their_own_groups_every_time(model):
    """What was traced before, at another place or in another network, is not taken for it."""
    for _ in range(2):
        variables = model.init(jax.random.key(0), X)
        space = SearchSpace.from_model(model, X)
        at = ["once/", "twice/"] if isinstance(model, Outer) else [""]
        assert list(space.groups) == [f"{part}leaf{n}/width" for part in at for n in range(3)]
        for kept in ((0, 1), (0, 2, 3)):
            structure = space.structure({name: kept[: n % 2 + 1] for n, name in enumerate(space.groups)})
            small = model.clone(structure=structure)
            made, cut = small.init(jax.random.key(0), X), shrink(space, variables, structure)
            assert jax.tree.map(jnp.shape, made) == jax.tree.map(jnp.shape, cut)
            masked = model.apply({**variables, "masks": unflatten_dict(space.masks(structure), sep="/")}, X)
            np.testing.assert_allclose(small.apply(cut, X), masked, rtol=1e-5, atol=1e-5)


def test_modules_made_in_setup_or_outside_inherit():
    class Setup(Searchable):
        outside: nn.Module

        def setup(self):
            self.inside = Leaf()
            self.listed = [Leaf(), Leaf()]

        def __call__(self, x):
            return self.outside(self.listed[1](self.listed[0](self.inside(x))))

    kept = {f"{name}/width": (0, 1) for name in ("inside", "listed_1", "outside")}
    params = Setup(outside=Leaf(), structure=Structure(kept)).init(jax.random.key(0), X)["params"]
    sizes = {name: tree["in"]["kernel"].shape[1] for name, tree in params.items()}
    assert sizes == {"inside": 2, "listed_0": 4, "listed_1": 2, "outside": 2}


def test_plain_modules_in_between():
    class Plain(nn.Module):
        @nn.compact
        def __call__(self, x):
            return Leaf(name="leaf")(x)

    class Outer(Searchable):
        @nn.compact
        def __call__(self, x):
            return Plain(name="plain")(x)

    params = Outer(structure=Structure({"plain/leaf/width": (3,)})).init(jax.random.key(0), X)["params"]
    assert params["plain"]["leaf"]["in"]["kernel"].shape == (5, 1)


def _model(body):
    class Model(Searchable):
        @nn.compact
        def __call__(self, x):
            return body(self, x)

    return Model


def test_bad_declarations():
    with pytest.raises(UserError, match="group 'width' was declared with 0 elements"):
        _model(lambda self, x: self.elements("width", 0)(x))().init(jax.random.key(0), X)
    with pytest.raises(UserError, match=r"group 'width' has 4 elements; axis -1 of \(2, 5\) has 5"):
        _model(lambda self, x: self.elements("width", 4)(x))().init(jax.random.key(0), X)
    with pytest.raises(UserError, match=r"group 'depth' keeps elements \(0, 1\), not 2"):
        _model(lambda self, x: x * self.elements("depth", 2).gate(2))().init(jax.random.key(0), X)
    with pytest.raises(UserError, match=r"mask 'width' must have shape \(5,\), got \(4,\)"):
        _model(lambda self, x: self.elements("width", 5)(x))().apply({"masks": {"width": jnp.ones(4)}}, X)


def test_a_group_named_like_a_module_with_groups():
    def body(self, x):
        return Leaf(name="mid")(self.elements("mid", 5)(x))

    with pytest.raises(UserError, match="group 'mid' has the name of a module"):
        SearchSpace.from_model(_model(body)(), X)


def test_least_and_kind():
    class Model(Searchable):
        @nn.compact
        def __call__(self, x):
            wide, heads = self.elements("wide", 6, least=4), self.elements("heads", 2, kind="heads")
            y = wide(nn.Dense(wide.size, name="a")(x))
            return nn.Dense(3, name="c")(heads(nn.Dense(heads.size, name="b")(y)))

    space = SearchSpace.from_model(Model(), X)
    assert [(g.kind, g.least, g.sharpness) for g in space.groups.values()] == [("width", 4, 6.0), ("heads", 1, 8.0)]
    with pytest.raises(UserError, match="keeps 3 of group 'wide'; at least 4 must stay"):
        space.kept({"wide": (0, 1, 2)})
