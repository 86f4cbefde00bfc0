"""Bytes of weights, and resources that no code of ours knows."""

# Some arguments are wrong on purpose:
# pyright: reportArgumentType=false, reportOptionalSubscript=false

from itertools import product

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dms_jax
from dms_jax import Resource, Search, SearchSpace, UserError
from dms_jax.budgets.own import RESERVED
from dms_jax.budgets.weights import Weights
from dms_jax.method.projection import project
from tests import tiny


@pytest.fixture(scope="module")
def model():
    return tiny.make()


@pytest.fixture(scope="module")
def space(model):
    return SearchSpace.from_model(model, tiny.EXAMPLE)


def perceptron(a=24, b=20, inputs=5):
    shapes, draw = {"a": (inputs, a), "b": (a, b), "c": (b, 3)}, np.random.default_rng(0)
    params = {name: jnp.asarray(draw.normal(size=shape), jnp.float32) for name, shape in shapes.items()}

    def fn(p, x):
        return jax.nn.relu(jax.nn.relu(x @ p["a"]) @ p["b"]) @ p["c"]

    return SearchSpace.from_function(fn, params, jnp.ones((1, inputs)))


def drawn(space, seed):
    rng, kept = np.random.default_rng(seed), {}
    for name, group in space.groups.items():
        number = int(rng.integers(group.least, group.size + 1))
        kept[name] = tuple(int(i) for i in np.sort(rng.choice(group.size, number, replace=False)))
    return kept


@hypothesis.settings(max_examples=20, deadline=None)
@hypothesis.given(st.integers(0, 2**16), st.sampled_from([None, "float32", "bfloat16", "float16"]))
def test_bytes_are_those_of_the_small_networks_arrays(space, model, seed, dtype):
    kept = drawn(space, seed)
    shapes = jax.eval_shape(lambda: dms_jax.shrink(space, tiny.variables(model), space.structure(kept)))
    size = 4 if dtype is None else jnp.dtype(dtype).itemsize
    expected = sum(size * leaf.size for leaf in jax.tree.leaves(shapes))  # statistics of BatchNorm included
    assert space.with_resources(Weights(dtype)).resources(kept)["weights"] == expected


def test_a_factor_quantises_kernels_and_leaves_vectors():
    space = perceptron().with_resources(Weights(factor=0.28125))
    assert space.resources()["weights"] == int(np.ceil(0.28125 * 4 * (5 * 24 + 24 * 20 + 20 * 3)))
    odd = {"a": tuple(range(7)), "b": tuple(range(3))}
    assert space.resources(odd)["weights"] == int(np.ceil(0.28125 * 4 * (5 * 7 + 7 * 3 + 3 * 3)))


@pytest.mark.parametrize("wrong", [{"dtype": "int8"}, {"factor": 0}, {"factor": 1.5}, {"factor": "half"}])
def test_impossible_options_of_weights(wrong):
    with pytest.raises(UserError, match="of weights"):
        Weights(**wrong)


def joules(kept):
    """Lanes of eight: what no polynomial is."""
    return float(np.prod([-(-n // 8) for n in kept.values()])) + 0.25


def test_a_resource_of_ones_own_is_in_every_place():
    space = perceptron().with_resources(Resource("energy", "mJ", joules))
    assert space.resources()["energy"] == 9.25 and space.smallest["energy"] == 1.25
    assert "energy each" in space.summary() and "energy: 1.25" in space.summary() and "fit to" in space.summary()
    search = Search(space, lambda p, b, k: jnp.sum(space.fn(p, b) ** 2), optax.sgd(1e-3), {"energy": "4.5 mJ"}, 5)
    state, step = search.init(space.source.params), jax.jit(search.step)
    for _ in range(5):
        state, metrics = step(state, jnp.ones((2, 5)), jax.random.key(0))
    assert 0 < metrics["energy"] <= 1.01 and metrics["energy_target"] == pytest.approx(4.5 / 9.25)
    structure = search.structure(state)
    assert 0 < structure.resources["after"]["energy"] <= 4.5
    assert dms_jax.Structure.from_json(structure.to_json()).resources == structure.resources
    assert all(len(kept) in (8, 16, 24, 20) for kept in structure.kept.values())  # to the last element of the lanes


def test_a_differentiable_form_is_used():
    space = perceptron()
    names = list(space.groups)
    own = Resource("one", "things", lambda kept: kept[names[0]], lambda kept: kept[names[0]] / 24)
    found, pull = jax.vjp(lambda m: space.with_resources(own).fractions(m)["one"], jnp.ones(44))
    assert found == 1 and np.allclose(pull(jnp.ones(()))[0], [1 / 24] * 24 + [0] * 20)


def test_a_fit_is_near_what_it_is_fitted_to_and_never_falls(space):
    own = Resource("work", "ops", lambda k: 3 + sum(n * n for n in k.values()) + 5 * sum(k.values()))
    cost = space.with_resources(own).costs["work"]
    for seed in range(20):
        counts = space._variables.counts(drawn(space, seed))
        exact = cost.exact(counts) / cost.full
        slope = jax.grad(lambda c, cost=cost: cost.fraction(c))(jnp.asarray(counts, jnp.float32))
        assert abs(cost.fraction(jnp.asarray(counts, jnp.float32)) - exact) < 0.02 and np.all(slope >= 0)


def test_elements_of_removed_blocks_are_not_there(space):
    seen = []
    own = Resource("seen", "things", lambda kept: seen.append(dict(kept)) or 1.0)
    some = space.with_resources(own)
    depth = next(name for name, group in space.groups.items() if group.kind == "depth")
    whole = {name: tuple(range(group.size)) for name, group in space.groups.items()}
    some.resources(whole | {depth: ()})
    inside = {axis for leaf in space.leaves.values() if leaf.gates for x in leaf.axes for axis in space.owners(x)}
    outside = {axis for leaf in space.leaves.values() if not leaf.gates for x in leaf.axes for axis in space.owners(x)}
    gone = {name for name, number in seen[-1].items() if number == 0}
    assert gone == (inside - outside) | {depth}


@pytest.mark.parametrize(
    "value",
    [
        -1,
        float("nan"),
        float("inf"),
        "much",
        None,
        [1, 2],
        10**400,
        True,
        np.bool_(True),
        jnp.asarray(True),
        jnp.complex64(1),
        np.array("7"),
        np.array(None),
        1j,
    ],
)
def test_functions_that_give_no_number(value):
    own = Resource("odd", "things", lambda kept: value)
    with pytest.raises(UserError, match="resource odd is .* must give a number of at least 0"):
        perceptron().with_resources(own)


@pytest.mark.parametrize("wrong", [lambda kept: 1 / 0, lambda kept: kept["c"], lambda kept: kept.a, lambda kept: [][0]])
def test_functions_that_fail(wrong):
    with pytest.raises(UserError, match=r"^exact of odd fails \(\w+Error: .*number of elements kept}, of a, b, ...$"):
        perceptron().with_resources(Resource("odd", "things", wrong))


def test_a_resource_of_nothing():
    with pytest.raises(UserError, match="resource none is 0.0 for the full network"):
        perceptron().with_resources(Resource("none", "things", lambda kept: 0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("two words", "mJ", joules), "resource name 'two words' is not possible"),
        *(((name, "mJ", joules), f"resource name {name} stands for something else") for name in sorted(RESERVED)),
        (("weight_macs", "mJ", joules), "resource name weight_macs stands for something else"),
        (("macs_target", "mJ", joules), "resource name macs_target stands for something else"),
        (("energy", " ", joules), "unit ' ' of energy is not possible"),
        (("energy", "%", joules), "unit '%' of energy is not possible"),
        (("energy", "mJ ", joules), "unit 'mJ ' of energy is not possible"),
        (("energy", "mJ", 3), "exact of energy 3 cannot be called"),
        (("energy", "mJ", lambda: 1.0), r"exact of energy takes \(\); it is called as exact of energy\(counts\)"),
        (("energy", "mJ", joules, lambda a, b: 1.0), "fraction of energy takes"),
        (("energy", "mJ", joules, None, lambda: 1.0), "measure of energy takes"),
    ],
)
def test_impossible_resources(arguments, message):
    with pytest.raises(UserError, match=message):
        Resource(*arguments)


@pytest.mark.parametrize(
    ("fraction", "message"),
    [
        (lambda kept: jnp.log(-kept["a"]), "is no number for the full network"),
        (lambda kept: jnp.sqrt(kept["a"] - 12.0) / jnp.sqrt(12.0), "or its slope, is no number for half of the elem"),
        (lambda kept: 0.0 * kept["a"], "is 0 for the full network; it is a share of what that has, 9.25 mJ"),
        (lambda kept: kept["a"] + kept["b"], "is 44 for the full network"),
        (lambda kept: -kept["a"] / 24, "is -1 for the full network"),
        (lambda kept: kept["a"][None] / 24, "cannot be followed"),
        (lambda kept: None, "cannot be followed"),
        (lambda kept: "much", "cannot be followed"),
        (lambda kept: float(kept["a"]) / 24, "cannot be followed"),
        (lambda kept: np.asarray(kept["a"]) / 24, "cannot be followed"),
        (lambda kept: kept["a"] / 24 if kept["a"] > 3 else kept["b"], "cannot be followed"),
        (lambda kept: kept["c"] / 24, r"cannot be followed \(KeyError"),
        (lambda kept: kept["a"] * 1j, "cannot be followed"),
    ],
)
def test_fractions_that_no_search_can_follow(fraction, message):
    with pytest.raises(UserError, match=f"^fraction of energy.* {message}") as error:
        perceptron().with_resources(Resource("energy", "mJ", joules, fraction))
    assert "\n" not in str(error.value)


def test_layers_of_a_scan_that_are_all_gone_leave_no_elements():
    draw = np.random.default_rng(0)
    params = {
        "stem": jnp.asarray(draw.normal(size=(3, 4)), jnp.float32),
        "u": jnp.asarray(draw.normal(size=(5, 4, 6)), jnp.float32),
        "d": jnp.asarray(draw.normal(size=(5, 6, 4)), jnp.float32),
    }

    def fn(p, x):
        layer = lambda h, w: (h + jax.nn.relu(h @ w[0]) @ w[1], None)  # noqa: E731
        return jax.lax.scan(layer, x @ p["stem"], (p["u"], p["d"]))[0]

    seen = []
    space = SearchSpace.from_function(fn, params, jnp.ones((2, 3)), include=("*",))
    space = space.with_resources(Resource("seen", "things", lambda kept: seen.append(dict(kept)) or 1.0))
    depth = next(name for name, group in space.groups.items() if group.kind == "depth")
    inner = next(name for name, group in space.groups.items() if group.size == 6)
    for layers in range(5):  # with all, it was called before
        kept = {name: tuple(range(group.size)) for name, group in space.groups.items()} | {depth: tuple(range(layers))}
        space.resources(kept)
        assert seen[-1][depth] == layers and seen[-1][inner] == (6 if layers else 0)
        assert all(n == space.groups[name].size for name, n in seen[-1].items() if name not in (depth, inner))


def test_what_is_no_resource_and_what_nobody_knows():
    space = perceptron()
    for wrong in ("energy", Resource, lambda network: 3, lambda network: "energy"):
        with pytest.raises(UserError, match="give a `dms_jax.Resource`"):
            space.with_resources(wrong)
    with pytest.raises(UserError, match=r"budget on \['energy'\]: give one on macs or params or weights"):
        Search(space, lambda p, b, k: jnp.zeros(()), None, {"energy": 0.5}, 5)


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(st.data())
def test_projection_on_steps_against_brute_force(data):
    """Two groups, a table of steps: what is kept fits, stands at ends of steps, and one more step does not fit."""
    space = perceptron(12, 10)
    (a, b) = space.groups
    wide, rows = data.draw(st.integers(2, 5)), data.draw(st.integers(2, 5))
    own = Resource("time", "ms", lambda k: 0.5 + -(-k[a] // wide) * 1.0 + -(-k[b] // rows) * 1.5)
    some = space.with_resources(own)
    budget = data.draw(st.floats(3.0, some.resources()["time"]))
    worth = {
        name: np.random.default_rng(data.draw(st.integers(0, 99))).uniform(size=g.size)
        for name, g in space.groups.items()
    }
    ratios = {name: data.draw(st.floats(0, 0.95)) for name in space.groups}
    kept = project(some, ratios, worth, {"time": budget})
    numbers = {name: len(each) for name, each in kept.items()}

    def time(x, y):
        return some.resources({a: tuple(range(x)), b: tuple(range(y))})["time"]

    now = time(numbers[a], numbers[b])
    assert now <= budget
    larger = [
        (x, y) for x, y in product(range(numbers[a], 13), range(numbers[b], 11)) if (x, y) != (numbers[a], numbers[b])
    ]
    assert not [each for each in larger if time(*each) <= budget]  # nothing larger fits: so no step is used in part
