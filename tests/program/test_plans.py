"""Law 8: masks in parameters and inserted masks are the same; which of them fold."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dms_jax import Searchable, SearchSpace, layers
from dms_jax.models import create
from tests.counting import folded, random_variables
from tests.laws.checking import Case, folded_is_inserted


def check(model, *shape, foldable=None, inserted=None):
    """Loss and gradients by masks in parameters and by inserted ones; which groups fold."""
    x = jnp.asarray(np.random.default_rng(1).normal(size=shape), jnp.float32)
    space = SearchSpace.from_model(model, x)
    if foldable is not None:
        assert folded(space) == set(foldable)
    plan = space._readings.plan_of(space.fn, space.example)
    for name, operation in (inserted or {}).items():
        assert operation in {insertion.node.name for insertion in plan.insertions[name]}
    folded_is_inserted(Case(space.fn, space, random_variables(space), (x,)), seed=2)
    return space


class Model(Searchable):
    """Dense to 6 searched features, something with them; subclasses say what."""

    @nn.compact
    def __call__(self, x):
        group = self.elements("width", 6)
        y = self.middle(nn.Dense(group.size, name="first")(x), group)
        return nn.Dense(3, name="last")(y)

    def middle(self, x, group):
        return group(x)


def model(middle):
    class Made(Model):
        def middle(self, x, group):
            return middle(x, group)

    return Made()


FOLDABLE = {
    "dense": lambda x, g: g(x),
    "negative": lambda x, g: -g(x) / 3,
    "scaled": lambda x, g: g(x) * 2.5 * jax.nn.sigmoid(x),
    "transposed": lambda x, g: jnp.swapaxes(g(jnp.swapaxes(x, 1, -1), axis=1), 1, -1),
    "reshaped": lambda x, g: g(x).reshape(1, -1, x.shape[-1]),
    "summed": lambda x, g: jnp.sum(g(x), axis=(1, 2)),
    "averaged": lambda x, g: jnp.mean(g(x), axis=(1, 2), keepdims=True),
    "pooled": lambda x, g: nn.avg_pool(g(x), (2, 2), (2, 2)),
    "padded": lambda x, g: jax.lax.pad(g(x), 0.0, ((0, 0, 0), (1, 1, 0), (0, 0, 0), (0, 0, 0))),
    "flattened": lambda x, g: g(x).reshape(x.shape[0], -1),
    "convolved": lambda x, g: nn.relu(nn.Conv(4, (3, 3), 2, name="conv")(g(x))),
    "depthwise": lambda x, g: nn.Conv(g.size, (3, 3), feature_group_count=g.size, use_bias=False, name="dw")(g(x)),
    "depthwise_twice": lambda x, g: nn.Conv(
        5, (1, 1), name="pw"
    )(nn.Conv(g.size, (3, 3), feature_group_count=g.size, use_bias=False, name="dw")(g(x))),
    "general": lambda x, g: nn.DenseGeneral(4, axis=(-3, -2, -1), name="general")(g(x)),
    "two_readers": lambda x, g: nn.relu(nn.Dense(4, name="a")(g(x))) + nn.relu(nn.Dense(4, name="b")(g(x))),
}  # fmt: skip


@pytest.mark.parametrize("name", FOLDABLE)
def test_folded(name):
    space = check(model(FOLDABLE[name]), 2, 4, 4, 5, foldable=["width"])
    variables, masks = random_variables(space), space.masks()
    assert space.fold(variables, masks)[1] == {}


OTHERS = {
    "nonlinearity": lambda x, g: jnp.tanh(g(x)),
    "relu": lambda x, g: nn.relu(g(x)),
    "one_of_two": lambda x, g: nn.Dense(3, name="a")(g(x)) + jnp.sum(jnp.exp(g(x)), -1, keepdims=True),
    "max_pool": lambda x, g: nn.max_pool(g(x), (2, 2)),
    "bias": lambda x, g: g(x) + 1.0,
    "depthwise_bias": lambda x, g: g(nn.Conv(g.size, (3, 3), feature_group_count=g.size, name="dw")(g(x))),
    "square": lambda x, g: g(g(x)),
    "square_of_the_value": lambda x, g: g(x) * g(x),
    "gate": lambda x, g: x * jnp.sum(g(x), axis=-1, keepdims=True),
    "product_of_activations": lambda x, g: jnp.einsum("bhwc,bhvc->bhwv", g(x), x),
    "norm": lambda x, g: layers.LayerNorm(name="norm")(x, g),
    "batch_norm_after": lambda x, g: nn.BatchNorm(use_running_average=True, name="norm")(g(x)),
    "concatenated": lambda x, g: jnp.concatenate([g(x), x], axis=-1),
    "loop": lambda x, g: jax.lax.fori_loop(0, 2, lambda _, y: jnp.tanh(y), g(x)),
    "branch": lambda x, g: jax.lax.cond(jnp.sum(x) > 0, lambda y: y * 2, jnp.tanh, g(x)),
    "split_kernel": lambda x, g: nn.Dense(4, name="out")(jnp.sort(g(x), axis=1)),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_folded_or_inserted(name):
    check(model(OTHERS[name]), 2, 4, 4, 5)


def test_a_kernel_used_with_and_without_the_mask():
    class Twice(Searchable):
        @nn.compact
        def __call__(self, x):
            group = self.elements("width", 6)
            shared = nn.Dense(3, name="shared")
            y = nn.Dense(group.size, name="first")(x)
            return shared(group(y)) + shared(jnp.tanh(y))

    check(Twice(), 2, 5)


def test_a_kernel_used_twice_with_the_mask():
    class Twice(Searchable):
        @nn.compact
        def __call__(self, x):
            group = self.elements("width", 6)
            shared = nn.Dense(3, name="shared")
            y = nn.Dense(group.size, name="first")(x)
            return shared(group(y)) * shared(group(jnp.tanh(y)))

    check(Twice(), 2, 5)


def test_tied_embeddings_stay_on_activations():
    class Tied(Searchable):
        @nn.compact
        def __call__(self, x):
            width = self.elements("width", 6)
            table = nn.Embed(7, width.size, name="table")
            y = table(jnp.argmax(x, axis=-1))
            return table.attend(width(y)), nn.Dense(2, name="other")(width(jnp.tanh(y)))

    check(Tied(), 2, 4, 5)


@pytest.mark.parametrize("general", [False, True])
def test_attention_folds_heads_and_values_but_not_queries(general):
    """Masks of heads x dim merge into the output kernel; queries meet keys, which are activations."""

    class Attention(Searchable):
        @nn.compact
        def __call__(self, x):
            heads, qk, v = self.elements("heads", 3, kind="heads"), self.elements("qk", 4), self.elements("v", 5)
            q = nn.DenseGeneral((heads.size, qk.size), name="q")(x)
            k = nn.DenseGeneral((heads.size, qk.size), name="k")(x)
            value = nn.DenseGeneral((heads.size, v.size), name="value")(x)
            w = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", qk(q), k))
            y = heads(v(jnp.einsum("bhqk,bkhd->bqhd", w, value)), axis=2)
            if general:
                return nn.DenseGeneral(6, axis=(-2, -1), name="out")(y)
            return nn.Dense(6, name="out")(y.reshape(*y.shape[:2], -1))

    space = check(Attention(), 2, 4, 6)
    assert {"heads", "v"} <= folded(space)


def test_a_kernel_that_is_reshaped():
    class Reshaped(Searchable):
        merge: bool

        @nn.compact
        def __call__(self, x):
            a, b = self.elements("a", 2), self.elements("b", 3)
            y = nn.DenseGeneral((a.size, b.size), name="first")(x)
            y = b(a(y, axis=-2))
            if self.merge:  # the kernel is [a, b, 4], read as [a x b, 4]
                kernel = self.param("kernel", nn.initializers.normal(), (a.size, b.size, 4))
                return y.reshape(*y.shape[:-2], -1) @ kernel.reshape(-1, 4)
            kernel = self.param("kernel", nn.initializers.normal(), (a.size * b.size, 4))
            return jnp.einsum("...ab,abc->...c", y, kernel.reshape(a.size, b.size, 4))

    check(Reshaped(merge=True), 2, 5)
    check(Reshaped(merge=False), 2, 5)


def test_masks_and_gates_of_a_block():
    class Deep(Searchable):
        @nn.compact
        def __call__(self, x):
            depth = self.elements("depth", 2)
            for i in depth.kept:
                mid = self.elements(f"mid{i}", 4)
                y = mid(nn.relu(nn.Dense(mid.size, name=f"up{i}")(x)))
                x = x + depth.gate(i) * nn.Dense(x.shape[-1], name=f"down{i}")(y)
            return x

    space = check(Deep(), 2, 5)
    variables = random_variables(space)
    found, remaining = space.fold(variables, space.masks({"mid0": (1,)}))
    assert remaining == {}  # the gate is in the block's last kernel and bias
    chex.assert_trees_all_equal_shapes_and_dtypes(variables, found)
    params, folded = variables["params"], found["params"]
    np.testing.assert_array_equal(folded["down0"]["kernel"][np.array([0, 2, 3])], 0)
    np.testing.assert_array_equal(folded["down0"]["kernel"][1], params["down0"]["kernel"][1])
    assert folded["up0"]["kernel"] is params["up0"]["kernel"]


def test_scanned_layers_fold_into_stacked_kernels():
    class Body(Searchable):
        @nn.compact
        def __call__(self, x, _):
            mid = self.elements("mid", 4)
            return x + nn.Dense(x.shape[-1], name="down")(mid(nn.relu(nn.Dense(mid.size, name="up")(x)))), None

    class Scanned(Searchable):
        @nn.compact
        def __call__(self, x):
            stack = nn.scan(
                nn.remat(Body, prevent_cse=False),
                variable_axes={"params": 0},
                variable_broadcast="masks",
                split_rngs={"params": True},
                length=3,
            )
            return stack(name="layers")(x, None)[0]

    check(Scanned(), 2, 5)


@pytest.mark.parametrize("inside", [True, False])
def test_a_carry_that_gets_or_loses_its_mask_inside_the_loop(inside):
    """The kernel in the loop reads an unmasked value in one of the turns and a masked one in the other."""

    class Carried(Searchable):
        @nn.compact
        def __call__(self, x):
            group = self.elements("state", 5)
            within, around = (group, lambda h: h) if inside else (lambda h: h, group)
            w = self.param("w", nn.initializers.normal(1.0), (group.size, group.size))
            y = around(nn.Dense(group.size, name="first")(x))
            y = jax.lax.fori_loop(0, 2, lambda _, h: within(jnp.tanh(h @ w)), y)
            return nn.Dense(3, name="last")(around(y))

    check(Carried(), 2, 4)


def test_branches_with_and_without_the_mask():
    class Branching(Searchable):
        @nn.compact
        def __call__(self, x):
            group = self.elements("width", 5)
            y = nn.Dense(group.size, name="first")(x)
            for k, order in enumerate(([group, lambda t: t * 2.0], [lambda t: t * 2.0, group])):
                z = jax.lax.cond(jnp.sum(x) > 0, *order, y)
                x = x + nn.Dense(x.shape[-1], name=f"last{k}")(z)
            return x

    check(Branching(), 2, 4)


def test_a_carry_masked_in_every_turn():
    class Carried(Searchable):
        @nn.compact
        def __call__(self, x):
            group = self.elements("state", 5)
            w = self.param("w", nn.initializers.normal(1.0), (group.size, group.size))
            y = group(nn.Dense(group.size, name="first")(x))
            y = jax.lax.fori_loop(0, 2, lambda _, h: group(jnp.tanh(h @ w)), y)
            return nn.Dense(3, name="last")(y)

    check(Carried(), 2, 4)


def test_groups_may_be_missing_from_the_masks():
    space = SearchSpace.from_model(model(FOLDABLE["dense"]), jnp.ones((2, 5)))
    variables = random_variables(space)
    found, remaining = space.fold(variables, {})
    chex.assert_trees_all_equal(variables, found)
    assert remaining == {}


def test_bfloat16_parameters_keep_their_type():
    space = SearchSpace.from_model(model(FOLDABLE["dense"]), jnp.ones((2, 5)))
    variables = jax.tree.map(lambda x: x.astype(jnp.bfloat16), random_variables(space))
    found, _ = space.fold(variables, space.masks())
    chex.assert_trees_all_equal_shapes_and_dtypes(variables, found)


@pytest.mark.parametrize(("name", "size"), [("resnet20", 8), ("resnet50", 32)])
def test_a_resnet_folds_into_scales_and_biases_alone(name, size):
    space = SearchSpace.from_model(create(name, num_classes=10), jax.ShapeDtypeStruct((1, size, size, 3), "float32"))
    assert folded(space) == set(space.groups)
    factors = space._readings.plan_of(space.fn, space.example).factors
    paths = {space.parameters.paths[f.leaf].split("/")[-1] for several in factors.values() for f in several}
    assert paths == {"scale", "bias"}
