"""Memory of a forward pass: predicted from what lives at once, and true as compiled."""

# pyright: reportArgumentType=false, reportOptionalSubscript=false, reportOptionalMemberAccess=false
# pyright: reportAttributeAccessIssue=false

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dms_jax
from dms_jax import Search, SearchSpace, UserError
from dms_jax.budgets.living import Peak, moments
from dms_jax.budgets.memory import Memory
from tests import tiny


def branched(a=40, b=24, batch=8):
    """x -> a -> b, with what was read still there while both are."""
    draw = np.random.default_rng(0)
    shapes = {"up": (16, a), "on": (a, b), "back": (b, 16)}
    params = {name: jnp.asarray(draw.normal(size=shape), jnp.float32) for name, shape in shapes.items()}

    def fn(p, x):
        y = jnp.tanh(x @ p["up"])
        z = jnp.tanh(y @ p["on"])
        return z @ p["back"]

    return SearchSpace.from_function(fn, params, jnp.ones((batch, 16)))


@pytest.fixture(scope="module")
def space():
    return SearchSpace.from_model(tiny.make(widths=(8, 16), stem=8), tiny.EXAMPLE).with_resources(Memory(batch=32))


def drawn(space, seed):
    rng, kept = np.random.default_rng(seed), {}
    for name, group in space.groups.items():
        number = int(rng.integers(max(group.least, 1), group.size + 1))
        kept[name] = tuple(int(i) for i in np.sort(rng.choice(group.size, number, replace=False)))
    return kept


def compiled(space, kept, batch):
    """The same by hand: from arrays, of what was shrunk from arrays."""
    params = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), space.parameters.template)
    x = jnp.zeros((batch, *space.example[0].shape[1:]), space.example[0].dtype)
    program = jax.jit(space.shrunk(space.fn, kept)).lower(dms_jax.shrink(space, params, kept), x).compile()
    found = program.memory_analysis()
    return found.argument_size_in_bytes + found.output_size_in_bytes + found.temp_size_in_bytes


def test_measured_is_what_the_compiler_says(space):
    for seed in range(3):
        kept = drawn(space, seed)
        assert space.measured(kept)["memory"] == compiled(space, kept, 32)
    assert space.measured()["memory"] == space.resources()["memory"] == space.costs["memory"].full


def test_arguments_and_outputs_are_in_it():
    space = branched().with_resources(Memory())
    for kept in ({"up": (0, 1), "on": (0, 1, 2)}, {}):
        sizes = {name: len(elements) for name, elements in space.kept(kept).items()}
        a, b = sizes["up"], sizes["on"]
        assert space.measured(kept)["memory"] >= 4 * (16 * a + a * b + b * 16 + 2 * 8 * 16)


def test_what_lives_at_once_is_the_largest_pair_of_neighbours():
    space = branched()
    weights, factors = moments(space._network)
    always = space.costs["weights"].polynomial
    peak = Peak("peak", "bytes", always, weights, factors)
    for a, b in itertools.product((1, 7, 40), (1, 5, 24)):
        kept = {"up": tuple(range(a)), "on": tuple(range(b))}
        counts = space._variables.counts(kept)
        arrays = 4 * (16 * a + a * b + b * 16)
        assert peak.exact(counts) == arrays + 4 * 8 * max(a + b, b + 16)  # input and output of one product


def test_the_soft_maximum_is_the_maximum_of_the_full_network_and_never_falls():
    space = branched().with_resources(Memory())
    cost = space.costs["memory"]
    sizes = jnp.asarray(space.variable_sizes, jnp.float32)
    assert cost.fraction(sizes) == pytest.approx(1, abs=1e-6)
    for seed in range(10):
        counts = space._variables.counts(drawn(space, seed))
        share = float(cost.exact(counts) / cost.full)
        assert float(cost.fraction(jnp.asarray(counts, jnp.float32))) == pytest.approx(share, rel=0.06)
        assert np.all(jax.grad(cost.fraction)(jnp.asarray(counts, jnp.float32)) >= 0)


def test_predictions_are_near(space):
    for seed in range(5):
        kept = drawn(space, seed)
        assert space.resources(kept)["memory"] == pytest.approx(
            space.measured(kept)["memory"], rel=0.5
        )  # tiny: what kernels need for themselves is much of it


def test_a_batch_needs_more(space):
    more = space.with_resources(Memory(batch=64)).costs["memory"].full
    assert space.costs["memory"].full < more < 2.2 * space.costs["memory"].full


@pytest.mark.parametrize("budget", [0.6, "20kB"])
def test_a_search_for_memory_holds_as_compiled(budget):
    model = tiny.make(widths=(8, 16), stem=8)
    space = SearchSpace.from_model(model, tiny.EXAMPLE)
    assert "memory" not in space.resources()  # until a budget names it: the network is compiled for it

    def loss(params, batch, key):
        logits = model.apply(params, batch["image"])
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean()

    search = Search(space, loss, optax.sgd(0.1), {"memory": budget}, steps=8)
    state, step = search.init(tiny.variables(model)), jax.jit(search.step)
    for i in range(8):
        state, metrics = step(state, tiny.batch_of(i), jax.random.key(0))
    assert 0 < metrics["memory"] <= 1 and metrics["memory_target"] < 1
    structure, most = search.structure(state), search.targets["memory"]
    assert structure.resources["after"]["memory"] == compiled(space, structure.kept, 1) <= most
    assert structure.resources["after"]["memory"] >= 0.9 * most  # channels are few, and large
    assert structure.resources["before"]["memory"] == compiled(space, {}, 1)
    assert set(structure.resources["predicted"]) == {"memory"}


def test_what_is_refused():
    with pytest.raises(UserError, match="batch of memory"):
        Memory(batch=0)
    space = branched()
    with pytest.raises(UserError, match="unknown unit 'ms'"):
        Search(space, lambda p, b, k: jnp.sum(p["up"]), None, {"memory": "3ms"}, 4)
    with pytest.raises(UserError, match="1e-05 .* is below .*, the smallest reachable"):
        Search(space, lambda p, b, k: jnp.sum(p["up"]), None, {"memory": 1e-5}, 4)
