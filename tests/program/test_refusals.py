"""What no search can go through: errors that name the group, the operation and its line."""

# Linen's `apply` gives a value or a tuple, options come as dictionaries, and some arguments are wrong on purpose:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportIndexIssue=false, reportOptionalSubscript=false

import re
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dms_jax
from dms_jax import Searchable, SearchSpace, TracingError
from tests.counting import random_variables
from tests.laws.checking import Case, hold
from tests.traced import Model

HERE = Path(__file__).name


def refused(middle, *shape, match, group="width"):
    """The error names the group, the operation and the line of this file."""

    class Refused(Model):
        pass

    Refused.middle = lambda self, x, group: middle(x, group)
    with pytest.raises(TracingError, match=match) as caught:
        SearchSpace.from_model(Refused(), jax.ShapeDtypeStruct(shape or (2, 4, 5), jnp.float32))
    message = str(caught.value)
    assert f"group '{group}'" in message and "\n" not in message
    return message


BROKEN = {
    "sort": (lambda x, g: jnp.sort(g(x), axis=-1), "sort"),
    "argmax": (lambda x, g: x * jnp.argmax(g(x), axis=-1, keepdims=True), "argmax"),
    "fft": (lambda x, g: jnp.abs(jnp.fft.fft(g(x))), "fft"),
    "svd": (lambda x, g: g(x) * jnp.linalg.svd(g(x), compute_uv=False)[..., :1, None], "svd"),
    "strided": (lambda x, g: g(x)[..., ::2], "slice"),
    "pick": (lambda x, g: g(x)[..., 3:4] * x, "slice"),
    "pick_scalar": (lambda x, g: g(x)[..., 3], "slice"),
    "take": (lambda x, g: jnp.take(g(x), jnp.array([0, 3]), axis=-1), "gather"),
    "flip": (lambda x, g: g(x)[..., ::-1], "rev"),
    "window": (lambda x, g: jax.lax.reduce_window(g(x), 0.0, jax.lax.add, (1, 1, 2), (1,) * 3, "SAME"), "window"),
    "top_k": (lambda x, g: jax.lax.top_k(g(x), 2)[0], "top_k"),
    "unstack": (lambda x, g: jnp.unstack(g(x), axis=-1)[0], "unstack"),
    "dynamic": (lambda x, g: jax.lax.dynamic_slice_in_dim(g(x), 1, 3, axis=-1), "dynamic_slice"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_operations_that_give_positions_a_meaning(name):
    middle, operation = BROKEN[name]
    message = refused(lambda x, g: jnp.atleast_2d(middle(x, g)), match=operation)
    if name != "constant":  # a constant comes from no operation
        assert HERE in message, message
        line = int(message.split(f"{HERE}:")[1].split(" ")[0])
        assert f'"{name}"' in Path(__file__).read_text().splitlines()[line - 1]


HANDLED = {
    "softmax": lambda x, g: jax.nn.softmax(g(x)),
    "max": lambda x, g: x * jnp.max(g(x), axis=-1, keepdims=True),
    "product": lambda x, g: x * jnp.prod(g(x), axis=-1, keepdims=True),
    "cumprod": lambda x, g: jnp.cumprod(g(x), axis=-1),
    "mean": lambda x, g: g(x) - jnp.mean(g(x), axis=-1, keepdims=True),
    "mean_by_hand": lambda x, g: g(x) - jnp.sum(g(x), -1, keepdims=True) / 6,
    "mean_by_factor": lambda x, g: g(x) - (1 / 6) * jnp.sum(g(x), -1, keepdims=True),
    "variance": lambda x, g: g(x) / (1 + jnp.var(g(x), axis=-1, keepdims=True)),
    "iota": lambda x, g: g(x) + jnp.arange(6.0)[None, None],
    "constant": lambda x, g: g(x) + np.linspace(0, 1, 6, dtype=np.float32)[None, None],
    "one_hot": lambda x, g: g(x) * jax.nn.one_hot(2, 6)[None, None],
    "identity": lambda x, g: g(x) @ jnp.eye(6),
    "layer_norm": lambda x, g: g(nn.LayerNorm(name="norm")(x)),
    "rms_norm": lambda x, g: g(nn.RMSNorm(name="norm")(x)),
    "group_norm": lambda x, g: g(nn.GroupNorm(num_groups=1, name="norm")(x)),
    "a_reader_without_its_mask": lambda x, g: nn.Dense(4, name="a")(g(x)) + nn.Dense(4, name="b")(x),
    "a_masked_value_that_is_no_longer_zero": lambda x, g: jnp.sum(jnp.exp(g(x)), axis=-1, keepdims=True) * x,
    "masked_twice": lambda x, g: g(jnp.tanh(g(x))),
    "masked_never_after": lambda x, g: jax.nn.sigmoid(g(x)),
}  # fmt: skip


@pytest.mark.parametrize("name", HANDLED)
def test_what_a_module_could_not_mask_by_itself(name):
    """The engine puts masks where they are read, whatever the module does with its own."""

    class Handled(Model):
        def middle(self, x, group):
            return jnp.atleast_2d(HANDLED[name](x, group))

    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 5)), jnp.float32)
    space = SearchSpace.from_model(Handled(), x)
    assert set(space.groups) == {"width"}
    hold(Case(space.fn, space, random_variables(space), (x,)))


def test_group_norm_over_pieces_of_the_axis():
    message = refused(lambda x, g: nn.GroupNorm(num_groups=2, name="norm")(g(x)), match="splits its axis into 2 x 3")
    assert "declare a group for one of the factors" in message


def test_reshape_that_splits_the_axis():
    refused(lambda x, g: jnp.sum(g(x).reshape(*x.shape[:-1], 3, 2), -1), match="splits its axis into 3 x 2")


def test_grouped_convolution_splits_the_axis():
    refused(
        lambda x, g: nn.Conv(4, (3, 3), feature_group_count=2, name="grouped")(g(x)),
        1, 4, 4, 5,
        match="splits its axis into 2 x 3",
    )  # fmt: skip


class TwoGroups(Searchable):
    @nn.compact
    def __call__(self, x):
        a, b = self.elements("a", 6), self.elements("b", 6)
        y = nn.Dense(a.size, name="one")(x) + nn.Dense(b.size, name="two")(x)
        return nn.Dense(3, name="out")(b(a(y)))


def test_two_groups_on_one_axis():
    with pytest.raises(TracingError, match="its axis is also that of group 'a'.*declare one group"):
        SearchSpace.from_model(TwoGroups(), jnp.ones((2, 5)))


def test_elements_of_one_group_tied_together():
    refused(lambda x, g: g(x + jnp.roll(x, 2, axis=-1)), match="two of its own elements are tied together")


def test_product_inside_a_while_loop():
    class While(Model):
        def middle(self, x, group):
            w = self.param("w", nn.initializers.normal(), (group.size, group.size))
            return jax.lax.while_loop(lambda y: jnp.sum(y) > 1.0, lambda y: group(y @ w), x)

    space = SearchSpace.from_model(While(), jnp.ones((2, 5)))
    assert "macs" not in space.resources() and "params" in space.resources()
    assert re.search(f"dot_general at .*{HERE}.*`jax.lax.scan`.*`while` loop", space.uncounted["macs"])
    assert "`while` loop" in space.summary()


def test_a_group_that_slices_nothing():
    class Idle(Searchable):
        @nn.compact
        def __call__(self, x):
            self.elements("idle", 4)
            return nn.Dense(3)(x)

    with pytest.raises(TracingError, match="group 'idle' slices no parameter"):
        SearchSpace.from_model(Idle(), jnp.ones((2, 5)))


def test_masking_the_input_itself():
    class Input(Searchable):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(3)(self.elements("features", 5)(x))

    with pytest.raises(TracingError, match="group 'features'"):  # the input does not shrink with the network
        SearchSpace.from_model(Input(), jnp.ones((2, 5)))


def test_masking_the_output():
    class Output(Searchable):
        @nn.compact
        def __call__(self, x):
            group = self.elements("classes", 5)
            return group(nn.Dense(group.size)(x))

    with pytest.raises(TracingError, match="group 'classes'"):  # the outputs of both networks would differ in shape
        SearchSpace.from_model(Output(), jnp.ones((2, 5)))


def test_a_single_feature_beside_others():
    """An axis of size 1 says nothing about positions, so a group cannot own it."""

    class Beside(Searchable):
        @nn.compact
        def __call__(self, x):
            group = self.elements("both", 4)
            y = jnp.concatenate([nn.Dense(1, name="one")(x), nn.Dense(3, name="three")(x)], axis=-1)
            return nn.Dense(2, name="out")(group(y))

    with pytest.raises(TracingError, match="group 'both'.*concatenate"):
        SearchSpace.from_model(Beside(), jnp.ones((2, 5)))


def test_a_model_without_groups():
    with pytest.raises(dms_jax.UserError, match="Dense declares no groups"):
        SearchSpace.from_model(nn.Dense(3), jnp.ones((2, 5)))
