"""Masks and gates in what writes the axis: the same function and gradients, and no parameter that others see."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from dms_jax.writing import Factor, cheapest

from dms_jax import Searchable, SearchSpace, layers
from dms_jax.models import create
from tests.test_folding import FOLDABLE, REFUSED, check, model


@pytest.fixture(autouse=True)
def only_writes(monkeypatch):
    """Take what writes the axis wherever it can be taken, also where reading it is cheaper."""
    monkeypatch.setattr("dms_jax.space.cheapest", lambda groups, reads, writes, sizes: writes)


@pytest.mark.parametrize("name", FOLDABLE)
def test_what_kernels_read(name):
    check(model(FOLDABLE[name]), 2, 4, 4, 5)


@pytest.mark.parametrize("name", REFUSED)
def test_what_kernels_cannot_read(name):
    check(model(REFUSED[name][0]), 2, 4, 4, 5)


class Net(Searchable):
    """First dense and norm, something, last dense."""

    @nn.compact
    def __call__(self, x):
        group = self.elements("width", 6)
        x = nn.Dense(group.size, use_bias=False, name="first")(x)
        x = nn.BatchNorm(use_running_average=True, name="norm")(x)
        return self.rest(x, group)


def net(rest):
    class Made(Net):
        def rest(self, x, group):
            return rest(x, group)

    return Made()


def names(space):
    return {
        group: {("/".join(space._params[f.leaf][1:]), f.axis, f.element) for f in factors}
        for group, factors in space.folds.items()
    }


NORM = {("norm/scale", 0, None), ("norm/bias", 0, None)}

WRITTEN = {
    "relu": lambda x, g: nn.Dense(3)(g(nn.relu(x))),
    "two_readers": lambda x, g: nn.Dense(3, name="a")(g(nn.relu(x))) + nn.Dense(3, name="b")(g(nn.relu(x))),
    "max_pool": lambda x, g: nn.Conv(3, (3, 3), name="c")(g(nn.max_pool(nn.relu(x), (2, 2), (2, 2)))),
    "pooled": lambda x, g: nn.Dense(3)(g(jnp.mean(nn.relu(x), axis=(1, 2)))),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_a_normalisation_takes_the_mask(name):
    space = check(net(WRITTEN[name]), 2, 4, 4, 5)
    assert names(space)["width"] == NORM


NOT_WRITTEN = {
    "read unmasked too": lambda x, g: nn.Dense(3, name="a")(g(x)) + nn.Dense(3, name="b")(x),
    "not homogeneous": lambda x, g: nn.Dense(3)(g(nn.tanh(x))),
    "clipped": lambda x, g: nn.Dense(3)(g(nn.relu6(x))),
    "shifted": lambda x, g: nn.Dense(3)(g(x + 1.0)),
    "masked twice": lambda x, g: nn.Dense(3)(g(nn.relu(g(x)))),
    "squared": lambda x, g: nn.Dense(3)(g(x * x)),
    "an output": lambda x, g: (nn.Dense(3)(g(x)), jnp.sum(x, axis=-1)),
    "added to what nobody scales": lambda x, g: nn.Dense(3)(g(x + jnp.sum(x, axis=-1, keepdims=True))),
    "half of it masked": lambda x, g: nn.Dense(3, name="a")(g(x) + nn.tanh(x)),
}


@pytest.mark.parametrize("name", NOT_WRITTEN)
def test_stays_where_it_is(name):
    space = check(net(NOT_WRITTEN[name]), 2, 4, 4, 5)
    assert "width" not in space.folds


def test_a_norm_shared_with_somebody_else_stays():
    class Shared(Searchable):
        @nn.compact
        def __call__(self, x):
            group = self.elements("width", 5)
            norm = nn.LayerNorm(reduction_axes=(1,), feature_axes=-1, name="norm")
            x = nn.Dense(group.size, name="first")(x)
            return nn.Dense(3, name="a")(group(norm(x))) + nn.Dense(3, name="b")(jnp.tanh(norm(2.0 * x)))

    assert "width" not in check(Shared(), 2, 4, 5).folds


def test_a_residual_stream_is_scaled_by_all_that_is_added_to_it():
    class Stream(Searchable):
        @nn.compact
        def __call__(self, x):
            group, depth = self.elements("width", 6), self.elements("depth", 2)
            x = nn.Dense(group.size, name="stem")(x)
            for i in depth.kept:
                y = nn.relu(nn.Dense(4, name=f"up{i}")(group(x)))
                x = nn.relu(x + depth.gate(i) * nn.Dense(group.size, name=f"down{i}")(y))
            return nn.Dense(3, name="last")(group(x))

    found = names(check(Stream(), 2, 4, 5))
    both = {
        (f"{layer}/{leaf}", axis) for layer in ("stem", "down0", "down1") for leaf, axis in (("kernel", 1), ("bias", 0))
    }
    assert {(leaf, axis) for leaf, axis, _ in found["width"]} == both
    assert found["depth"] == {(f"down{i}/{leaf}", None, i) for i in (0, 1) for leaf in ("kernel", "bias")}


def test_a_gate_used_for_two_branches_of_a_block():
    class Two(Searchable):
        @nn.compact
        def __call__(self, x):
            depth = self.elements("depth", 2)
            for i in depth.kept:
                a = depth.gate(i) * nn.Dense(5, name=f"a{i}")(nn.relu(x))
                x = x + a + depth.gate(i) * nn.Dense(5, name=f"b{i}")(jnp.tanh(x + a))
            return x

    space = check(Two(), 2, 4, 5)
    assert len(space.folds["depth"]) == 8


def test_a_gate_on_what_has_no_parameters_stays():
    class Bare(Searchable):
        @nn.compact
        def __call__(self, x):
            depth = self.elements("depth", 1)
            y = jnp.tanh(nn.Dense(5, name="a")(x))
            return x + depth.gate(0) * y

    assert "depth" not in check(Bare(), 2, 4, 5).folds


def test_mask_aware_norms_keep_their_masks():
    class Normed(Searchable):
        @nn.compact
        def __call__(self, x):
            group = self.elements("width", 6)
            x = nn.Dense(group.size, name="first")(x)
            return nn.Dense(3, name="last")(layers.LayerNorm(name="norm")(x, group))

    assert "width" not in check(Normed(), 2, 4, 5).folds


@pytest.mark.parametrize(("name", "size"), [("resnet20", 8), ("resnet50", 32)])
def test_a_resnet_folds_into_scales_and_biases_alone(name, size):
    space = SearchSpace.from_model(create(name, num_classes=10), jax.ShapeDtypeStruct((1, size, size, 3), "float32"))
    assert set(space.folds) == set(space.groups)
    leaves = {space._params[f.leaf][-1] for factors in space.folds.values() for f in factors}
    assert leaves == {"scale", "bias"}


def test_groups_with_a_choice_go_where_others_went():
    """Kernels 0 and 1 of 10 numbers each, a bias of 2: the gate has no choice, the features do, at equal cost."""
    gate, read, write, bias = Factor(1, None, 0), Factor(0, 0), Factor(1, 1), Factor(2, 0)
    sizes = (10, 10, 2)
    reads, writes = {"features": (read,), "other": (read,)}, {"features": (write,), "gate": (gate,), "other": (bias,)}
    chosen = cheapest(["features", "gate", "other", "left alone"], reads, writes, sizes)
    assert chosen == {"features": (write,), "gate": (gate,), "other": (bias,)}
    assert cheapest(["features"], reads, writes, sizes) == {"features": (read,)}
    # half of a copied kernel is still more than a bias
    assert cheapest(["gate", "other"], {"other": (write,)}, writes, sizes)["other"] == (bias,)
